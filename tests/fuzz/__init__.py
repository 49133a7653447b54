"""Hostile input for the worker's own code, in process and without servers: ``fuzz.py`` runs it.

Two targets: *requests* (``entries``), raw stream entries beside good neighbours; *stored* (``stored``), damaged token
entries and keys. A case is told by its seed and number alone, and can be run again by these.
"""
