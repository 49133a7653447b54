"""The search of dumps finds values in every form in which they may leak."""

import base64
import hashlib
import random

import pytest

from harness.dump_search import Search, Secret, encodings, hashes
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import EntryNames

SHOP = Owner("client", "shop-frontend")
NOISE = random.Random(3).randbytes(5000)


def searched(data: bytes) -> Search:
    search = Search()
    search.add(Secret(data, SHOP, 3))
    return search


@pytest.mark.parametrize("length", [12, 13, 14, 16, 40])
def test_every_form_is_found(length: int) -> None:
    """A secret is found raw, in hex and in base64 at every offset in a longer text; noise holds none."""
    data = random.Random(length).randbytes(length)
    search = searched(data)
    leaks = [data, data.hex().encode(), data.hex().upper().encode()]
    for before in range(6):
        longer = NOISE[:before] + data + NOISE[:7]
        leaks += [base64.b64encode(longer), base64.urlsafe_b64encode(longer)]

    assert not search.count(NOISE)
    for leak in leaks:
        assert search.count(NOISE + leak + NOISE)["clear"] >= 1


def test_hashes_are_found() -> None:
    """Plain hashes are found, whole and cut to eleven bytes, also those in the names of Acra's entries."""
    data = b"4242424242424242"
    search = searched(data)
    for digest in (hashlib.sha256(data).digest(), hashlib.sha256(data + b"clientshop-frontend").digest()):
        for leak in (digest, digest[:11], *encodings(digest), *encodings(digest[:11])):
            assert search.count(NOISE + leak + NOISE)["hash"] >= 1
    assert search.count(EntryNames(SHOP).of_value(data, 3))["hash"] >= 1
    assert len(set(hashes(Secret(data, SHOP, 3)))) == len(list(hashes(Secret(data, SHOP, 3))))


def test_short_secret_is_refused() -> None:
    """A secret that may stand anywhere by chance is not searched for."""
    with pytest.raises(ValueError, match="too short"):
        searched(b"eleven byte")
