"""Hostile input for the worker's own code, in process and without servers; ``scripts/fuzz`` runs it.

Two targets: *requests* (``entries``), raw stream entries beside good neighbours; *stored* (``stored``), damaged token
entries and keys. A case is known by its seed and number, and can be run again with these.
"""
