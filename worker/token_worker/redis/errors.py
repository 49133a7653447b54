"""Errors of redis-py and of servers, as codes and as this package's own types."""

import redis

from token_worker.errors import LoginRefused, ServerError, SettingsError, Unavailable

_CODES: dict[type[Exception], str] = {
    redis.exceptions.BusyLoadingError: "LOADING",
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.AuthenticationError: "WRONGPASS",  # NOAUTH, too: see ``RedisLink._typed``
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
        "DB",
    }
)
"""Codes of a server that cannot or will not do its work now. Time or an operator mends them."""

_LOGIN = frozenset({"NOAUTH", "WRONGPASS"})
"""Codes of a server that refuses the user or the password."""

_NOT_PRIMARY = frozenset({"READONLY", "MASTERDOWN", "NOREPLICAS", "UNBLOCKED"})
"""Codes of a server that is no primary, or may soon be none."""


class ScriptUnknownError(ServerError):
    """The server does not know the script: it was restarted, or its scripts were flushed."""


class SelectRefusedError(redis.ResponseError):
    """The server refuses SELECT, the last command of a log-in. The text is the code: ``SELECT 3 NOPERM``."""


def select_refusal(error: redis.RedisError, database: int) -> redis.RedisError:
    """Return the error of a log-in, as a ``SelectRefusedError`` if SELECT of this database was refused.

    redis-py passes over other commands of a log-in that are refused. With database 0 it sends no SELECT.
    """
    code = error_code(error)
    if database and code in ("NOPERM", "SELECT"):  # the latter in a cluster: "SELECT is not allowed in cluster mode"
        return SelectRefusedError(f"SELECT {database} {'NOPERM' if code == 'NOPERM' else 'ERR'}")
    return error


def error_code(error: redis.RedisError) -> str:
    """Return the first word of a server's error (``NOGROUP``), or the kind of a failure (``ConnectionRefusedError``).

    The rest of the error is left out on purpose, because servers quote arguments.
    """
    if isinstance(error, SelectRefusedError):
        return str(error)
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


def typed(
    name: str, error: redis.RedisError, *, raise_server_errors: bool, address: str = ""
) -> Unavailable | ServerError:
    """Make the error to raise for one of redis-py.

    Args:
        name: name of the link.
        error: the error of redis-py.
        raise_server_errors: whether an error that waiting does not mend becomes a ``ServerError``. If not, every error
            becomes ``Unavailable``.
        address: where the server is.
    """
    code = error_code(error)
    if code in _LOGIN:
        return LoginRefused(name, code, address)
    if isinstance(error, SelectRefusedError):
        return Unavailable(name, code, address)  # no command can be sent
    if raise_server_errors and isinstance(error, redis.ResponseError) and code not in _WAIT_FOR:
        return ServerError(name, code, address)
    return Unavailable(name, code, address)


def check_first_answer(name: str, error: redis.RedisError, address: str, database: int) -> None:
    """Find settings that no server can mend, by the error of the first connection.

    Raises:
        SettingsError: the server does not speak Redis, or has no database of that number.
    """
    variable = f"TOKEN_WORKER_{name.upper()}_URL"
    if isinstance(error, redis.exceptions.InvalidResponse):
        raise SettingsError(f"{address} does not speak Redis: set {variable}, or its default, to a Redis or Valkey")
    if error_code(error) == "DB":
        raise SettingsError(
            f"{address} has no database {database}: set a smaller number in {variable}, or in its default"
        )
