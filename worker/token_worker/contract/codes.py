"""What each code of an error means, for people and for generators of code."""

from token_worker.errors import RETRY, Code

MEANINGS = {
    Code.INVALID_REQUEST: "The request, or an item's value, does not have the form it must have.",
    Code.UNKNOWN_TYPE: "There is no such type.",
    Code.VALUE_OUT_OF_RANGE: "The value is no value of its type: too large or too small a number, or empty.",
    Code.VALUE_TOO_LARGE: "The value is longer than the worker takes.",
    Code.INVALID_EMAIL: "The value is no e-mail address that a token of the same length can be made for.",
    Code.UNKNOWN_CLIENT: "The client has no key.",
    Code.UNKNOWN_ZONE: "The zone has no key.",
    Code.FORBIDDEN: "The route does not allow this operation, client, zone or stream for the reply.",
    Code.TOKEN_NOT_FOUND: "There is no such token of this client and type.",
    Code.TOKEN_DISABLED: "The token exists and has been disabled.",
    Code.TOKEN_SPACE_EXHAUSTED: "No free token was found for the value.",
    Code.KEY_UNREADABLE: "The client's key cannot be opened with the master key.",
    Code.ENTRY_UNREADABLE: "The stored entry is damaged, or sealed with a key that is not there.",
    Code.VALUE_NOT_TEXT: "The value is whole but no UTF-8 text: ask for it with as: bytes.",
    Code.EXPIRED: "The request was read after its expires_at.",
    Code.INTERNAL: "The worker failed on this request again and again.",
}
"""One sentence for each code; ``RETRY`` has the advice."""


def code_list() -> list[dict[str, str]]:
    """Each code with its meaning and whether to send again, in the order of the contract."""
    return [{"code": code.value, "meaning": MEANINGS[code], "retry": RETRY[code].value} for code in Code]
