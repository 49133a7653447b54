"""What can go wrong with a call: no answer came (and why), or the workers refused it. All are ``TokenClientError``.

There is a class for each code of the contract, so that a caller can catch the one it knows what to do about. No message
holds a value or a token.
"""

from collections.abc import Sequence
from typing import Final

from token_worker.errors import RETRY, Code, Retry, TokenWorkerError


class TokenClientError(TokenWorkerError):
    """Base of all errors that a client raises on purpose."""


class NotAnswered(TokenClientError):
    """No reply came. Whether the request was worked on is not known; a consistent one can simply be sent again."""


class TimedOut(NotAnswered):
    """The request was sent, and no reply came in time: no worker runs, or all are too busy or wait for a server."""


class StreamsUnavailable(NotAnswered):
    """The Redis of the streams could not be used until the time was up; the text says why."""


class StreamsRefused(TokenClientError):
    """The Redis of the streams refuses the request: a right is missing, say, or the stream's name is taken.

    Attributes:
        code: first word of the server's answer (``NOPERM``, ``WRONGTYPE``).
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return f"the Redis of the streams refuses the request: {self.code}"


class ClientClosed(TokenClientError):
    """The client was closed, before the call or while it waited."""


class BadReply(TokenClientError):
    """A reply that is none of the contract's: what answers there is no token worker, or a newer one."""


class RequestRefused(TokenClientError):
    """The workers answered with an error: for one value, or for the request as a whole.

    Attributes:
        code: one of the contract's; text where a newer worker has a code that is not known here.
        message: the path of the member and what was expected there; nothing of the value.
    """

    def __init__(self, code: Code | str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    @property
    def retry(self) -> Retry:
        """Whether it makes sense to send the request again."""
        return RETRY[self.code] if isinstance(self.code, Code) else Retry.AFTER_A_FIX


class InvalidRequest(RequestRefused):
    """The request or the value does not have the form it must have."""


class UnknownType(RequestRefused):
    """There is no such type."""


class ValueOutOfRange(RequestRefused):
    """The value is no value of its type: too large or too small a number, or empty."""


class ValueTooLarge(RequestRefused):
    """The value is longer than workers take."""


class InvalidEmail(RequestRefused):
    """The value is no e-mail address that a token of the same length can be made for."""


class UnknownClient(RequestRefused):
    """The client has no key."""


class UnknownZone(RequestRefused):
    """The zone has no key."""


class Forbidden(RequestRefused):
    """The route does not allow this operation, client, zone or stream for the reply."""


class TokenNotFound(RequestRefused):
    """There is no such token of this client and type."""


class TokenDisabled(RequestRefused):
    """The token exists and has been disabled."""


class TokenSpaceExhausted(RequestRefused):
    """No free token was found for the value."""


class KeyUnreadable(RequestRefused):
    """The client's key cannot be opened with the master key."""


class EntryUnreadable(RequestRefused):
    """The stored entry is damaged, or sealed with a key that is not there."""


class ValueNotText(RequestRefused):
    """The value is whole but no UTF-8 text: ask for it ``as`` bytes, with an ``Item``."""


class Expired(RequestRefused):
    """The request was read only when its time was up already."""


class Internal(RequestRefused):
    """The workers failed on this request again and again."""


class SomeFailed(TokenClientError):
    """Some values of a list were refused; the others were answered.

    Attributes:
        answers: one for each value in the order of the list: the result, or the ``RequestRefused``; None for None.
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
    """The error of a code, in the class of that code."""
    try:
        known = Code(code)
    except ValueError:
        return RequestRefused(code, message)
    return _BY_CODE[known](known, message)
