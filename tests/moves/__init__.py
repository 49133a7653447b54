"""``scripts/moves``: many tokens are moved both ways under load, the command is killed, and every token is compared."""
