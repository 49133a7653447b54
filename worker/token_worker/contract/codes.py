"""Meaning of each error code, for people and for code generators."""

from token_worker.errors import RETRY, Code

MEANINGS = {
    Code.INVALID_REQUEST: "The request, or an item's value, does not have the form it must have.",
    Code.UNKNOWN_TYPE: "There is no such type.",
    Code.VALUE_OUT_OF_RANGE: "The value is out of range for its type: too large or too small, or empty; or it does not"
    " fit the format.",
    Code.VALUE_TOO_LARGE: "The value is longer than the worker accepts.",
    Code.INVALID_EMAIL: "The value is not an e-mail address, or no token of the same length exists for it.",
    Code.UNKNOWN_CLIENT: "The client has no key.",
    Code.UNKNOWN_ZONE: "The zone has no key.",
    Code.FORBIDDEN: "The route does not allow this operation, client, zone or stream for the reply.",
    Code.FORMAT_NOT_ALLOWED: "The route does not allow the item's format, or that it has none; or the format is unknown"
    " or for another type.",
    Code.FORMAT_CONFLICT: "The value has a token of another form, and the route refuses such tokens.",
    Code.TOKEN_NOT_FOUND: "This client has no such token of this type.",
    Code.TOKEN_DISABLED: "The token exists and has been disabled.",
    Code.TOKEN_SPACE_EXHAUSTED: "No free token was found for the value.",
    Code.KEY_UNREADABLE: "The master key does not open the client's key.",
    Code.ENTRY_UNREADABLE: "The stored entry is damaged, or sealed with a key that does not exist any more.",
    Code.VALUE_NOT_TEXT: "The value exists but is not UTF-8 text: ask for it with as: bytes.",
    Code.EXPIRED: "A worker read the request after its expires_at.",
    Code.INTERNAL: "The workers failed on this request several times.",
}
"""One sentence for each code. ``RETRY`` says if the request may be sent again."""


def code_list() -> list[dict[str, str]]:
    """List each code with its meaning and the advice about sending again, in the order of the contract."""
    return [{"code": code.value, "meaning": MEANINGS[code], "retry": RETRY[code].value} for code in Code]
