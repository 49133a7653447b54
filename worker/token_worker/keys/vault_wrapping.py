"""Secret ids that Vault has wrapped: the file holds a token that gives the secret id once, and only once."""

import re

import hvac.exceptions
from hvac.adapters import JSONAdapter
from hvac.api.system_backend import Wrapping

from token_worker.errors import MasterKeyError
from token_worker.keys.vault_requests import answer
from token_worker.settings.vault import VaultSettings


def unwrap_secret_id(adapter: JSONAdapter, settings: VaultSettings, wrapping_token: str, mount: str) -> str:
    """Exchange a wrapping token for the secret id. Uses the adapter for that, and closes it.

    Where the token comes from is checked first, because anybody could put a token that wraps something else into the
    file.

    Raises:
        Unavailable: Vault is away; the token may be used up.
        MasterKeyError: the token was used before, has ended, or wraps something else.
    """
    file = f"TOKEN_WORKER_VAULT_SECRET_ID_FILE: {settings.secret_id_file}"
    adapter.token = wrapping_token if wrapping_token.isascii() and wrapping_token.isprintable() else None
    try:
        looked = answer(settings.address, lambda: adapter.post("/v1/sys/wrapping/lookup"), "data")
        path = str(looked.get("creation_path"))
        if not re.fullmatch(rf"auth/{re.escape(mount)}/role/[^/]+/(custom-)?secret-id", path):
            raise MasterKeyError(f"{file} wraps something else than a secret id of auth/{mount}")
        return str(answer(settings.address, Wrapping(adapter).unwrap, "data")["secret_id"])
    except (hvac.exceptions.VaultError, KeyError):
        raise MasterKeyError(
            f"{file} holds no wrapping token that is still valid: it has ended, was used before, or is no such token."
            " If no worker has used it, somebody else has the secret id: destroy that, and wrap a new one"
        ) from None
    finally:
        adapter.close()
