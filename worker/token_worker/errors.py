"""One tree of errors. The type of an error says what to do about it.

- ``Unavailable``: try again. A server is away or cannot do its work now. Entries stay pending; no attempt is counted.
- ``Refused``: answer the producer. The error has a code of the contract and a message without any of the payload.
- ``CheckFailed``: report it. A command found a problem, or cannot do its work now. Exit status 1.
- ``OperatorError``: stop. An operator has to change a setting, a key or a permission first. Exit status 2.

No message contains a value, a token or a key. Errors of servers are reduced to their code (``OOM``, ``NOPERM``),
because servers quote the arguments of a command.
"""

from enum import StrEnum


class Retry(StrEnum):
    """Advice to a producer about sending a refused request again."""

    NEVER = "never"
    AFTER_A_FIX = "after a fix"
    YES = "yes"


class Code(StrEnum):
    """Reason why a request or an item was refused. The list is closed and part of the contract."""

    INVALID_REQUEST = "invalid_request"
    UNKNOWN_TYPE = "unknown_type"
    VALUE_OUT_OF_RANGE = "value_out_of_range"
    VALUE_TOO_LARGE = "value_too_large"
    INVALID_EMAIL = "invalid_email"
    UNKNOWN_CLIENT = "unknown_client"
    UNKNOWN_ZONE = "unknown_zone"
    FORBIDDEN = "forbidden"
    FORMAT_NOT_ALLOWED = "format_not_allowed"
    FORMAT_CONFLICT = "format_conflict"
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
    Code.FORMAT_NOT_ALLOWED: Retry.AFTER_A_FIX,
    Code.FORMAT_CONFLICT: Retry.AFTER_A_FIX,
    Code.TOKEN_NOT_FOUND: Retry.NEVER,
    Code.TOKEN_DISABLED: Retry.AFTER_A_FIX,
    Code.TOKEN_SPACE_EXHAUSTED: Retry.NEVER,
    Code.KEY_UNREADABLE: Retry.AFTER_A_FIX,
    Code.ENTRY_UNREADABLE: Retry.AFTER_A_FIX,
    Code.VALUE_NOT_TEXT: Retry.NEVER,
    Code.EXPIRED: Retry.YES,
    Code.INTERNAL: Retry.YES,
}
"""For each code, whether the producer may send the request again."""


_PLACES = {
    "streams": "Redis for streams",
    "keys": "Redis for keys",
    "tokens": "Redis for tokens",
    "vault": "Vault",
    "audit": "audit log",
}
"""Names of the servers in error texts."""

_CLOSED = "connection closed"

_WORDS = {
    "ConnectionRefusedError": "connection refused",
    **dict.fromkeys(("ConnectionError", "ConnectionResetError", "ConnectionAbortedError", "BrokenPipeError"), _CLOSED),
    **dict.fromkeys(("SSLEOFError", "SSLZeroReturnError", "RemoteDisconnected", "ProtocolError"), _CLOSED),
    **dict.fromkeys(("TimeoutError", "ReadTimeout", "ConnectTimeout"), "no answer in time"),
    "gaierror": "unknown host name",
    "OSError": "host or network cannot be reached",
    "FileNotFoundError": "no such socket or file",
    "PermissionError": "no permission to use the socket or file",
    "SSLCertVerificationError": "TLS failed: its certificate is not trusted, or has another name",
    "SSLError": "TLS failed: perhaps this port has no TLS",
    "InvalidResponse": "unreadable reply",
    "WRONGPASS": "refuses the user or the password (WRONGPASS)",
    "NOAUTH": "wants a user and a password, and none is set (NOAUTH)",
    "NOPERM": "the user lacks a right (NOPERM)",
    "OOM": "its memory limit is reached (OOM)",
    "MISCONF": "cannot write to its disk (MISCONF)",
    "READONLY": "is no primary (READONLY)",
    "MASTERDOWN": "is a replica whose primary is away (MASTERDOWN)",
    "NOREPLICAS": "has too few replicas to take writes (NOREPLICAS)",
    "LOADING": "loads its data (LOADING)",
    "BUSY": "runs a long script (BUSY)",
    "CLUSTERDOWN": "the cluster is not whole (CLUSTERDOWN)",
    "TRYAGAIN": "slots of the cluster are on their way (TRYAGAIN)",
    "MOVED": "slots of the cluster are on their way (MOVED)",
    "DB": "has no such database (DB)",
    "ERR": "refuses a command (ERR)",
    "WRONGTYPE": "a key is of another type (WRONGTYPE)",
    "NOGROUP": "there is no such stream or consumer group (NOGROUP)",
    "sealed": "is sealed",
    "standby": "is on standby",
    "InternalServerError": "fails inside (status 500)",
    "BadGateway": "the proxy before it gets no answer (status 502)",
    "VaultDown": "is down (status 503)",
    "RateLimitExceeded": "gets too many requests (status 429)",
    "CLUSTER SLOTS": "no node gives the map of slots",
    "Sentinel": "no Sentinel names the primary",
    "ROLE": "does not tell its role",
    "LAYOUT": "its record of the layout does not fit (LAYOUT)",
}
"""Reasons in words, by the class of an exception or the code of a server."""


