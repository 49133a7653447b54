"""Clients for producers: send values, get tokens back from the workers; and detokenize.

``TokenClient`` is for threads, ``AsyncTokenClient`` for an event loop. Neither needs keys, and the only server that
they use is the Redis of the streams. Importing this package loads neither ``hvac`` nor the ciphers of ``cryptography``.

- A call waits for its reply up to its time-out. Then it raises an error that says what is wrong. Later replies are
  dropped.
- If a connection breaks, the client connects again and repeats each request that may not have arrived. A value that is
  tokenized with ``consistent=False`` may then have a second token, which no caller got.
- At most ``max_in_flight`` requests wait for their replies. Further calls wait for room.
- Replies arrive on a stream that only this client reads. The first reply creates the stream, with a time to live. The
  client trims the stream while it reads, and removes it at the end, if its ACL user may do so.

``BaseClient`` documents the settings, ``TokenClient.tokenize`` the errors.

The states of a call::

    prepare            put                        reply, or an error for the request
    -------> OPEN -----------> parts QUEUED --------> parts IN FLIGHT --------> parts DONE
              |                     ^                        |                      |
              |                     |        requeue         |                      | the last part is done,
              |                     +------------------------+                      | or a part has failed
              |                  the connection broke before                        |
              |                  the server confirmed the XADD                      v
              +-------------------------------------------------------------->  ENDED
                time-out, cancellation, close

A call is open as long as it is in the ``DeadlineTable``. The thread that takes the call from the table is the one that
ends it, so that a call ends once: ``Call.end`` passes the outcome to the caller. Parts of an ended call that are still
queued or in flight are released by the next ``sweep``, which makes room for other requests.
"""

from token_worker.client.asynchronous import AsyncTokenClient
from token_worker.client.base import BaseClient, CallOptions
from token_worker.client.errors import (
    BadReply,
    ClientClosed,
    EntryUnreadable,
    Expired,
    Forbidden,
    FormatConflict,
    FormatNotAllowed,
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
from token_worker.client.items import Answer, Item, OtherFormat, Value
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
    "FormatConflict",
    "FormatNotAllowed",
    "Internal",
    "InvalidEmail",
    "InvalidRequest",
    "Item",
    "KeyUnreadable",
    "NotAnswered",
    "OtherFormat",
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
