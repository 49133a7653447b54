"""Audit files that logrotate rotates under load; ``scripts/rotation`` runs it.

Workers answer detokenize requests while the real logrotate rotates their audit files, with the configuration that the
product ships. Then every answered request must have its line, once, in one of the files.
"""
