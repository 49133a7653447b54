"""Every byte format of Acra, and nothing else.

Secure Cell and AcraBlock encrypt values. Besides them: token entries, names of keys, owners, and the five value types.
"""
