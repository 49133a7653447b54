"""The error of a promise that is not kept."""


class Broken(AssertionError):  # noqa: N818 - reads as what it says: a promise is broken
    """A promise is broken: which, and the entry."""
