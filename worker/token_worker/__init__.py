"""Event-driven tokenization for Acra: requests in and replies out over Redis Streams."""

__version__ = "0.1.0"
