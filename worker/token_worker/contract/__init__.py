"""The message contract: what producers may send and what they get back."""

from token_worker.contract.codec import Decoded, Limits, Unanswerable, decode, encode_reply, sniff
from token_worker.contract.messages import Format, Op, Reply, ReplyError, ReplyItem, Request, RequestItem, TypeName
from token_worker.contract.values import value_in, value_out

__all__ = [
    "Decoded",
    "Format",
    "Limits",
    "Op",
    "Reply",
    "ReplyError",
    "ReplyItem",
    "Request",
    "RequestItem",
    "TypeName",
    "Unanswerable",
    "decode",
    "encode_reply",
    "sniff",
    "value_in",
    "value_out",
]
