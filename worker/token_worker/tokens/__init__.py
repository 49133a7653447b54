"""Derivation of tokens (its docstring is the specification) and the engine: pure, no server."""
