"""One tree of errors: what to do about each is its type.

- ``Unavailable``: try again. A server is away or cannot do its work now; entries stay pending, nothing is counted.
- ``Refused``: answer the producer. It carries a code of the contract and a message that holds nothing of the payload.
- ``GiveUp``: stop. A person has to change a setting, a key or a right before going on makes sense.

No message carries a value, a token or a key; server errors are reduced to their code (``OOM``, ``NOPERM``), since
servers quote arguments.
"""

from enum import StrEnum


class Retry(StrEnum):
    """Whether a producer may send a refused request again."""

    NEVER = "never"
    AFTER_A_FIX = "after a fix"
    YES = "yes"


class Code(StrEnum):
    """Why a request or an item was refused: a closed list, part of the contract."""

    INVALID_REQUEST = "invalid_request"
    UNKNOWN_TYPE = "unknown_type"
    VALUE_OUT_OF_RANGE = "value_out_of_range"
    VALUE_TOO_LARGE = "value_too_large"
    INVALID_EMAIL = "invalid_email"
    UNKNOWN_CLIENT = "unknown_client"
    UNKNOWN_ZONE = "unknown_zone"
    FORBIDDEN = "forbidden"
    TOKEN_NOT_FOUND = "token_not_found"
    TOKEN_DISABLED = "token_disabled"
    TOKEN_SPACE_EXHAUSTED = "token_space_exhausted"
    KEY_UNREADABLE = "key_unreadable"
    ENTRY_UNREADABLE = "entry_unreadable"
    VALUE_NOT_TEXT = "value_not_text"
    EXPIRED = "expired"
    INTERNAL = "internal"


RETRY: dict[Code, Retry] = {
    Code.INVALID_REQUEST: Retry.NEVER,
    Code.UNKNOWN_TYPE: Retry.NEVER,
    Code.VALUE_OUT_OF_RANGE: Retry.NEVER,
    Code.VALUE_TOO_LARGE: Retry.NEVER,
    Code.INVALID_EMAIL: Retry.NEVER,
    Code.UNKNOWN_CLIENT: Retry.AFTER_A_FIX,
    Code.UNKNOWN_ZONE: Retry.AFTER_A_FIX,
    Code.FORBIDDEN: Retry.AFTER_A_FIX,
    Code.TOKEN_NOT_FOUND: Retry.NEVER,
    Code.TOKEN_DISABLED: Retry.AFTER_A_FIX,
    Code.TOKEN_SPACE_EXHAUSTED: Retry.NEVER,
    Code.KEY_UNREADABLE: Retry.AFTER_A_FIX,
    Code.ENTRY_UNREADABLE: Retry.AFTER_A_FIX,
    Code.VALUE_NOT_TEXT: Retry.NEVER,
    Code.EXPIRED: Retry.YES,
    Code.INTERNAL: Retry.YES,
}
"""Whether to send again, by code."""


class TokenWorkerError(Exception):
    """Base of all errors that this package raises on purpose."""


class Unavailable(TokenWorkerError):  # noqa: N818 - reads as what it says: "except Unavailable"
    """A server cannot be used now: wait, then try again.

    Attributes:
        server: ``streams``, ``keys``, ``tokens`` or ``vault``.
        reason: the kind of failure (an exception's class or a server's error code), never its arguments.
    """

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(f"{server}: {reason}")
        self.server = server
        self.reason = reason


class Refused(TokenWorkerError):  # noqa: N818 - the same
    """A request or an item that gets an error instead of a value.

    Attributes:
        code: one of the contract's codes.
        message: the path of the field and what was expected, nothing of the payload.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class ServerError(TokenWorkerError):
    """A Redis server answered a command with an error that waiting does not mend.

    Attributes:
        server: which of the three.
        code: first word of the server's answer (``NOGROUP``, ``WRONGTYPE``, ``NOPERM``).
    """

    def __init__(self, server: str, code: str) -> None:
        super().__init__(f"{server}: {code}")
        self.server = server
        self.code = code


class TooMuch(TokenWorkerError):  # noqa: N818 - the same
    """A reply was longer than the caller can hold; the server did the command, and its connection is closed."""


class Damaged(TokenWorkerError):  # noqa: N818 - the same
    """Stored bytes that are not what they should be, or that a key does not open."""


class Finding(TokenWorkerError):  # noqa: N818 - the same
    """A command found what somebody has to look at, or could not do what it was asked for now: exit status 1."""


class GiveUp(TokenWorkerError):  # noqa: N818 - the same
    """Going on makes no sense before a person has changed something; the message says what."""


class SettingsError(GiveUp):
    """Settings that are missing, wrong or contradict each other."""


class MasterKeyError(GiveUp):
    """The master key cannot be had: no such secret or field, not base64, too short, no permission."""
