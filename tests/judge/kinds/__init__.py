"""The cases of each kind, in ``CASES`` of a module named as the kind's own module."""
