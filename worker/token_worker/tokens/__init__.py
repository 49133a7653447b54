"""How tokens are made: the derivation, whose docstring is the specification, and the formats. All of it is pure."""
