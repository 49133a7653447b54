"""What a format is: how a new token of a type is drawn, and which values it takes. Pure.

A format belongs to ``str`` or ``email``. Its tokens are stored under that type, as any others. Each module beside this
one defines a *kind*: the parameters that the settings can give it, and the class of its formats. A format is a kind
with its parameters set, under a name.

Rules that hold for every format, whatever its kind:

- A token depends on the derivation's stream of bytes, on the value, and on the definition: kind, version, and the
  parameters that change a token. It depends on nothing else. All other parameters only refuse values.
- ``could_draw`` is True for every token that ``draw`` returns for the same value.
- ``draw`` takes only values for which ``problem`` returns None. It needs no more than a few draws on average. A value
  with a space of 0 is always refused: ``min_space`` is at least 1.
- No text contains a value.
"""

import json
from abc import ABC, abstractmethod
from enum import StrEnum
from typing import Annotated, ClassVar, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from token_worker.acra.value_types import STR, TokenType
from token_worker.tokens.derivation import ByteStream, lp

Spelling = Literal["as-is", "canonical"]
Separators = Literal["keep", "refuse"]


class TokenCheck(StrEnum):
    """Choices whether tokens pass the kind's own check, such as a check digit."""

    INVALID = "invalid"
    VALID = "valid"
    ANY = "any"


MinSpace = Annotated[int, Meta(ge=1, le=2**53)]


class FormatError(ValueError):
    """A parameter of a format is wrong, or does not go with another.

    Attributes:
        parameter: name of the parameter to change.
    """

    def __init__(self, parameter: str, text: str) -> None:
        super().__init__(text)
        self.parameter = parameter


class BaseParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of a kind whose values all have more tokens than ``min_space`` can ask for."""


class Parameters(BaseParameters, frozen=True, kw_only=True):
    """Parameters of a kind. Each kind adds its own, and sets the defaults.

    Attributes:
        min_space: a value that can have fewer tokens than this, before the kind's own check, is refused.
    """

    min_space: MinSpace


P = TypeVar("P", bound=BaseParameters)
V = TypeVar("V")


class Format(ABC, Generic[P, V]):
    """A kind with its parameters, under a name. ``P`` is the type of the parameters, ``V`` of a value that was read.

    Args:
        name: the name that requests and routes use.
        parameters: the parameters of the kind.

    Attributes:
        kind: name of the kind.
        version: version of the kind's drawing. A change of what is drawn raises it.
        value_type: the type of the values and tokens.
        parameters_type: the type of the parameters. Its defaults make the built-in format.
        expected: what a value must be, to be read after "expected".
        field: ``LP(form)`` of the derivation: the definition with its length.

    Raises:
        FormatError: a parameter is wrong, or no value can meet ``min_space``.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    value_type: ClassVar[TokenType] = STR
    parameters_type: ClassVar[type[BaseParameters]]

    def __init__(self, name: str, parameters: P) -> None:
        self.name = name
        self.parameters = parameters
        self.expected = self._expected()
        members = {"kind": self.kind, "type": self.value_type.name, "version": self.version, **self._drawing()}
        self.field = lp(json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
        self._min_space = parameters.min_space if isinstance(parameters, Parameters) else 1
        largest = self._largest_space()
        if largest < self._min_space:
            text = f"no value can have {self._min_space:,} tokens, at most {largest:,}"
            raise FormatError("min_space", f"{text}; lower it, or keep less of the value")

    def problem(self, value: bytes) -> str | None:
        """Return what was expected instead of this value, to be read after "expected". None if the value fits."""
        read = self._read(value)
        if read is None:
            return self.expected
        problem = self._problem(read)
        if problem is None and self._space(read) < self._min_space:
            return f"a value that can have at least {self._min_space:,} tokens of this format"
        return problem

    def draw(self, stream: ByteStream, value: bytes) -> bytes:
        """Draw a token for a value that fits."""
        return self._draw(stream, self._reread(value))

    def space(self, value: bytes) -> int:
        """Return the number of tokens that a value that fits can have, before the kind's own check: its *space*.

        It decides how many candidates there are. A space above 2^64 may be cut to 2^64.
        """
        read = self._read(value)
        return 0 if read is None else self._space(read)

    def could_draw(self, value: bytes, token: bytes) -> bool:
        """Return True if this format could have drawn this token for this value, which fits."""
        return token != value and self._could_draw(self._reread(value), token)

    @abstractmethod
    def _expected(self) -> str:
        """Describe the values that fit, to be read after "expected"."""

    @abstractmethod
    def _drawing(self) -> dict[str, str | int | bool]:
        """Return every parameter that changes a token."""

    @abstractmethod
    def _largest_space(self) -> int:
        """Return the number of tokens that a value can have at best."""

    @abstractmethod
    def _read(self, value: bytes) -> V | None:
        """Read a value. None: it is not what ``expected`` says."""

    def _reread(self, value: bytes) -> V:
        """Read a value that is known to fit. A kind overrides it if that is cheaper than ``_read``."""
        read = self._read(value)
        if read is None:
            raise ValueError("the value does not fit the format")
        return read

    def _problem(self, read: V) -> str | None:  # noqa: ARG002 - kinds that refuse more override it
        """Return what was expected instead of a value that was read: one without a mark, say. None: it fits."""
        return None

    @abstractmethod
    def _space(self, read: V) -> int:
        """Return the number of tokens of a value, before the kind's own check."""

    @abstractmethod
    def _draw(self, stream: ByteStream, read: V) -> bytes:
        """Draw a token."""

    @abstractmethod
    def _could_draw(self, read: V, token: bytes) -> bool:
        """Return True if this format could have drawn this token for the value."""


NOT_A_TOKEN = "a value that does not look like a token of this format"  # noqa: S105 - not a secret
"""What is expected instead of a value with the mark of the kind's tokens."""
