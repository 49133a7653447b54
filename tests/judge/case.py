"""Cases of a kind of format: values, an independent judge, and the parts of a value that stay."""

from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from token_worker.tokens.formats import KINDS, AnyFormat


class Case(NamedTuple):
    """A kind with parameters, and what is expected of its tokens.

    Attributes:
        kind: name of the kind.
        values: makes a value that fits, at random.
        kept: returns what a value and its token have in common.
        parameters: parameters that differ from the defaults.
        judge: says whether a text is a real one of its sort. It uses none of the product's code.
        accepted: whether the judge accepts every token. If not, it accepts none.
        refused: whether tokens are refused as values.
        values_most: most values that are to get a token. The space of tokens must have room for all of them.
    """

    kind: str
    values: Callable[[Random], str]
    kept: Callable[[str], object]
    parameters: Mapping[str, Any] = MappingProxyType({})
    judge: Callable[[str], bool] | None = None
    accepted: bool = False
    refused: bool = False
    values_most: int = 2**53

    @property
    def name(self) -> str:
        """The kind with its parameters."""
        return " ".join([self.kind, *(f"{name}={value}" for name, value in self.parameters.items())])

    def format(self) -> AnyFormat:
        """Make the format."""
        kind = KINDS[self.kind]
        return kind(self.kind, msgspec.convert(dict(self.parameters), kind.parameters_type))


def digits(random: Random, count: int) -> str:
    """Choose so many ASCII digits."""
    return f"{random.randrange(10**count):0{count}}"
