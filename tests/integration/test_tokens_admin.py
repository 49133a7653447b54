"""``token-worker tokens``: the commands for tokens, while workers and Acra use them."""

import base64
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from harness import quick
from harness.servers import Valkey
from harness.stack import Stack, wait_until
from harness.stored_names import entries_of, names_of
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import EntryNames, TokenEntry, decode_entry, encode_entry, encode_token_value
from token_worker.acra.value_types import TYPES
from token_worker.admin.entry_store import ServerEntries
from token_worker.admin.stored_tokens import Token
from token_worker.admin.tokens import TokenAdmin, TokenFilter
from token_worker.keys.cache import KeyCache
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.keys.store import RedisKeyStore
from token_worker.redis.address import RedisSettings
from token_worker.redis.link import RedisLink

CLIENT = "shop-frontend"
SHOP = Owner("client", CLIENT)
NAMES = EntryNames(SHOP)
STR = TYPES["str"].number


@pytest.fixture(params=["acra", "dense"])
def both(streams_server: Valkey, storage_server: Valkey, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A stack as ``stack``, in either layout."""
    with Stack(streams_server, storage_server, layout=request.param) as made:
        made.generate_key(CLIENT)
        yield made


def run(stack: Stack, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """``token-worker tokens`` with the stack's settings."""
    return stack.run("tokens", *arguments, **more)


def request(number: int | str, op: str = "tokenize", **more: Any) -> dict[str, Any]:
    value = {"type": "str", "value": f"value {number}"}
    return {"id": f"{op}-{number}", "op": op, "client_id": CLIENT, **value, **more}


def tokens_of(stack: Stack, count: int, **more: Any) -> list[str]:
    replies = stack.ask([request(number, **more) for number in range(count)])
    return [replies[f"tokenize-{number}"]["value"] for number in range(count)]


def test_status_counts_by_type_and_state(both: Stack) -> None:
    """``status`` counts tokens by type and state, and those without a value entry."""
    both.start_worker()
    tokens_of(both, 30)
    both.ask([request(f"i{number}", consistent=False, type="int32", value=number) for number in range(4)])
    assert run(both, "disable", CLIENT, "--type", "str", "--value", value="value 3").stdout == "disabled: 1 token\n"
    done = run(both, "status", CLIENT, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "types": [
            {"type": "int32", "enabled": 4, "disabled": 0, "without_value_entry": 4},
            {"type": "str", "enabled": 29, "disabled": 1, "without_value_entry": 0},
        ],
        "unreadable": 0,
    }
    assert "29" in run(both, "status", CLIENT, "--state", "enabled", "--type", "str").stdout
    assert run(both, "status", "other-client").returncode == 1  # has no key


def test_show_reveals_only_when_asked_and_audited(both: Stack, tmp_path: Any) -> None:
    """``show`` tells no value or token; with --reveal it does, after a line in the audit log without them."""
    both.start_worker()
    [token] = tokens_of(both, 1)
    setting = str(tmp_path / "audit.log")
    shown = run(both, "show", CLIENT)
    assert json.loads(shown.stdout)["state"] == "enabled"
    assert "value 0" not in shown.stdout
    assert token not in shown.stdout
    options = ("show", CLIENT, "--type", "str", "--token", "--reveal")
    assert run(both, *options, value=token, TOKEN_WORKER_AUDIT_FILE=setting).returncode == 2
    unaudited = run(both, *options, "--yes", value=token)
    assert (unaudited.returncode, unaudited.stdout) == (2, "")
    assert "--reveal needs an audit file" in unaudited.stderr
    revealed = run(both, *options, "--yes", value=token, TOKEN_WORKER_AUDIT_FILE=setting)
    assert json.loads(revealed.stdout)["value"] == "value 0"
    [audit] = tmp_path.glob("audit-commands-*.log")
    line = json.loads(audit.read_text())
    assert (line["event"], line["client_id"]) == ("reveal", CLIENT)
    assert "value 0" not in audit.read_text()
    assert token not in audit.read_text()
    assert run(both, "show", CLIENT, "--type", "str", "--token", value="no such token").returncode == 1


def test_disabled_tokens_come_back_enabled(both: Stack) -> None:
    """A disabled token is refused both ways by workers, and serves again once enabled; times to live stay."""
    both.start_worker()
    [token] = tokens_of(both, 1)
    t_key = names_of(both, SHOP).of_token(token.encode(), STR)
    both.storage.expire(t_key, 1000)
    back = request("back", "detokenize", value=token)
    assert run(both, "disable", CLIENT, "--dry-run").stdout == "would be disabled: 1 token\n"
    assert both.ask([back], "detokenize")["detokenize-back"]["value"] == "value 0"
    assert run(both, "disable", CLIENT).returncode == 2  # all of a client, and nobody to ask
    assert run(both, "disable", CLIENT, "--yes").stdout == "disabled: 1 token\n"
    assert both.ask([back], "detokenize")["detokenize-back"]["error"]["code"] == "token_disabled"
    assert both.ask([request(0)])["tokenize-0"]["error"]["code"] == "token_disabled"
    assert 900 < both.storage.ttl(t_key) <= 1000
    done = run(both, "enable", CLIENT, "--type", "str", "--token", value=token)
    assert done.stdout == "enabled: 1 token\n"
    assert tokens_of(both, 1) == [token]


def age(stack: Stack, key: bytes, seconds: int) -> None:
    """Make an entry as if it had been made and used so long ago."""
    entry = decode_entry(stack.storage.get(key))
    then = int(time.time()) - seconds
    stack.storage.set(key, encode_entry(entry._replace(created=then, accessed=then)))


def test_age_is_that_of_the_last_use_either_way(stack: Stack) -> None:
    """A token counts as old only when both of its entries are."""
    stack.start_worker()
    first, second, _ = tokens_of(stack, 3)
    for number, token in enumerate((first, second)):
        age(stack, NAMES.of_token(token.encode(), STR), 10 * 86_400)
        if number == 0:
            age(stack, NAMES.of_value(b"value 0", STR), 10 * 86_400)
    done = run(stack, "remove", CLIENT, "--older-than", "9", "--yes")
    assert done.stdout == "removed: 1 token\n"
    assert stack.storage.exists(NAMES.of_token(first.encode(), STR), NAMES.of_value(b"value 0", STR)) == 0
    assert stack.storage.exists(NAMES.of_token(second.encode(), STR), NAMES.of_value(b"value 1", STR)) == 2


def test_remove_takes_only_what_is_meant(stack: Stack) -> None:
    """``--state disabled`` removes no enabled token, and a value entry that names another token stays."""
    stack.start_worker()
    kept, gone = tokens_of(stack, 2)
    run(stack, "disable", CLIENT, "--type", "str", "--token", value=gone)
    assert run(stack, "remove", CLIENT, "--state", "disabled", "--dry-run").stdout == "would be removed: 1 token\n"
    assert run(stack, "remove", CLIENT, "--state", "disabled", "--yes").stdout == "removed: 1 token\n"
    assert run(stack, "remove", CLIENT, "--state", "disabled", "--yes").stdout == "removed: 0 tokens\n"
    assert len(stack.storage.keys("tokens/*")) == 2
    # An inconsistent token of the same value: its t. goes, the h. of the consistent one does not.
    other = stack.ask([request(0, consistent=False)])["tokenize-0"]["value"]
    assert other != kept
    h_key = NAMES.of_value(b"value 0", STR)
    h_raw = stack.storage.get(h_key)
    assert run(stack, "remove", CLIENT, "--type", "str", "--token", value=other).stdout == "removed: 1 token\n"
    assert stack.storage.get(h_key) == h_raw
    assert tokens_of(stack, 1) == [kept]
    assert stack.ask([request("k", "detokenize", value=kept)], "detokenize")["detokenize-k"]["value"] == "value 0"


def test_filters_choose_also_what_is_named(stack: Stack) -> None:
    """A token of another type, state or age than the filters say is not removed, whether it is named or found."""
    stack.start_worker()
    [token] = tokens_of(stack, 1)
    number = stack.ask([request("int", type="int32", value=7)])["tokenize-int"]["value"]
    nothing = "removed: 0 tokens\n"
    assert run(stack, "remove", CLIENT, "--type", "email", "--yes").stdout == nothing
    for option, value in (("--token", token), ("--value", "value 0")):
        for chosen in (("--state", "disabled"), ("--older-than", "1")):
            assert run(stack, "remove", CLIENT, "--type", "str", option, *chosen, value=value).stdout == nothing
    assert run(stack, "remove", CLIENT, "--type", "int32", "--yes").stdout == "removed: 1 token\n"
    assert tokens_of(stack, 1) == [token]
    left = {NAMES.of_token(token.encode(), STR), NAMES.of_value(b"value 0", STR)}
    assert set(stack.storage.keys("tokens/*")) == left
    back = stack.ask([request("b", "detokenize", type="int32", value=number)], "detokenize")["detokenize-b"]
    assert back["error"]["code"] == "token_not_found"


def test_token_that_is_no_longer_meant_is_not_removed(both: Stack) -> None:
    """A token that was enabled again after it was found among the disabled ones stays."""
    both.start_worker()
    tokens_of(both, 1)
    run(both, "disable", CLIENT, "--type", "str", "--value", value="value 0")
    url = both.settings["TOKEN_WORKER_KEYS_URL"]
    with (
        closing(RedisLink("keys", RedisSettings(url=url))) as keys,
        closing(RedisLink("tokens", RedisSettings(url=url))) as link,
    ):
        cache = KeyCache(RedisKeyStore(keys, ".acrakeys"), both.master_key, with_index=both.layout == "dense")
        admin = TokenAdmin(ServerEntries(link), cache, SHOP, layout=both.layout, rate=1e9)
        chosen = TokenFilter(state="disabled")
        [found] = admin.tokens(chosen)
        assert isinstance(found, Token)
        assert run(both, "enable", CLIENT, "--yes").stdout == "enabled: 1 token\n"
        assert admin.remove(found, chosen)
        [now] = admin.tokens(TokenFilter())
        assert isinstance(now, Token)
        assert admin.remove(now, TokenFilter())
        assert list(admin.tokens(TokenFilter())) == []


def test_values_that_are_no_text_are_told_from_damage(both: Stack, tmp_path: Any) -> None:
    """A value that is no UTF-8 is counted by ``verify`` and no finding; ``show`` reveals its bytes as such."""
    both.start_worker()
    latin = base64.b64encode("André".encode("latin-1")).decode()
    [plain] = tokens_of(both, 1)
    token = both.ask([request("latin", value=latin, **{"as": "bytes"})])["tokenize-latin"]["value"]
    done = run(both, "verify", CLIENT, "--json")
    assert (done.returncode, json.loads(done.stdout)["not_text"], json.loads(done.stdout)["unreadable"]) == (0, 1, 0)
    assert "1 values that are not UTF-8 text, but not damaged\n" in run(both, "verify", CLIENT).stdout
    assert {json.loads(line)["text"] for line in run(both, "show", CLIENT).stdout.splitlines()} == {True, False}
    options = ("show", CLIENT, "--type", "str", "--token", "--reveal", "--yes")
    audited = {"TOKEN_WORKER_AUDIT_FILE": str(tmp_path / "audit.log")}
    shown = json.loads(run(both, *options, value=token, **audited).stdout)
    assert (shown["text"], shown["value_base64"], shown["token"]) == (False, latin, token)
    assert "value" not in shown
    shown = json.loads(run(both, *options, value=plain, **audited).stdout)
    assert (shown["text"], shown["value"], shown["token"]) == (True, "value 0", plain)
    both.storage.setrange(names_of(both, SHOP).of_token(token.encode(), STR), 30, b"x")
    done = run(both, "verify", CLIENT, "--json")
    assert (done.returncode, json.loads(done.stdout)["not_text"], json.loads(done.stdout)["unreadable"]) == (1, 0, 1)


def test_values_that_are_none_of_their_type_cannot_be_read(stack: Stack) -> None:
    """A stored number of another length, or an empty value, cannot be read by commands either, as by workers."""
    ring = Keyring(Owner("client", CLIENT), stack.generate_key(CLIENT), DataKeyCache())
    for number, value in ((TYPES["int32"].number, b"\1\2\3"), (TYPES["int64"].number, b"\1\2\3\4"), (STR, b"")):
        entry = TokenEntry(ring.seal(encode_token_value(value, number)), 1, 1)
        stack.storage.set(NAMES.of_token(b"token %d" % number, number), encode_entry(entry))
    done = run(stack, "verify", CLIENT, "--json")
    assert (done.returncode, json.loads(done.stdout)["unreadable"]) == (1, 3)
    assert run(stack, "show", CLIENT).stdout == ""


def test_halves_are_found_and_repaired_only_when_old(stack: Stack) -> None:
    """``verify`` finds halves that other tools left; --repair deletes old value entries, never a token entry."""
    stack.start_worker()
    first, second, third = tokens_of(stack, 3)
    assert run(stack, "verify", CLIENT).returncode == 0
    for token in (first, second):
        stack.storage.delete(NAMES.of_token(token.encode(), STR))
    age(stack, NAMES.of_value(b"value 0", STR), 7200)
    t_key = NAMES.of_token(third.encode(), STR)
    stack.storage.set(t_key, encode_entry(decode_entry(stack.storage.get(t_key))._replace(disabled=True)))
    expected = {"value_alone": 2, "disabled_alone": 1, "mismatch": 0, "unreadable": 0, "not_text": 0, "repaired": 0}
    found = run(stack, "verify", CLIENT, "--json")
    assert found.returncode == 1
    alone = [NAMES.of_value(b"value %d" % number, STR).decode() for number in (0, 1)]
    decoded = json.loads(found.stdout)
    assert sorted(decoded["entries"].pop("value_alone")) == sorted(alone)
    assert len(decoded.pop("entries")["disabled_alone"]) == 1
    assert decoded == expected
    left = {"entries": {"value_alone": alone[1:], "disabled_alone": [NAMES.of_value(b"value 2", STR).decode()]}}
    dry = run(stack, "verify", CLIENT, "--repair", "--dry-run", "--json")
    assert json.loads(dry.stdout) == {**expected, "value_alone": 1, "repaired": 1, **left}
    assert stack.storage.exists(NAMES.of_value(b"value 0", STR))
    done = run(stack, "verify", CLIENT, "--repair", "--json")
    assert json.loads(done.stdout) == {**expected, "value_alone": 1, "repaired": 1, **left}
    assert not stack.storage.exists(NAMES.of_value(b"value 0", STR))
    assert stack.storage.exists(NAMES.of_value(b"value 1", STR))
    stack.storage.delete(NAMES.of_value(b"value 2", STR))
    run(stack, "verify", CLIENT, "--repair", "--min-age-seconds", "0")
    assert stack.storage.keys("tokens/*") == [t_key]


def test_one_token_of_two_types_is_no_finding(stack: Stack) -> None:
    """If values of two types have a token of the same bytes, ``verify`` checks the token entry of each type."""
    ring = Keyring(Owner("client", CLIENT), stack.generate_key(CLIENT), DataKeyCache())
    now = int(time.time())
    for name in ("str", "bytes", "email"):
        value, number = f"{name}@b.example".encode(), TYPES[name].number
        entry = TokenEntry(ring.seal(encode_token_value(value, number)), now, now)
        stack.storage.set(NAMES.of_token(b"a@b.example", number), encode_entry(entry))
        stack.storage.set(NAMES.of_value(value, number), encode_entry(TokenEntry(ring.seal(b"a@b.example"), now, now)))
    done = run(stack, "verify", CLIENT, "--json")
    assert done.returncode == 0, done.stdout
    t_key = NAMES.of_token(b"a@b.example", TYPES["bytes"].number)
    stack.storage.set(t_key, encode_entry(decode_entry(stack.storage.get(t_key))._replace(disabled=True)))
    done = run(stack, "verify", CLIENT, "--json")
    assert (done.returncode, json.loads(done.stdout)["disabled_alone"], json.loads(done.stdout)["mismatch"]) == (
        1,
        1,
        0,
    )


def test_unreadable_entries_are_told_and_left(both: Stack) -> None:
    """Every command reports entries that no key opens, and leaves them byte for byte as they are."""
    both.start_worker()
    [token] = tokens_of(both, 1)
    t_key = names_of(both, SHOP).of_token(token.encode(), STR)
    both.storage.setbit(t_key, 40 * 8, 1 - both.storage.getbit(t_key, 40 * 8))
    broken = both.storage.get(t_key)
    for arguments in (("status",), ("verify",), ("disable", "--yes"), ("remove", "--yes"), ("reencrypt", "--yes")):
        done = run(both, arguments[0], CLIENT, *arguments[1:])
        assert done.returncode == 1, arguments
        assert "1 finding\n" in done.stderr if arguments == ("verify",) else "cannot be read" in done.stderr
    assert both.storage.get(t_key) == broken


@pytest.mark.parametrize(("both", "kills"), [("acra", 0), ("acra", 3), ("dense", 3)], indirect=["both"])
def test_reencrypt_under_load_changes_no_token_and_fails_no_request(both: Stack, kills: int) -> None:
    """After a rotation all entries are encrypted again while workers answer, also if the command is killed."""
    both.start_worker()
    before = tokens_of(both, 1200)
    rotated = [sys.executable, "-m", "token_worker", "keys", "rotate", CLIENT, "--yes"]
    quick.run(rotated, env=both.environment(), check=True, capture_output=True, timeout=60)
    old = {key: both.storage.get(key) for key in entries_of(both)}
    command = [sys.executable, "-m", "token_worker", "tokens", "reencrypt", CLIENT, "--yes", "--rate", "1500"]
    rng = random.Random(kills)

    def changed() -> int:
        return sum(now != raw for now, raw in zip(both.storage.mget([*old]), old.values(), strict=True))

    for _ in range(kills):
        target = min(changed() + rng.randrange(1, 400), len(old))  # where it was quick before, all may be done by now
        with quick.Popen(command, env=both.environment(), stdout=subprocess.DEVNULL) as process:
            wait_until(lambda target=target: changed() >= target, "some entries sealed anew")  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
    with quick.Popen(command, env=both.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        rounds = 0
        while process.poll() is None or not rounds:
            replies = both.ask(
                [request(f"{rounds}-{number}", "detokenize", value=token) for number, token in enumerate(before[:400])],
                "detokenize",
            )
            assert {reply["status"] for reply in replies.values()} == {"ok"}
            rounds += 1
        output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert b"sealed with the newest key" in output
    assert tokens_of(both, 1200) == before
    assert all(both.storage.get(key) != raw for key, raw in old.items())
    done = run(both, "reencrypt", CLIENT, "--dry-run", "--json")
    assert json.loads(done.stdout) == {"dry_run": True, "sealed": 0, "passes": 1, "unreadable": 0}


def test_reencrypt_counts_entries(both: Stack) -> None:
    """Both entries of a consistent token count, and the one of an inconsistent token."""
    both.start_worker()
    tokens_of(both, 3)
    both.ask([request("i", consistent=False)])
    assert both.run("keys", "rotate", CLIENT, "--yes").returncode == 0
    dry = run(both, "reencrypt", CLIENT, "--dry-run", "--json")
    assert json.loads(dry.stdout) == {"dry_run": True, "sealed": 7, "passes": 1, "unreadable": 0}
    done = run(both, "reencrypt", CLIENT, "--yes", "--json")
    assert json.loads(done.stdout) == {"dry_run": False, "sealed": 7, "passes": 2, "unreadable": 0}


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("status", "x"),
        ("show", CLIENT, "--value"),
        ("show", CLIENT, "--type", "str", "--value", "--token"),
        ("show", CLIENT, "--type", "int32", "--value"),
        ("show", CLIENT, "--type", "no-type"),
        ("remove", CLIENT),
        ("reencrypt", CLIENT, "--rate", "0"),
    ],
)
def test_wrong_arguments_are_wrong_usage(stack: Stack, arguments: tuple[str, ...]) -> None:
    """Wrong arguments get exit status 2 and a hint, without the value."""
    done = run(stack, *arguments, value="a canary")
    assert done.returncode == 2
    assert done.stderr
    assert "canary" not in done.stderr
