"""``token-worker tokens migrate`` as a command: options, rights, audit, workers beside it, and its page."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness import quick
from harness.doc_pages import page
from harness.doc_runner import Reader
from harness.key_places import InVault
from harness.moving import (
    CLIENT,
)
from harness.servers import OpenBao
from harness.stack import Reply, Stack, wait_until
from harness.terminal import Terminal
from token_worker.keys.layout_record import TOKENS_RECORD, layout_path
from token_worker.keys.store import wrap


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "give --to or --drop"),
        (("--to", "dense", "--drop", "acra"), "give --to or --drop"),
        (("--drop", "acra", "--finish"), "--finish needs --to"),
        (("--to", "dense", "--finish", "--resume"), "--resume is for a copy"),
        (("--to", "dense", "--changed"), "--changed is only for --drop"),
        (("--to", "dense", "--leave-unreadable"), "only for --finish"),
        (("--to", "dense", "--finish"), "Confirm with --yes"),
        (("--drop", "acra"), "Confirm with --yes"),
    ],
)
def test_options_that_do_not_fit(stack: Stack, arguments: tuple[str, ...], text: str) -> None:
    """Options without effect are refused, and a finish or drop wants a confirmation."""
    done = stack.run("tokens", "migrate", *arguments)
    assert done.returncode == 2
    assert text in done.stderr


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"TOKEN_WORKER_LAYOUT": "acra"}, "TOKEN_WORKER_LAYOUT is acra: no worker would start afterwards"),
        ({"TOKEN_WORKER_TOKENS_URL": "redis+cluster://127.0.0.1:1"}, "tokens are moved on one server"),
    ],
)
def test_settings_that_do_not_fit(stack: Stack, setting: dict[str, str], text: str) -> None:
    """Nothing is begun if no worker could start afterwards, or where Acra's layout cannot be."""
    done = stack.run("tokens", "migrate", "--to", "dense", "--finish", "--yes", **setting)
    assert done.returncode == 1, done.stderr
    assert text in done.stderr


