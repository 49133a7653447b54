"""Names of the commands that a worker sends, as faults are aimed at them and counted."""

from harness.proxy import Command
from token_worker.redis.script import Script
from token_worker.streams import commit, delivery, retention, uncounted, worker_notes

SCRIPTS = {
    script.sha.encode(): script.name.removesuffix(".lua")
    for script in (
        *(commit.COMMIT, commit.DEAD_LETTER, uncounted.UNCOUNT, delivery.GROUP),
        *(retention.TURN, retention.TRIM, retention.SWEEP),
        *(worker_notes.NOTE, worker_notes.SWEEP_NOTES),
        *(Script("token_worker.storage", name) for name in ("store.lua", "adopt.lua", "touch.lua")),
    )
}

CLAIM = "streams XCLAIM"
COMMIT = "streams EVALSHA commit"
UNCOUNT = "streams EVALSHA uncount"

LABELS = (
    "streams CLIENT",
    "streams EVALSHA group",
    "streams XPENDING",
    "streams XREADGROUP",
    CLAIM,
    COMMIT,
    UNCOUNT,
    "streams EVALSHA dead_letter",
    "streams EVALSHA turn",
    "streams EVALSHA trim",
    "streams EVALSHA sweep",
    "streams EVALSHA note",
    "streams EVALSHA sweep_notes",
    "keys CLIENT",
    "keys MGET",
    "tokens CLIENT",
    "tokens GET",
    "tokens PING",
    "tokens MGET",
    "tokens MSETNX",
    "tokens EVALSHA store",
    "tokens EVALSHA adopt",
    "tokens EVALSHA touch",
)
"""Every command that a worker with keys in Redis sends to servers that have their data, in Acra's layout."""

DENSE_LABELS = (*(name for name in LABELS if name != "tokens EVALSHA touch"), "tokens SET")
"""The same in the dense layout: entries have no time of last use, and a check value is written."""


def label(role: str, command: Command) -> str:
    """A command as people read it: the role of its server, its name, and the name of its script."""
    name = command.name
    if name in ("EVALSHA", "EVAL"):
        return f"{role} {name} {SCRIPTS.get(command.parts[1], 'source')}"
    return f"{role} {name}"
