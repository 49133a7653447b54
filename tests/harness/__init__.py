"""Shared by tests, chaos, bench and the demo: real servers, workers as processes, producers, a ledger, tree checks."""
