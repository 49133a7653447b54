"""The page that operators look at, and metrics for all routes: ``token-worker monitor``."""
