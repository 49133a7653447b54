"""Checks of the doctor about the layout of the token storage: records, foreign entries, index keys and check values.

Entries are found by a look at a bounded number of names, so a few foreign ones among many may be missed.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from token_worker.acra.owner import Owner
from token_worker.admin.check import Check, unknown
from token_worker.admin.index_keys import lack_index_keys
from token_worker.admin.key_store import AdminStore
from token_worker.admin.keys import LocatedKey, open_key, read_keys
from token_worker.admin.layout import Records, layout_of_name, read_records, strings
from token_worker.errors import CorruptData, ServerError, SettingsError
from token_worker.keys.index_key import INDEX_KEY
from token_worker.keys.layout_record import TOKENS_RECORD, LayoutName, layout_path
from token_worker.keys.master import MasterKeys
from token_worker.redis.connect import AnyLink
from token_worker.storage.dense.entry import EntryNames, check_name, is_foreign

NAMES_MAX = 100_000
"""Names of the token storage that are looked at: a tenth of a second of the server."""

SAMPLE_ENTRIES = 1000
"""Token entries, chosen at random, that are looked at for foreign ones: half a second at most."""

SAMPLE_OWNERS = 50
"""Owners, chosen at random, whose check value is compared."""

_NAMED_MAX = 5
"""Owners that are named in a message."""


def examine_layout(
    store: AdminStore, link: AnyLink, asked: LayoutName | None, *, tries_rights: bool = True
) -> Iterator[Check]:
    """Compare the records, then look for entries of another layout.

    Args:
        store: the key storage.
        link: the token storage.
        asked: ``TOKEN_WORKER_LAYOUT``; None if it is not set.
        tries_rights: whether to look at names of the token storage, which takes a right that workers do not have.
    """
    name = "layout"
    try:
        found = read_records(store, link)
    except ServerError as error:
        record = layout_path(store.folder) if error.server == "keys" else TOKENS_RECORD
        yield unknown(name, error, f"the right to read {record}, as `token-worker acl` prints it")
        return
    except (CorruptData, SettingsError) as error:
        yield Check(name, "finding", str(error), "no worker starts before the record can be read")
        return
    problem = found.problem(asked)
    if problem is not None:
        yield Check(name, "finding", problem.what, problem.remedy)
    else:
        recorded = "recorded in key storage and token storage" if found.in_keys else "without a record"
        yield Check(name, "ok", f"{found.layout}, {recorded}")
    if tries_rights:
        yield from _entries(found, link)


def _entries(found: Records, link: AnyLink) -> Iterator[Check]:
    """Check that the token storage has entries of one layout only, and foreign ones only if the record says so."""
    layout = found.layout if found.in_tokens is None else found.in_tokens.layout
    looked = others = 0
    t_names: list[bytes] = []
    try:
        for raw in islice(chain.from_iterable(strings(link)), NAMES_MAX):
            looked += 1
            its_layout = layout_of_name(raw)
            others += its_layout not in (None, layout)
            if its_layout == layout == "dense" and raw.startswith(b"t"):
                t_names.append(raw)
        of_how_many = f"the first {looked:,} names" if looked == NAMES_MAX else f"{looked:,} names"
        yield _other_layout(layout, others, of_how_many)
        if found.in_tokens is not None and not found.in_tokens.foreign:
            sample = random.sample(t_names, min(SAMPLE_ENTRIES, len(t_names)))
            if any(is_foreign(link.call("GET", t_name) or b"") for t_name in sample):
                yield Check(
                    "layout: foreign entries",
                    "finding",
                    "there are entries of inconsistent tokens that were moved, but the layout record does not say so:"
                    " workers do not find them, and may give such a token to another value",
                    'stop the workers, and write both records with "foreign":true (docs/layouts.md)',
                )
    except ServerError as error:
        yield unknown("layout: entries", error, "+scan (the user token-operator has it)")


def _other_layout(layout: LayoutName, others: int, of_how_many: str) -> Check:
    name = "layout: entries"
    if not others:
        return Check(name, "ok", f"no entry of another layout among {of_how_many}")
    if layout == "dense":
        message = f"{others:,} entries of Acra's layout in a dense storage, among {of_how_many}"
        remedy = (
            "find out who writes them: AcraServer and AcraTranslator cannot share this storage; `token-worker tokens"
            " migrate` moves or drops what an earlier move has left"
        )
    else:
        message = f"{others:,} dense entries in Acra's layout, among {of_how_many}"
        remedy = "workers here do not read them; `token-worker tokens migrate` finishes a move that was begun"
    return Check(name, "finding", message, remedy)


def examine_index_keys(
    found: Sequence[LocatedKey], store: AdminStore, link: AnyLink, master_keys: MasterKeys
) -> Iterator[Check]:
    """Check the index keys of owners, if the layout is dense: each has one, and it has made the stored names.

    Args:
        found: all keys of the key storage.
        store: the key storage.
        link: the token storage.
        master_keys: they open the index keys.
    """
    if read_records(store, link).layout != "dense":
        return
    lacking = lack_index_keys(found)
    lost = _with_tokens(link, random.sample(lacking, min(SAMPLE_OWNERS, len(lacking))))
    yield _presence(lacking, lost)
    yield from _check_values(found, store, link, master_keys)


def _presence(lacking: list[Owner], lost: list[Owner]) -> Check:
    name = "layout: index keys"
    if lost:
        message = f"{_named(lost)}: the index key is gone, and there are tokens, which nobody finds without it"
        remedy = "bring it back from a backup of the key storage (docs/backup.md); do not make another one"
        return Check(name, "finding", message, remedy)
    if lacking:
        message = f"{len(lacking):,} clients or zones have a key, but no index key: {_named(lacking)}"
        remedy = "run `token-worker keys index --all`: until then requests are answered unknown_client"
        return Check(name, "finding", message, remedy)
    return Check(name, "ok", "each client and zone with a key has one")


def _check_values(
    found: Sequence[LocatedKey], store: AdminStore, link: AnyLink, master_keys: MasterKeys
) -> Iterator[Check]:
    """Compare check values of the token storage with the index keys that should have made them."""
    name = "layout: check values"
    index_keys = [key for key in found if key.state == "current" and key.name.kind == INDEX_KEY]
    sample = random.sample(index_keys, min(SAMPLE_OWNERS, len(index_keys)))
    wrong, closed, compared = [], [], 0
    try:
        for key, stored in read_keys(store, sample):
            if key.name.owner is None:
                continue
            held = link.call("GET", check_name(key.name.owner))
            if held is None:
                continue  # no token was stored yet
            compared += 1
            try:
                index_key, _ = open_key(key.name, stored.text, master_keys)
            except CorruptData:
                closed.append(key.name.owner)
            else:
                if EntryNames(index_key, key.name.owner).check != held:
                    wrong.append(key.name.owner)
    except ServerError as error:
        yield unknown(name, error, "the right to read the token storage, as `token-worker acl` prints it")
        return
    if closed:
        message = f"{_named(closed)}: the master key does not open the index key"
        remedy = "run `token-worker keys verify` for all keys; the master key may be the wrong one"
        yield Check(name, "finding", message, remedy)
    if wrong:
        message = f"{_named(wrong)}: the index key is not the one with which the tokens were stored"
        remedy = (
            "bring this index key back from a backup of the key storage, and no other key (docs/backup.md): requests"
            " get key_unreadable until then"
        )
        yield Check(name, "finding", message, remedy)
    if not wrong and not closed:
        yield Check(name, "ok", f"fit {compared} index keys, chosen at random")


def _with_tokens(link: AnyLink, owners: list[Owner]) -> list[Owner]:
    """The owners that have stored tokens: there is a check value."""
    return [owner for owner in owners if link.call("GET", check_name(owner)) is not None]


def _named(owners: Sequence[Owner]) -> str:
    names = ", ".join(owner.key_name for owner in owners[:_NAMED_MAX])
    return names if len(owners) <= _NAMED_MAX else f"{names}, and more"
