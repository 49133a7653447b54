"""Every byte format of Acra's, and nothing else.

Secure Cell and AcraBlock (how values are encrypted), token entries, names of keys, owners, and the five value types.
"""
