"""Examples of messages for the schemas. They are made from the types, so that they cannot differ from them."""

from token_worker.contract.messages import Op, Reply, ReplyError, ReplyItem, Request, RequestItem
from token_worker.errors import Code

REQUESTS: dict[str, Request] = {
    "one value": Request(
        id="order-4711", op=Op.TOKENIZE, client_id="shop", type="email", value="ada.lovelace@example.com"
    ),
    "every type": Request(
        id="customer-8",
        op=Op.TOKENIZE,
        client_id="shop",
        items=[
            RequestItem("str", "Ada Lovelace", "name"),
            RequestItem("email", "ada.lovelace@example.com", "email"),
            RequestItem("int32", 20151210, "born"),
            RequestItem("int64", "4929000011112222", "account"),
            RequestItem("bytes", "kAERJv8=", "card"),
        ],
    ),
    "formats": Request(
        id="payment-7",
        op=Op.TOKENIZE,
        client_id="shop",
        items=[
            RequestItem("str", "4242 4242 4242 4242", "card", format="pan"),
            RequestItem("str", "DE89370400440532013000", "iban", format="iban"),
            RequestItem("str", "Ada Lovelace", "name"),
        ],
    ),
    "detokenize": Request(
        id="order-4711-back", op=Op.DETOKENIZE, client_id="shop", type="int64", value=-4929000011112222
    ),
    "a value that might not be UTF-8": Request(
        id="customer-8-back",
        op=Op.DETOKENIZE,
        client_id="shop",
        items=[RequestItem("str", "fH3kQz81LmX", "name", "bytes")],
    ),
    "all members": Request(
        id="import-1",
        op=Op.TOKENIZE,
        client_id="shop",
        zone_id="zone-eu",
        type="str",
        value="Ada Lovelace",
        format="letters",
        consistent=False,
        reply_to="tokenize:responses:import",
        expires_at=1767225600000,
        replay=1,
        replay_of="1767222000000-0",
    ),
}
"""Requests, in their JSON form."""

REPLIES: dict[str, Reply] = {
    "one token": Reply(
        id="order-4711",
        op=Op.TOKENIZE,
        request_entry="1767222000000-0",
        status="ok",
        value="k2Jx0Q9sdRfW@b7Zt1LmXq0.com",
    ),
    "a token of another form": Reply(
        id="payment-7",
        op=Op.TOKENIZE,
        request_entry="1767222000003-0",
        status="ok",
        items=[
            ReplyItem("card", "7093 5518 0264 4242"),
            ReplyItem("iban", "Rk0vWq3ZbT8uLx5YpA1NcE", format="other"),
            ReplyItem("name", "q7RzYb2KdLwM"),
        ],
    ),
    "some items failed": Reply(
        id="customer-9",
        op=Op.TOKENIZE,
        request_entry="1767222000000-1",
        status="partial",
        items=[
            ReplyItem("name", "fH3kQz81LmXa"),
            ReplyItem("account", "-6917529027641081856"),
            ReplyItem("card", "V0mLr1Q="),
            ReplyItem("born", error=ReplyError(Code.INVALID_REQUEST, "$.items[3].value: expected a whole number")),
        ],
    ),
    "a value as bytes": Reply(
        id="customer-8-back",
        op=Op.DETOKENIZE,
        request_entry="1767222000002-0",
        status="ok",
        items=[ReplyItem("name", "QW5kcukgTWFyaWU=")],
    ),
    "refused": Reply(
        id="order-4712",
        request_entry="1767222000001-0",
        status="error",
        error=ReplyError(Code.INVALID_REQUEST, "$.op: expected tokenize or detokenize"),
    ),
    "reply to a replayed request": Reply(
        id="order-4711-back",
        op=Op.DETOKENIZE,
        request_entry="1767222060000-0",
        status="ok",
        value="4929000011112222",
        replay=1,
    ),
}
"""Replies, in their JSON form."""
