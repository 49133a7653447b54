"""Options: their table, how they are loaded, and the settings of Vault."""
