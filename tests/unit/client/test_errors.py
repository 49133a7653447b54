"""Errors of the client: a class for each code, one base, and no value in any text."""

from token_worker import client as client_module
from token_worker.client import (
    RequestRefused,
    SomeFailed,
    TokenClientError,
    TokenNotFound,
)
from token_worker.client.errors import refusal
from token_worker.errors import Code

MARKER = "4242-4242"


def test_every_code_has_a_class_of_its_own_that_is_exported() -> None:
    """A caller can name what to catch for each code of the contract, and finds it in the package."""
    classes = {code: type(refusal(code, "x")) for code in Code}
    assert len({*classes.values()}) == len(Code)
    for code, kind in classes.items():
        assert issubclass(kind, RequestRefused)
        assert kind.__name__ == "".join(word.capitalize() for word in code.split("_"))
        assert getattr(client_module, kind.__name__) is kind


def test_all_errors_have_one_base() -> None:
    """``except TokenClientError`` catches whatever the client raises on purpose."""
    kinds = [
        member for member in vars(client_module).values() if isinstance(member, type) and issubclass(member, Exception)
    ]
    assert len(kinds) > len(Code)
    assert all(issubclass(kind, TokenClientError) for kind in kinds)


def test_error_of_a_list_shows_no_value() -> None:
    """Tracebacks and logs of a list that failed in part have how many and why, and none of the answers."""
    error = SomeFailed([MARKER, TokenNotFound(Code.TOKEN_NOT_FOUND, "no such token"), MARKER])
    assert str(error) == "1 of 3 values were refused: token_not_found"
    assert MARKER not in f"{error!r} {error} {error:} {ExceptionGroup('x', [error])!r}"
    assert error.answers[0] == MARKER
