"""The cases of all kinds. They stand in ``kinds``, in ``CASES`` of a module named as the kind's own module."""

from importlib import import_module

from judge.case import Case
from token_worker.tokens.formats import KINDS


def cases_of(kind: str) -> list[Case]:
    """Return the cases of a kind."""
    _, _, module = KINDS[kind].__module__.rpartition(".")
    found: list[Case] = import_module(f"judge.kinds.{module}").CASES
    return found


def all_cases() -> list[Case]:
    """Return the cases of all kinds."""
    return [case for kind in KINDS for case in cases_of(kind)]
