"""Event-driven tokenization for Acra: requests in and replies out over Redis Streams."""
