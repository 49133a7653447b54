"""Connections to Redis and Valkey: one server, Sentinels or a cluster; scripts, scans and sans-IO exchanges."""
