"""Workers whose keys are in Vault: ``TOKEN_WORKER_KEYS_SOURCE=vault``, with a policy to read keys, no more."""

import base64
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from harness.servers import DEPLOY_FILES, OpenBao, Valkey
from harness.stack import Stack, wait_until
from token_worker.acra.owner import Owner
from token_worker.errors import Unavailable
from token_worker.keys.cache import KeyCache, KeySearch
from token_worker.keys.index_key import seal_index_key
from token_worker.keys.keyring import Keyring
from token_worker.keys.store import VaultKeyStore, new_key, wrap
from token_worker.keys.vault_kv import VaultKv
from token_worker.settings.vault import VaultSettings

POLICY = DEPLOY_FILES / "vault" / "all-keys.hcl"
OWNER = Owner("client", "shop-frontend")
MASTER_KEY = os.urandom(32)


class Bao:
    """Root's view of an OpenBao."""

    def __init__(self, server: OpenBao) -> None:
        self.url = server.url
        self._headers = {"X-Vault-Token": server.root_token}

    def write(self, path: str, **data: object) -> dict[str, object]:
        answer = requests.post(f"{self.url}/v1/{path}", json=data, headers=self._headers, timeout=10)
        answer.raise_for_status()
        return dict(answer.json()) if answer.content else {}

    def token(self) -> str:
        """A token with the policy for all keys, and nothing else."""
        self.write("sys/policies/acl/all-keys", policy=POLICY.read_text())
        made = self.write("auth/token/create", policies=["all-keys"], no_default_policy=True, ttl="1h")
        auth = made["auth"]
        assert isinstance(auth, dict)
        return str(auth["client_token"])

    def put_key(self, name: str, key: bytes) -> None:
        self.write(f"secret/data/.acrakeys/{name}", data={"key": wrap(key, MASTER_KEY, OWNER).decode()})


@pytest.fixture
def bao(openbao_server: OpenBao) -> Iterator[Bao]:
    """OpenBao with the master key at the default path, and no keys."""
    bao = Bao(openbao_server)
    bao.write("secret/data/acra/transport", data={"acra_master_key": base64.b64encode(MASTER_KEY).decode()})
    yield bao
    history = f"{OWNER.key_name}.old/2026-11-23T22:36:01.21151373"
    for path in (f".acrakeys/{OWNER.key_name}", f".acrakeys/{history}", f".acrakeys.index/{OWNER.key_name}"):
        requests.delete(
            f"{bao.url}/v1/secret/metadata/{path}",
            headers={"X-Vault-Token": openbao_server.root_token},
            timeout=10,
        )


def store(bao: Bao, token: str) -> VaultKeyStore:
    vault = VaultKv(VaultSettings(address=bao.url, token=token))
    vault.session.connect()
    return VaultKeyStore(vault, "secret", ".acrakeys")


def test_history_is_read_under_acras_names(bao: Bao) -> None:
    """A block sealed under a rotated key is opened with the key's history, found by listing it in Vault."""
    old, new = new_key(), new_key()
    bao.put_key(OWNER.key_name, new)
    bao.put_key(f"{OWNER.key_name}.old/2026-11-23T22:36:01.21151373", old)
    cache = KeyCache(store(bao, bao.token()), MASTER_KEY)
    ring = cache.rings([OWNER])[OWNER]
    assert isinstance(ring, Keyring)
    assert ring.keys == [new]
    assert cache.find_keys(ring) is KeySearch.ADDED
    assert ring.keys == [new, old]
    assert cache.find_keys(ring) is KeySearch.EXHAUSTED


def test_index_keys_are_read_with_the_policy_of_workers(bao: Bao) -> None:
    """Index keys come from secrets beside the folder of the keys, with the rights of a worker."""
    key = new_key()
    bao.put_key(OWNER.key_name, new_key())
    sealed = seal_index_key(key, MASTER_KEY, OWNER)
    bao.write(f"secret/data/.acrakeys.index/{OWNER.key_name}", data={"key": sealed.decode()})
    cache = KeyCache(store(bao, bao.token()), MASTER_KEY, with_index=True)

    ring = cache.rings([OWNER])[OWNER]

    assert isinstance(ring, Keyring)
    assert ring.index_state == "present"
    assert ring.index == key


def test_key_in_vault_is_never_replaced(bao: Bao, openbao_server: OpenBao) -> None:
    """Creating a key where there is one changes nothing and says so."""
    as_root = store(bao, openbao_server.root_token)
    sealed = wrap(new_key(), MASTER_KEY, OWNER)
    assert as_root.create(OWNER, sealed)
    assert not as_root.create(OWNER, wrap(new_key(), MASTER_KEY, OWNER))
    assert as_root.current([OWNER]) == [sealed]


def test_token_that_loses_its_rights_is_an_outage(bao: Bao) -> None:
    """When Vault refuses keys while a worker runs, entries wait; they are not answered as if there were no key."""
    token = bao.token()
    keys = store(bao, token)
    bao.write("auth/token/revoke", token=token)
    with pytest.raises(Unavailable):
        keys.current([OWNER])


def test_worker_serves_with_all_keys_in_vault(
    bao: Bao, streams_server: Valkey, storage_server: Valkey, tmp_path: Path
) -> None:
    """A worker that reads the master key and all keys from Vault tokenizes. Redis holds only the tokens."""
    bao.put_key(OWNER.key_name, new_key())
    log = tmp_path / "log"
    settings = {"VAULT_ADDR": bao.url, "VAULT_TOKEN": bao.token(), "TOKEN_WORKER_KEYS_SOURCE": "vault"}
    with Stack(streams_server, storage_server, settings=settings) as stack:
        stack.settings.pop("ACRA_MASTER_KEY")
        stack.start_worker(log=log)
        request = {"id": "1", "op": "tokenize", "client_id": OWNER.id, "type": "str", "value": secrets.token_hex(8)}
        [reply] = stack.ask([request]).values()
        assert reply["status"] == "ok"
        assert not stack.storage.keys(".acrakeys/*")
        [unknown] = stack.ask([{**request, "id": "2", "client_id": "nobody-knows"}]).values()
        assert unknown["error"]["code"] == "unknown_client"


def test_streams_and_storage_on_one_server_are_warned_about(streams_server: Valkey, tmp_path: Path) -> None:
    """Keys and tokens beside the streams are allowed, and warned about at start."""
    log = tmp_path / "log"
    with Stack(streams_server, streams_server) as stack:
        stack.generate_key(OWNER.id)
        stack.start_worker(log=log)
        wait_until(lambda: "worker is ready" in log.read_text(), "the worker")
        assert "share one server" in log.read_text()
        request = {"id": "1", "op": "tokenize", "client_id": OWNER.id, "type": "str", "value": "any value"}
        assert stack.ask([request])["1"]["status"] == "ok"
