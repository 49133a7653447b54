"""Telemetry of a worker: logs, metrics, health, audit log and spans."""
