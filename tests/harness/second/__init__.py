"""Parts of the second implementation of the token derivation: how each type, and each kind of format, is drawn."""
