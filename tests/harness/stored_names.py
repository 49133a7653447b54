"""Names of stored entries in whatever layout a stack has."""

from typing import Any

from harness.stack import Stack
from token_worker.acra import token_entry
from token_worker.acra.owner import Owner
from token_worker.keys.index_key import index_path, open_index_key
from token_worker.keys.layout_record import LayoutName
from token_worker.storage.dense import entry
from token_worker.storage.token_item import Names


def dense_names(stack: Stack, owner: Owner) -> entry.EntryNames:
    """Names of an owner's entries in the dense layout."""
    sealed = stack.storage.get(index_path(".acrakeys", owner))
    return entry.EntryNames(open_index_key(sealed, stack.master_key, owner), owner)


def names_of(stack: Stack, owner: Owner) -> Names:
    """Names of an owner's entries in the layout of the stack."""
    return dense_names(stack, owner) if stack.layout == "dense" else token_entry.EntryNames(owner)


def entries_of(stack: Stack) -> list[bytes]:
    """Names of all entries in the layout of the stack, sorted."""
    return entries_on(stack.storage, stack.layout)


def entries_on(client: Any, layout: LayoutName) -> list[bytes]:
    """Names of all entries of a layout on a server, sorted."""
    if layout == "acra":
        return sorted(client.keys("tokens/*"))
    return sorted(name for name in client.keys("[vt]*") if len(name) == entry.NAME_BYTES)
