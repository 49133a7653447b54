"""Requests to Vault that cannot even be sent name the variable that is wrong, and no password."""

import pytest
import requests

from token_worker.errors import MasterKeyError
from token_worker.keys.vault_requests import send


@pytest.mark.parametrize("proxy", ["nonsense://user:hunter2@x", "http://[::x:80", "http://user:hunter2@x:port"])
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "ALL_PROXY"])
def test_proxy_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, name: str, proxy: str) -> None:
    """A proxy of the environment that cannot be used is not taken for a mistake in the address of Vault."""
    for variable in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, proxy)
    address = "https://127.0.0.1:1"
    with pytest.raises(MasterKeyError, match=r"^HTTPS_PROXY or ALL_PROXY names no proxy") as refused:
        send(address, lambda: requests.get(address, timeout=5))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("address", ["vault:8200", "https://", "https://vault:port", "ftp://vault:8200"])
def test_address_that_is_no_url_is_named(address: str) -> None:
    """An address that is no URL of HTTP is refused with the name of its setting."""
    with pytest.raises(MasterKeyError, match=r"^VAULT_ADDR: "):
        send(address, lambda: requests.get(address, timeout=5))
