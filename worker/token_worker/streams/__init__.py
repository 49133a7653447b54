"""The delivery protocol on Redis Streams."""
