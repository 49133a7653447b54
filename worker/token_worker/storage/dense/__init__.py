"""The dense layout of the token storage: small entries with keyed names."""
