"""A token storage whose memory is full: what it holds is still found, by workers that have just started, too."""

import pytest

from harness.direct import DirectHandler
from harness.servers import Valkey
from token_worker.acra.owner import Owner
from token_worker.errors import Unavailable
from token_worker.keys.index_key import index_path, seal_index_key
from token_worker.keys.layout_record import LayoutName
from token_worker.keys.store import new_key, wrap

MASTER_KEY = bytes(range(32))
SHOP = Owner("client", "shop-frontend")
REQUEST = {"op": "tokenize", "client_id": SHOP.id, "type": "str", "value": "a value"}


@pytest.mark.parametrize("layout", ["acra", "dense"])
def test_tokens_are_found_while_the_storage_is_full(layout: LayoutName) -> None:
    """Tokens and values that are stored are answered while nothing can be written. A new value has to wait."""
    with Valkey() as server, server.client() as client:
        client.set(f".acrakeys/{SHOP.key_name}", wrap(new_key(), MASTER_KEY, SHOP))
        client.set(index_path(".acrakeys", SHOP), seal_index_key(new_key(), MASTER_KEY, SHOP))
        with DirectHandler(server, MASTER_KEY, layout=layout) as before:
            [made] = before.ask([REQUEST])

        client.config_set("maxmemory", 1)

        with DirectHandler(server, MASTER_KEY, layout=layout) as worker:
            back, again = worker.ask([{**REQUEST, "op": "detokenize", "value": made["value"]}, REQUEST])
            assert (back["value"], again["value"]) == (REQUEST["value"], made["value"])
            with pytest.raises(Unavailable, match="OOM"):
                worker.ask([{**REQUEST, "value": "a new value"}])
