"""What operators see of a worker: its logs."""
