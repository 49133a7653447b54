"""Master key, Vault, key storage and key cache."""