def test_commands_beside_workers(stack: Stack, tmp_path: Path) -> None:
    """A copy runs while workers serve; the finish waits until they are stopped; then all answers are the same.

    The command has the rights of the operator that ``acl`` prints, and is audited.
    """
    stack.restrict(tmp_path)
    settings = stack.settings_as("token-operator", tmp_path)
    audited = {"TOKEN_WORKER_AUDIT_FILE": str(tmp_path / "audit.log"), **settings}
    worker = stack.start_worker()
    requests: list[Reply] = [
        {"id": str(number), "op": "tokenize", "client_id": CLIENT.id, "type": "str", "value": f"value {number}"}
        for number in range(900)
    ]
    for lone in requests[7::10]:
        lone["consistent"] = False
    before = {number: reply["value"] for number, reply in stack.ask(requests[:600]).items()}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return stack.run("tokens", "migrate", *arguments, **audited)

    done = run("--to", "dense")
    assert (done.returncode, "keys index --all" in done.stderr) == (1, True)
    assert stack.run("keys", "index", "--all").returncode == 0
    command = [sys.executable, "-m", "token_worker", "tokens", "migrate", "--to", "dense", "--rate", "400"]
    environment = stack.environment(**settings)
    with quick.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        before |= {number: reply["value"] for number, reply in stack.ask(requests[600:]).items()}
        assert process.wait(60) == 0
    done = run("--to", "dense", "--finish", "--yes")
    assert (done.returncode, "workers are running" in done.stderr) == (1, True)
    worker.stop()
    waiting = stack.send([{**requests[0], "id": "waits"}])
    assert len(waiting) == 1
    done = run("--to", "dense", "--finish", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["copied"] + shown["same"] == 900
    assert shown["pause_seconds"] > 0

    stack.start_worker()
    wait_until(lambda: any(reply["id"] == "waits" for reply in stack.replies()), "the request that waited")
    after = stack.ask([{**each, "id": f"again {each['id']}"} for each in requests])
    different = [number for number, token in before.items() if after[f"again {number}"].get("value") != token]
    assert sorted(map(int, different)) == list(range(7, 900, 10))  # these were not consistent
    back = [
        {"id": f"back {number}", "op": "detokenize", "client_id": CLIENT.id, "type": "str", "value": token}
        for number, token in before.items()
    ]
    values = stack.ask(back, "detokenize")
    assert all(values[f"back {each['id']}"].get("value") == each["value"] for each in requests)
    chosen = ("disable", CLIENT.id, "--type", "str", "--token")
    assert "disabled: 1 token" in stack.run("tokens", *chosen, value=before["17"], **audited).stdout
    again = stack.ask([{**back[0], "id": "disabled", "value": before["17"]}], "detokenize")
    assert again["disabled"]["error"]["code"] == "token_disabled"
    assert stack.run("tokens", "enable", *chosen[1:], value=before["17"], **audited).returncode == 0

    assert "900 tokens deleted" in run("--drop", "acra", "--yes").stdout
    assert run("--to", "dense").returncode == 1  # this is the layout already
    [audit] = tmp_path.glob("audit-commands-*.log")
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    ended = [line["outcome"] for line in lines if line["event"] == "change ended"]
    assert ended == ["failed", "done", "done", "done", "done", "failed"]
    assert not any(token in audit.read_text() for token in before.values())


def test_keys_and_record_in_vault(stack: Stack, openbao_server: OpenBao) -> None:
    """With keys in Vault, the index keys and the record of the layout are there, and the move is the same."""
    place = InVault(openbao_server)
    place.put(f"{place.folder}/{CLIENT.key_name}", wrap(bytes(range(32)), stack.master_key, CLIENT))
    stack.storage.flushall()
    stack.settings |= place.settings
    worker = stack.start_worker()
    request = {"op": "tokenize", "client_id": CLIENT.id, "type": "str", "value": "a value"}
    before = stack.ask([{**request, "id": "1"}])["1"]["value"]
    worker.stop()
    assert stack.run("keys", "index", "--all").returncode == 0
    done = stack.run("tokens", "migrate", "--to", "dense", "--finish", "--yes")
    assert done.returncode == 0, done.stderr
    assert place.get(layout_path(place.folder)) == stack.storage.get(TOKENS_RECORD)
    stack.start_worker()
    assert stack.ask([{**request, "id": "2"}])["2"].get("value") == before


def test_progress_on_a_terminal(stack: Stack) -> None:
    """On a terminal a bar shows how many tokens were seen, how many a second, and a place for the time that is left."""
    stack.start_worker()
    stack.ask(
        [
            {"id": str(number), "op": "tokenize", "client_id": CLIENT.id, "type": "int32", "value": number}
            for number in range(600)
        ]
    )
    assert stack.run("keys", "index", "--all").returncode == 0
    command = [sys.executable, "-m", "token_worker", "tokens", "migrate", "--to", "dense", "--rate", "200"]
    with Terminal(command, stack.environment()) as terminal:
        terminal.wait_for(" tokens, ", "/s ", "-:--:--")


def test_page_runs_as_printed(stack: Stack, tmp_path: Path) -> None:
    """An operator can run every command of the page, with the workers stopped for the finish."""
    worker = stack.start_worker()
    stack.ask([{"id": "1", "op": "tokenize", "client_id": CLIENT.id, "type": "str", "value": "before"}])
    settings = {**stack.settings, "TOKEN_WORKER_AUDIT_FILE": str(tmp_path / "audit.log")}
    with Reader(tmp_path, settings, {}) as reader:
        reader.follow(page("docs/migrate.md"), lambda section: section in ("1. Prepare", "2. Copy"))
        worker.stop()
        reader.follow(page("docs/migrate.md"), lambda section: section not in ("1. Prepare", "2. Copy"))
    assert stack.storage.keys("tokens/*") == []
