"""Derivation of tokens, whose docstring is the specification, and the engine. Both are pure: they use no server."""
