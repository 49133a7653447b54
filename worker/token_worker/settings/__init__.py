"""Options: their table, how they are loaded, and the settings of Vault."""

from token_worker.settings.loader import load

__all__ = ["load"]
