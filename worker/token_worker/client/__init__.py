"""Clients for producers: values in, tokens out, by the workers behind the streams; and the way back.

``TokenClient`` for threads, ``AsyncTokenClient`` for an event loop. Neither needs keys, nor any server but the Redis of
the streams; importing this loads neither ``hvac`` nor the ciphers of ``cryptography``.

- A call waits for its reply up to its time-out and then says what was wrong. A reply that comes later is passed over.
- A connection that breaks is made anew, and what may not have arrived is sent again. Of a value tokenized with
  ``consistent=False`` there may then be a second token, that nobody got.
- No more than ``max_in_flight`` requests wait for their replies; further calls wait for room.
- Replies come on a stream that only this client reads, made by the first of them. It is trimmed while it is read and
  removed at the end, as far as the client's rights go, and has a time to live.

See ``BaseClient`` for what can be set, ``TokenClient.tokenize`` for what can be raised.
"""

from token_worker.client.asynchronous import AsyncTokenClient
from token_worker.client.base import BaseClient, CallOptions
from token_worker.client.errors import (
    BadReply,
    ClientClosed,
    EntryUnreadable,
    Expired,
    Forbidden,
    Internal,
    InvalidEmail,
    InvalidRequest,
    KeyUnreadable,
    NotAnswered,
    RequestRefused,
    SomeFailed,
    StreamsRefused,
    StreamsUnavailable,
    TimedOut,
    TokenClientError,
    TokenDisabled,
    TokenNotFound,
    TokenSpaceExhausted,
    UnknownClient,
    UnknownType,
    UnknownZone,
    ValueNotText,
    ValueOutOfRange,
    ValueTooLarge,
)
from token_worker.client.items import Answer, Item, Value
from token_worker.client.synchronous import TokenClient

__all__ = [
    "Answer",
    "AsyncTokenClient",
    "BadReply",
    "BaseClient",
    "CallOptions",
    "ClientClosed",
    "EntryUnreadable",
    "Expired",
    "Forbidden",
    "Internal",
    "InvalidEmail",
    "InvalidRequest",
    "Item",
    "KeyUnreadable",
    "NotAnswered",
    "RequestRefused",
    "SomeFailed",
    "StreamsRefused",
    "StreamsUnavailable",
    "TimedOut",
    "TokenClient",
    "TokenClientError",
    "TokenDisabled",
    "TokenNotFound",
    "TokenSpaceExhausted",
    "UnknownClient",
    "UnknownType",
    "UnknownZone",
    "Value",
    "ValueNotText",
    "ValueOutOfRange",
    "ValueTooLarge",
]
