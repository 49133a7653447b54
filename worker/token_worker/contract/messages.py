"""The messages: members and bounds of requests and replies.

One stream entry is one request. Its field ``payload`` is a JSON object, or the same object in MessagePack. These types
define members, kinds and bounds. Decoding, refusals and the published schemas are made from them.

- Unknown members are refused. If the type of an optional member allows ``None``, null is the same as leaving the member
  out. A ``value`` that is null is present, and is refused like any other wrong value.
- ``value`` can be anything after decoding. ``values.decode_value`` checks it for each item, so that one bad item does
  not affect the others.
- The number of items and the length of a payload are limited by settings: see ``decoded.Limits``.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from token_worker.errors import Code

MAX_REPLY_TO = 512
"""Longest stream name in ``reply_to``, in characters."""

MAX_ID_CHARACTERS = 128
"""Longest ``id`` that can be answered. An entry with a longer id becomes a dead letter."""

MAX_FORMAT_CHARACTERS = 64
"""Longest name of a format of tokens."""


class Format(StrEnum):
    """Format of a payload. A reply has the format of its request."""

    __hash__ = str.__hash__  # the hash of Enum is slow, and formats are looked up for every request

    JSON = "json"
    MSGPACK = "msgpack"


class Op(StrEnum):
    """Operation on a value."""

    __hash__ = str.__hash__  # as above

    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"


class TypeName(StrEnum):
    """Types of values. A token has the type of its value."""

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
        description="For a 'str' or 'email' whose value might not be UTF-8: the value is written like 'bytes',"
        " base64 in JSON. Its token is still text."
    ),
]

FormatName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_FORMAT_CHARACTERS,
        description="Format of the token, one that the route allows. If it is left out, the route decides. Has no"
        " effect on detokenize.",
    ),
]
OtherFormat = Annotated[
    Literal["other"] | None,
    Meta(
        description="'other': a format was asked for, but the value already had a token, and that format could not have"
        " made it."
    ),
]


class RequestItem(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False, rename={"as_": "as"}):
    """One value of several in a request.

    Attributes:
        type: name of the type, one of ``TypeName``. It is checked for each item, not by this struct.
        value: the value; for ``detokenize`` the token.
        ref: the producer's name for the item. The reply has it, too.
        as_: ``bytes``: the value, but not its token, is written like a value of type ``bytes``.
        format: name of the format of the token. The worker checks for each item that the route allows it.
    """

    type: TypeText
    value: Annotated[Any, Meta(description="The value to tokenize, or the token to detokenize.")]
    ref: Annotated[Ref | None, Meta(description="The producer's name for the item. The reply has it, too.")] = None
    as_: AsBytes = None
    format: FormatName | None = None


class Request(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False, rename={"as_": "as"}):
    """One request: either ``type`` and ``value``, or ``items``. Null, if allowed, is the same as leaving out."""

    id: Id
    op: Annotated[Op, Meta(description="What to do.")]
    client_id: Annotated[
        OwnerId | None,
        Meta(description="Client whose key is used. Not needed on a route that is pinned to one client."),
    ] = None
    zone_id: Annotated[
        OwnerId | None, Meta(description="Zone whose key is used instead of the client's (Acra 0.94 and earlier).")
    ] = None
    type: TypeText | UnsetType = UNSET
    value: Annotated[Any | UnsetType, Meta(description="The value to tokenize, or the token to detokenize.")] = UNSET
    as_: AsBytes = None
    format: FormatName | None = None
    items: Annotated[
        list[RequestItem] | UnsetType,
        Meta(description="Several values, answered in order. A setting of the worker limits their number."),
    ] = UNSET
    consistent: Annotated[
        bool,
        Meta(description="True: the same value always gets the same token. Has no effect on detokenize."),
    ] = True
    reply_to: Annotated[
        Annotated[str, Meta(min_length=1, max_length=MAX_REPLY_TO)] | None,
        Meta(description="Another stream for the reply, by default one below the route's response stream."),
    ] = None
    expires_at: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="Unix time in milliseconds, by the clock of the streams' Redis (TIME). A request that is read"
            " later is answered with the error 'expired'."
        ),
    ] = None
    replay: Annotated[
        ReplayCount | None, Meta(description="Number of times the request was replayed; set by the replay command.")
    ] = None
    replay_of: Annotated[
        StreamId | None, Meta(description="Stream id of the original of a replayed request; set by the replay command.")
    ] = None


class PlainRequest(Struct, forbid_unknown_fields=True, gc=False):
    """A request for one value that has no further members: one that most producers send.

    What decodes to it decodes to a ``Request`` of the same meaning. It says by its type that there is nothing else to
    look at.
    """

    id: Id
    op: Op
    type: TypeText
    value: Any
    client_id: OwnerId | None = None
    zone_id: OwnerId | None = None


class ReplyError(Struct, forbid_unknown_fields=True, gc=False):
    """The reason why there is no value.

    Attributes:
        code: a code of a closed list.
        message: a text for people: path of the member and what was expected, without any of the payload.
    """

    code: Code
    message: Annotated[
        str, Meta(description="For people: path of the member and what was expected, without any of the payload.")
    ]


class ReplyItem(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The answer to one item: ``value`` or ``error``, and the item's ``ref`` if it had one."""

    ref: Annotated[Ref | None, Meta(description="The ref of the item, if it had one.")] = None
    value: Annotated[Any | UnsetType, Meta(description="The token, or the detokenized value.")] = UNSET
    error: Annotated[ReplyError | UnsetType, Meta(description="The reason why the item has no value.")] = UNSET
    format: OtherFormat = None


class Reply(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False):
    """One reply for one request entry: ``value``, or ``items`` in the order of the request, or ``error``."""

    id: Annotated[Id, Meta(description="The id of the request.")]
    op: Annotated[
        Op | None, Meta(description="The op of the request. Left out if the op of the request is unknown.")
    ] = None
    request_entry: Annotated[StreamId, Meta(description="Stream id of the entry that is answered.")]
    status: Annotated[
        Literal["ok", "partial", "error"],
        Meta(
            description="ok: every item has a value. partial: some items have a value, others an error."
            " error: no item has a value; there is 'error', or 'items' that all failed."
        ),
    ]
    value: Annotated[Any | UnsetType, Meta(description="The token, or the detokenized value.")] = UNSET
    format: OtherFormat = None
    items: Annotated[list[ReplyItem] | UnsetType, Meta(description="The answers, in the order of the request.")] = UNSET
    error: Annotated[ReplyError | UnsetType, Meta(description="The reason why the whole request failed.")] = UNSET
    replay: Annotated[ReplayCount | None, Meta(description="In the reply to a replayed request: its replay count.")] = (
        None
    )
