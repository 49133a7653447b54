"""Errors of redis-py and of servers, as codes and as this package's own types."""

import redis

from token_worker.errors import ServerError, Unavailable

_CODES: dict[type[Exception], str] = {
    redis.exceptions.BusyLoadingError: "LOADING",
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.AuthenticationError: "WRONGPASS",
    redis.exceptions.NoScriptError: "NOSCRIPT",
    redis.exceptions.MasterDownError: "MASTERDOWN",  # before its base class
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.ClusterCrossSlotError: "CROSSSLOT",
    redis.exceptions.TryAgainError: "TRYAGAIN",
    redis.exceptions.MovedError: "MOVED",  # before its base class
    redis.exceptions.AskError: "ASK",
}
"""Codes of errors whose first word redis-py removes."""

_WAIT_FOR = frozenset(
    {
        "LOADING",
        "BUSY",
        "READONLY",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "OOM",
        "MISCONF",
        "NOREPLICAS",
        "NOAUTH",
        "WRONGPASS",
    }
)
"""Codes of a server that cannot or will not do its work now. Time or an operator mends them."""

_NOT_PRIMARY = frozenset({"READONLY", "MASTERDOWN", "NOREPLICAS", "UNBLOCKED"})
"""Codes of a server that is no primary, or may soon be none."""


class ScriptUnknownError(ServerError):
    """The server does not know the script: it was restarted, or its scripts were flushed."""


def error_code(error: redis.RedisError) -> str:
    """Return the first word of a server's error (``NOGROUP``), or the kind of a failure (``ConnectionRefusedError``).

    The rest of the error is left out on purpose, because servers quote arguments.
    """
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return code
    if isinstance(error, redis.ResponseError):
        word = str(error).partition(" ")[0]
        return word if word.isascii() and word.isalpha() and word.isupper() else "ERR"
    cause: BaseException = error
    while cause.__context__ is not None:  # redis-py wraps the errors of sockets and TLS
        cause = cause.__context__
    return type(cause).__name__


def is_from_primary(error: redis.RedisError) -> bool:
    """Return True if an error comes from a server that is still the primary. Its connection can be used on."""
    return isinstance(error, redis.ResponseError) and error_code(error) not in _NOT_PRIMARY


def typed(name: str, error: redis.RedisError, *, raise_server_errors: bool) -> Unavailable | ServerError:
    """Make the error to raise for one of redis-py.

    Args:
        name: name of the link.
        error: the error of redis-py.
        raise_server_errors: whether an error that waiting does not mend becomes a ``ServerError``. If not, every error
            becomes ``Unavailable``.
    """
    code = error_code(error)
    if raise_server_errors and isinstance(error, redis.ResponseError) and code not in _WAIT_FOR:
        return ServerError(name, code)
    return Unavailable(name, code)
