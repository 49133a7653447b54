"""AcraServer as a third writer, in steps, so that a test can act between any two of its commands."""

import random
from collections.abc import Iterator
from typing import Any, Final, Self

from harness.servers import Valkey
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import EntryNames, TokenEntry, decode_entry, encode_entry, encode_token_value
from token_worker.acra.value_types import STR, TokenType
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.keys.store import wrap
from token_worker.tokens.derivation import LETTERS

SHOP: Final = Owner("client", "shop-frontend")
NAMES: Final = EntryNames(SHOP)
MASTER_KEY: Final = bytes(range(32))
KEY: Final = bytes(range(32, 64))
SEED: Final = 20_260_101
"""Of the random choices that need not be secret, so that a failure can be had again."""


def store_key(server: Valkey) -> bytes:
    """Store the client's key, and return it."""
    with server.client() as client:
        client.set(f".acrakeys/{SHOP.key_name}", wrap(KEY, MASTER_KEY, SHOP))
    return KEY


class RacingAcra:
    """Acts as AcraServer: a random token, its t. entry by SET NX, then h. by SET NX. A loser reads the winner's.

    Args:
        server: holds the tokens.
        key: key of the client.
        kind: type of all values.
    """

    def __init__(self, server: Valkey, key: bytes, kind: TokenType = STR) -> None:
        self._client = server.client()
        self._ring = Keyring(SHOP, key, DataKeyCache())
        self._random = random.Random(SEED)
        self._kind = kind

    def _entry(self, inside: bytes) -> bytes:
        return encode_entry(TokenEntry(self._ring.seal(inside), 1_800_000_000, 1_800_000_000))

    def open(self, raw: bytes) -> bytes:
        """The content of an entry."""
        return self._ring.open(decode_entry(raw).block)

    def get(self, key: bytes) -> bytes | None:
        """An entry as it stands."""
        found: Any = self._client.get(key)
        raw: bytes | None = found
        return raw

    def steps(self, value: bytes) -> Iterator[None]:
        """Tokenize, with a pause after each command."""
        h_key = NAMES.of_value(value, self._kind.number)
        if self.get(h_key) is None:
            yield
            while True:
                token = bytes(self._random.choices(LETTERS, k=len(value)))
                inside = encode_token_value(value, self._kind.number)
                if self._client.set(NAMES.of_token(token, self._kind.number), self._entry(inside), nx=True):
                    break
            yield
            self._client.set(h_key, self._entry(token), nx=True)

    def token(self, value: bytes) -> str:
        """The value's token."""
        raw = self.get(NAMES.of_value(value, self._kind.number))
        assert raw is not None
        return self.open(raw).decode()

    def tokenize(self, value: bytes) -> str:
        """Tokenize without a pause."""
        for _ in self.steps(value):
            pass
        return self.token(value)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
