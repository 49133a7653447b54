"""The messages: what a request and a reply hold, and within which bounds.

One stream entry is one request, its field ``payload`` a JSON object or the same as MessagePack. These types are the
place where members, kinds and bounds stand: decoding, refusals and the published schemas are made from them.

- Unknown members are refused. A member that may be left out may be null as well where its type says ``None``; null is
  then the same as left out. ``value`` is present when it is null, and is refused like any other wrong value.
- ``value`` holds anything once decoded. Whether it is a value of its type is a question of the item, answered by
  ``values.decode_value``, so that one bad item does not cost its neighbours their answer.
- How many items a request may have, and how long a payload may be, are settings: see ``codec.Limits``.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from token_worker.errors import Code

MAX_REPLY_TO = 512
"""Longest name of a stream, in characters, that a request may ask its reply on."""

MAX_ID_CHARACTERS = 128
"""Longest ``id`` that can be answered; a longer one makes an entry a dead letter."""


class Format(StrEnum):
    """How a payload is written; a reply is written as its request was."""

    __hash__ = str.__hash__  # the library's own is slow, and formats are looked up for every request

    JSON = "json"
    MSGPACK = "msgpack"


class Op(StrEnum):
    """What to do with a value."""

    __hash__ = str.__hash__  # as above

    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"


class TypeName(StrEnum):
    """Types of values; a token has the type of its value."""

    INT32 = "int32"
    INT64 = "int64"
    STR = "str"
    BYTES = "bytes"
    EMAIL = "email"


Id = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_ID_CHARACTERS,
        description="The producer's name for the request. It comes back in the reply and need not be unique: two"
        " entries with one id get a reply each. An entry whose id cannot be read becomes a dead letter.",
    ),
]
StreamId = Annotated[str, Meta(pattern=r"^[0-9]{1,20}-[0-9]{1,20}\Z")]
OwnerId = Annotated[str, Meta(max_length=256)]
Ref = Annotated[str, Meta(max_length=128)]
TypeText = Annotated[str, Meta(max_length=16, description="Type of the value.")]
ReplayCount = Annotated[int, Meta(ge=1)]


AsBytes = Annotated[
    Literal["bytes"] | None,
    Meta(
        description="For 'str' and 'email', where the value may be no UTF-8: it stands as 'bytes' do, base64 in JSON."
        " Its token is text as ever."
    ),
]


class RequestItem(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False, rename={"as_": "as"}):
    """One value of several in a request.

    Attributes:
        type: name of the type, one of ``TypeName`` (checked for each item, so not by this type).
        value: the value, or on ``detokenize`` the token.
        ref: the producer's name for the item; comes back with its answer.
        as_: ``bytes``: the value, not its token, stands as a value of type ``bytes`` does.
    """

    type: TypeText
    value: Annotated[Any, Meta(description="The value to tokenize, or the token to turn back.")]
    ref: Annotated[Ref | None, Meta(description="The producer's name for the item; comes back with its answer.")] = None
    as_: AsBytes = None


class Request(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False, rename={"as_": "as"}):
    """One request: either ``type`` and ``value``, or ``items``. Null, where allowed, is the same as leaving out."""

    id: Id
    op: Annotated[Op, Meta(description="What to do.")]
    client_id: Annotated[
        OwnerId | None,
        Meta(description="Whose key is used. May be left out on a route that is pinned to one client."),
    ] = None
    zone_id: Annotated[
        OwnerId | None, Meta(description="Zone whose key is used in place of the client's (Acra 0.94 and earlier).")
    ] = None
    type: TypeText | UnsetType = UNSET
    value: Annotated[Any | UnsetType, Meta(description="The value to tokenize, or the token to turn back.")] = UNSET
    as_: AsBytes = None
    items: Annotated[
        list[RequestItem] | UnsetType,
        Meta(description="Several values, answered in order. How many a request may have is a setting of the worker."),
    ] = UNSET
    consistent: Annotated[
        bool,
        Meta(description="Whether the same value always gets the same token. Has no meaning for detokenize."),
    ] = True
    reply_to: Annotated[
        Annotated[str, Meta(min_length=1, max_length=MAX_REPLY_TO)] | None,
        Meta(description="Another stream for the reply, by default one below the route's response stream."),
    ] = None
    expires_at: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="Unix time in milliseconds, by the clock of the streams' Redis (TIME); once it has passed, the "
            "answer is the error 'expired'."
        ),
    ] = None
    replay: Annotated[
        ReplayCount | None, Meta(description="How many times the request was replayed; set by the replay command.")
    ] = None
    replay_of: Annotated[
        StreamId | None, Meta(description="Stream id of the original of a replayed request; set by the replay command.")
    ] = None


class ReplyError(Struct, forbid_unknown_fields=True, gc=False):
    """Why there is no value.

    Attributes:
        code: one of a closed list.
        message: for people: the path of the field and what was expected, nothing of the payload.
    """

    code: Code
    message: Annotated[
        str, Meta(description="For people: the path of the member and what was expected. Holds nothing of the payload.")
    ]


class ReplyItem(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The answer to one item: ``value`` or ``error``, and the item's ``ref`` where it had one."""

    ref: Annotated[Ref | None, Meta(description="The ref of the item, where it had one.")] = None
    value: Annotated[Any | UnsetType, Meta(description="The token, or the value turned back.")] = UNSET
    error: Annotated[ReplyError | UnsetType, Meta(description="Why the item has no value.")] = UNSET


class Reply(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False):
    """One reply for one request entry: ``value``, or ``items`` in the order of the request, or ``error``."""

    id: Annotated[Id, Meta(description="The id of the request.")]
    op: Annotated[
        Op | None, Meta(description="The op of the request; left out where that was none of the known ones.")
    ] = None
    request_entry: Annotated[StreamId, Meta(description="Stream id of the entry that is answered.")]
    status: Annotated[
        Literal["ok", "partial", "error"],
        Meta(
            description="ok: every value was answered. partial: some items were, others have an error."
            " error: none was; there is 'error', or 'items' that all failed."
        ),
    ]
    value: Annotated[Any | UnsetType, Meta(description="The token, or the value turned back.")] = UNSET
    items: Annotated[list[ReplyItem] | UnsetType, Meta(description="The answers, in the order of the request.")] = UNSET
    error: Annotated[ReplyError | UnsetType, Meta(description="Why the request has no answer.")] = UNSET
    replay: Annotated[
        ReplayCount | None, Meta(description="On the answer to a replayed request: its replay count.")
    ] = None
