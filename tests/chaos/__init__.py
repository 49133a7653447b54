"""What ``scripts/chaos`` does to workers and their servers, and the books it keeps meanwhile.

``strict`` is the act in which nothing may be lost: faults of ``workers``, ``servers`` and ``vault``.
``losses`` are the acts in which a server loses data. All are a ``scene`` with ``traffic`` and a ``ledger``; ``plan``
counts the faults, ``judge`` tells what is permitted, ``report`` shows it. ``proxy``, ``messages``, ``commands`` and
``planted`` serve the tests, too.
"""
