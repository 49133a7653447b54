"""Event-driven tokenization for Acra: requests in and replies out over Redis Streams."""

from importlib.metadata import version

__version__ = version("token-worker")
