"""Errors of a call: there is no reply, for a known reason, or the workers refused it. All are ``TokenClientError``.

Each code of the contract has its own class, so that a caller can catch just the error that it can handle. No message
contains a value or a token.
"""

from collections.abc import Sequence
from typing import Final

from token_worker.errors import RETRY, Code, Retry, TokenWorkerError


class TokenClientError(TokenWorkerError):
    """Base of all errors that a client raises on purpose."""


class NotAnswered(TokenClientError):
    """No reply came. A worker may have handled the request, or not. It is safe to repeat a consistent request."""


class TimedOut(NotAnswered):
    """The request was sent, and no reply came in time: no worker runs, or all workers are busy or wait for a server."""


class StreamsUnavailable(NotAnswered):
    """The Redis of the streams could not be used before the time-out. The text says why."""


class StreamsRefused(TokenClientError):
    """The Redis of the streams refuses the request, for example because the ACL user lacks a permission.

    Attributes:
        code: first word of the server's error (``NOPERM``, ``WRONGTYPE``).
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return f"the Redis of the streams refuses the request: {self.code}"


class ClientClosed(TokenClientError):
    """The client was closed, before the call or while the call waited."""


class BadReply(TokenClientError):
    """A reply does not follow the contract. Its sender is not a token worker, or is a newer one."""


class RequestRefused(TokenClientError):
    """The workers answered with an error, for one value or for the whole request.

    Attributes:
        code: a code of the contract, or plain text if a newer worker sends a code that this version does not know.
        message: path of the member and what was expected there, without any of the value.
    """

    def __init__(self, code: Code | str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    @property
    def retry(self) -> Retry:
        """Advice about sending the request again."""
        return RETRY[self.code] if isinstance(self.code, Code) else Retry.AFTER_A_FIX


class InvalidRequest(RequestRefused):
    """The request or the value does not have the form it must have."""


class UnknownType(RequestRefused):
    """There is no such type."""


class ValueOutOfRange(RequestRefused):
    """The value is out of range for its type: too large or too small, or empty; or it does not fit the format."""


class ValueTooLarge(RequestRefused):
    """The value is longer than the workers accept."""


class InvalidEmail(RequestRefused):
    """The value is not an e-mail address, or no token of the same length exists for it."""


class UnknownClient(RequestRefused):
    """The client has no key."""


class UnknownZone(RequestRefused):
    """The zone has no key."""


class Forbidden(RequestRefused):
    """The route does not allow this operation, client, zone or stream for the reply."""


class FormatNotAllowed(RequestRefused):
    """The route does not allow the format, or that there is none; or the format is unknown or for another type."""


class FormatConflict(RequestRefused):
    """The value has a token of another form, and the route refuses such tokens."""


class TokenNotFound(RequestRefused):
    """This client has no such token of this type."""


class TokenDisabled(RequestRefused):
    """The token exists and has been disabled."""


class TokenSpaceExhausted(RequestRefused):
    """No free token was found for the value."""


class KeyUnreadable(RequestRefused):
    """The master key does not open the client's key."""


class EntryUnreadable(RequestRefused):
    """The stored entry is damaged, or it is sealed with a key that does not exist any more."""


class ValueNotText(RequestRefused):
    """The value exists but is not UTF-8 text. Ask for it ``as`` bytes, with an ``Item``."""


class Expired(RequestRefused):
    """A worker read the request only after its time-out."""


class Internal(RequestRefused):
    """The workers failed on this request several times."""


class SomeFailed(TokenClientError):
    """Some values of a list were refused. The others were answered.

    Attributes:
        answers: one for each value, in the order of the list: the result, or a ``RequestRefused``. None stays None.
    """

    def __init__(self, answers: "Sequence[int | str | bytes | RequestRefused | None]") -> None:
        super().__init__(answers)
        self.answers = [*answers]

    def __str__(self) -> str:  # the default would show the values
        errors = [answer for answer in self.answers if isinstance(answer, RequestRefused)]
        codes = ", ".join(dict.fromkeys(str(error.code) for error in errors))
        return f"{len(errors)} of {len(self.answers)} values were refused: {codes}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


_BY_CODE: Final[dict[Code, type[RequestRefused]]] = {
    Code.INVALID_REQUEST: InvalidRequest,
    Code.UNKNOWN_TYPE: UnknownType,
    Code.VALUE_OUT_OF_RANGE: ValueOutOfRange,
    Code.VALUE_TOO_LARGE: ValueTooLarge,
    Code.INVALID_EMAIL: InvalidEmail,
    Code.UNKNOWN_CLIENT: UnknownClient,
    Code.UNKNOWN_ZONE: UnknownZone,
    Code.FORBIDDEN: Forbidden,
    Code.FORMAT_NOT_ALLOWED: FormatNotAllowed,
    Code.FORMAT_CONFLICT: FormatConflict,
    Code.TOKEN_NOT_FOUND: TokenNotFound,
    Code.TOKEN_DISABLED: TokenDisabled,
    Code.TOKEN_SPACE_EXHAUSTED: TokenSpaceExhausted,
    Code.KEY_UNREADABLE: KeyUnreadable,
    Code.ENTRY_UNREADABLE: EntryUnreadable,
    Code.VALUE_NOT_TEXT: ValueNotText,
    Code.EXPIRED: Expired,
    Code.INTERNAL: Internal,
}


def refusal(code: str, message: str) -> RequestRefused:
    """Make the error for a code, in the class of this code."""
    try:
        known = Code(code)
    except ValueError:
        return RequestRefused(code, message)
    return _BY_CODE[known](known, message)