def in_words(reason: str) -> str:
    """Say a reason in words. A reason that is no known class or code is words already."""
    if reason in _WORDS:
        return _WORDS[reason]
    first, _, last = reason.rpartition(" ")
    command, _, database = first.partition(" ")
    if command == "SELECT":
        return (
            f"SELECT of database {database} was refused: the number in the address is wrong, or the user lacks the"
            f" right +select ({last})"
        )
    return f"{_WORDS[first]}: {in_words(last)}" if first in _WORDS else reason


def _place(server: str, address: str) -> str:
    what = _PLACES.get(server, server)
    if address:
        return f"{what} at {address}"
    return "key storage" if server == "keys" else what  # it may be Vault


class TokenWorkerError(Exception):
    """Base of all errors that this package raises on purpose."""


class Unavailable(TokenWorkerError):  # noqa: N818 - "except Unavailable" reads well
    """A server cannot be used now. Wait, then try again. The text names server, address and reason in words.

    Attributes:
        server: ``streams``, ``keys``, ``tokens``, ``vault`` or ``audit``.
        reason: class of the exception or error code of the server, without arguments; or words.
        address: where the server is, without user and password; empty if it is not known.

    Args:
        server: see above.
        reason: see above.
        address: see above.
        words: the reason in words that say more than ``in_words``.
    """

    def __init__(self, server: str, reason: str, address: str = "", words: str = "") -> None:
        super().__init__(f"{_place(server, address)}: {words or in_words(reason)}")
        self.server = server
        self.reason = reason
        self.address = address


class LoginRefused(Unavailable):
    """A server refuses the user or the password. A worker tries again, and reads the password file anew each time.

    Commands end with exit status 2.
    """


class Refused(TokenWorkerError):  # noqa: N818 - as above
    """A request or an item gets an error instead of a value.

    Attributes:
        code: a code of the contract.
        message: path of the member and what was expected there, without any of the payload.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class ServerError(TokenWorkerError):
    """A Redis server answered a command with an error, and the same command would fail again.

    Attributes:
        server: ``streams``, ``keys`` or ``tokens``.
        code: first word of the error (``NOGROUP``, ``WRONGTYPE``, ``NOPERM``).
        address: as of ``Unavailable``.
    """

    def __init__(self, server: str, code: str, address: str = "") -> None:
        super().__init__(f"{_place(server, address)}: {in_words(code)}")
        self.server = server
        self.code = code
        self.address = address


class ReplyTooLarge(TokenWorkerError):  # noqa: N818 - as above
    """A reply is larger than the caller accepts. The server did the command; the connection is closed."""


class CorruptData(TokenWorkerError):  # noqa: N818 - as above
    """Stored bytes have the wrong form, or a key does not decrypt them."""


class CheckFailed(TokenWorkerError):  # noqa: N818 - as above
    """A command found a problem that a person has to look at, or it cannot do its work now: exit status 1."""


class NoKeyOpens(Unavailable):
    """The master key opens none of the keys that were tried, or there are no keys of Acra's in the folder."""

    def __init__(self, why: str) -> None:
        super().__init__("keys", why)
        self.args = (why,)


class OperatorError(TokenWorkerError):
    """An operator has to change something before the program can go on. The message says what: exit status 2."""


class SettingsError(OperatorError):
    """Settings are missing or wrong, or contradict each other."""


class MasterKeyError(OperatorError):
    """The master key cannot be read: no such secret or field, not base64, too short, or no permission."""


class VaultRefused(MasterKeyError):  # noqa: N818 - as above
    """Vault answers, but refuses, or lacks what is needed. That can be mended there, so a worker tries again."""
