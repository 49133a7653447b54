"""Storages in the dense layout: the records, and index keys."""

import os

from harness.servers import RedisUse
from harness.stack import Stack
from token_worker.acra.owner import Owner
from token_worker.keys.index_key import index_path, seal_index_key
from token_worker.keys.layout_record import TOKENS_RECORD, encode_record, layout_path, new_record

FOLDER = ".acrakeys"


def record_dense(stack: Stack, tokens: RedisUse) -> None:
    """Record the dense layout in the key storage of a stack, and in this token storage."""
    record = encode_record(new_record("dense", 0))
    with tokens.client() as client:
        client.set(TOKENS_RECORD, record)
    stack.storage.set(layout_path(FOLDER), record)


def add_owner(stack: Stack, owner: Owner) -> None:
    """Make the key and the index key of an owner."""
    stack.generate_key(owner.id, owner.kind)
    stack.storage.set(index_path(FOLDER, owner), seal_index_key(os.urandom(32), stack.master_key, owner))
