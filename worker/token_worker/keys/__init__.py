"""Master key, key storage, and the formats keys are sealed in."""
