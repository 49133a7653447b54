"""Faults for workers and their servers, brought about by ``scripts/chaos``, while a ledger keeps every request.

``strict`` is the act in which nothing may be lost: faults of ``workers``, ``servers`` and ``vault``.
``troubles`` are the acts in which servers are away or full and keep their data, ``losses`` those in which a server
loses data. Each act is a ``scene`` with ``traffic``. ``plan`` chooses and counts the faults, ``judge`` decides which
troubles lost data excuses, and ``report`` shows the result.
"""
