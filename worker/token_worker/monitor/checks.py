"""Checks of ``doctor`` with the rights of the monitor, and those that are left out.

Trying a right that is missing leaves a line in ``ACL LOG`` of the server. So rights are tried once, not every time.
"""

from collections.abc import Iterator

from token_worker.admin.check import Check
from token_worker.admin.doctor import examine_servers
from token_worker.errors import ServerError, Unavailable
from token_worker.redis.connect import make_primary_link
from token_worker.settings.options import Settings

OF_RIGHTS = (
    *(": user", ": who may detokenize", ": who may read values", ": who may read"),
    *(": right to read", ": durability before a reply", "layout: entries"),
)
"""Endings of the checks that try rights."""

LEFT_OUT = {
    "master key": "the monitor has no master key",
    "Vault token": "the monitor does not use Vault",
    "keys": "the monitor sees names of keys, and opens none",
}
"""Checks of doctor that the monitor never does, with the reason."""


class Checks:
    """Runs the checks of ``doctor`` again and again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._of_rights: list[Check] | None = None

    def look(self) -> list[Check]:
        """Do the checks. Rights are tried until all servers have answered once."""
        if self._of_rights is not None:
            plain = [*examine_servers(self._settings, tries_rights=False)]
            names = {check.check for check in plain}
            return [*plain, *(check for check in self._of_rights if check.check not in names)]
        found = [*examine_servers(self._settings), *_rights(self._settings)]
        if not any(check.check.endswith(": reachable") for check in found):
            self._of_rights = [check for check in found if check.check.endswith(OF_RIGHTS)]
        return found


def _rights(settings: Settings) -> Iterator[Check]:
    """Check that the monitor's users may not read keys and token entries."""
    kinds = {"keys": (settings.keys, settings.keys_folder), "tokens": (settings.tokens, "tokens")}
    for use, (address, folder) in kinds.items():
        if use == "keys" and settings.keys_source == "vault":
            continue
        link = make_primary_link(use, address, raise_server_errors=True)
        try:
            link.call("GET", f"{folder}/no-such-name")
        except Unavailable:
            continue  # another check says so
        except ServerError:
            yield Check(f"{use}: right to read", "ok", "the monitor's user may not read what is stored")
        else:
            remedy = "log in as token-monitor, one of the users that `token-worker acl` prints"
            yield Check(f"{use}: right to read", "finding", f"the monitor's user may read the {use}", remedy)
        finally:
            link.close()
