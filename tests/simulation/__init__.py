"""Deterministic simulation: workers as in production on a model of a server, with faults; every step is checked."""
