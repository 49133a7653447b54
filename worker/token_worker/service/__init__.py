"""The worker: reads batches, handles them, commits the replies, drains."""
