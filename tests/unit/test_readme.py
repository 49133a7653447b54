"""The README is in step with what runs: its tables are those of the code, and its examples run as printed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import jsonschema
import msgspec
import pytest
from servers import OpenBao, bao_binary
from stack import Stack

from token_worker.cli import app
from token_worker.contract.schemas import documents
from token_worker.settings import describe, load

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(section: str) -> list[str]:
    """The command lines of a section."""
    [text] = re.findall(rf"^## {section}\n(.*?)(?=^## )", README, re.DOTALL | re.MULTILINE)
    return re.findall(r"^\$ (.*)$", text, re.MULTILINE)


def shell(command: str, environment: dict[str, str], folder: Path) -> str:
    """What a command line prints; it has to end well."""
    pipefail = ["/bin/bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(pipefail, env=environment, cwd=folder, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}"
    return done.stdout.decode()


def path(folder: Path) -> str:
    """``PATH`` with the commands of this environment, and those in the folder."""
    return os.pathsep.join((str(folder), str(Path(sys.executable).parent), os.defpath))


def test_readme_is_short() -> None:
    """The README has at most 400 lines, each of a length that can be read."""
    lines = README.splitlines()
    assert len(lines) <= 400
    assert max(len(line) for line in lines if not line.startswith(("|", "$"))) <= 180


def test_settings_are_all_there() -> None:
    """The table of settings is that of the code, line by line."""
    table = [line for line in README.splitlines() if re.match(r"\| `(TOKEN_WORKER|ACRA|VAULT)_", line)]
    assert [f"| `{name}` | {default} | {meaning} |" for name, default, meaning in describe()] == table


@pytest.mark.parametrize("example", blocks("json"), ids=range(len(blocks("json"))))
def test_messages_are_valid(example: str) -> None:
    """Every JSON message in the README is valid by its published schema."""
    message = msgspec.json.decode(example)
    kind = "reply" if "status" in message else "request"
    schema = msgspec.json.decode(documents()[f"{kind}.schema.json"])
    jsonschema.validate(message, schema, jsonschema.Draft202012Validator)


def test_messages_on_the_shell_are_valid() -> None:
    """The request and the reply that are shown with redis-cli are valid ones, and belong together."""
    [line] = [line for line in commands("A request and its reply") if "XADD" in line]
    [printed] = re.findall(r'"(\{\\".*\})"', README)
    request, reply = msgspec.json.decode(shlex.split(line)[-1]), msgspec.json.decode(printed.replace("\\", ""))
    for message, kind in ((request, "request"), (reply, "reply")):
        schema = msgspec.json.decode(documents()[f"{kind}.schema.json"])
        jsonschema.validate(message, schema, jsonschema.Draft202012Validator)
    assert request["id"] == reply["id"]
    assert len(request["value"]) == len(reply["value"])


def test_request_and_reply_run_as_printed(stack: Stack, tmp_path: Path) -> None:
    """The first examples give replies of the members that are printed, with ``token-worker`` and with ``redis-cli``."""
    stack.generate_key("demo-client")
    stack.start_worker()
    redis_cli = tmp_path / "redis-cli"  # no wheel brings one
    redis_cli.write_text(
        f"#!{sys.executable}\nimport sys, redis\n"
        "print(redis.Redis.from_url(sys.argv[2], decode_responses=True).execute_command(*sys.argv[3:]))\n"
    )
    redis_cli.chmod(0o755)
    environment = stack.environment(PATH=path(tmp_path))
    request, add, read = (shell(line, environment, ROOT) for line in commands("A request and its reply"))
    printed = msgspec.json.decode(blocks("console")[1].partition("\n")[2])
    reply = msgspec.json.decode(request)
    assert reply.keys() == printed.keys()
    assert reply["status"] == "ok"
    assert f'"request_entry":"{add.strip()}"' in read
    assert '"status":"ok"' in read


def test_python_runs_as_printed(stack: Stack, tmp_path: Path) -> None:
    """The example in Python prints a token and its value, and the error that its comment tells."""
    stack.generate_key("demo-client")
    stack.start_worker()
    [example] = blocks("python")
    (tmp_path / "example.py").write_text(example)
    line, error = shell("python -W error example.py", stack.environment(PATH=path(tmp_path)), tmp_path).splitlines()
    assert re.fullmatch(r"\S+@\S+ grace@navy\.example", line)
    assert f"print(error)  # {error};" in example


def test_whole_files_run_as_printed(stack: Stack, tmp_path: Path) -> None:
    """The commands for files tokenize a file, turn it back, and find no difference."""
    stack.generate_key("demo-client")
    stack.start_worker()
    people = tmp_path / "people.csv"
    people.write_bytes(b'name,email,card\r\n"Hopper, Grace",grace@navy.example,4242 4242 4242 4242\r\nAda,,5105\r\n')
    for line in commands("Whole files"):
        shell(line, stack.environment(PATH=path(tmp_path)), tmp_path)
    tokens = (tmp_path / "tokens.csv").read_text()
    assert '"Hopper, Grace"' in tokens
    assert "grace@navy.example" not in tokens
    assert (tmp_path / "left-out.jsonl").read_text() == ""


def test_set_up_runs_as_printed(stack: Stack, tmp_path: Path) -> None:
    """What is to be done in Vault gives a worker its master key by the settings that are shown, and it serves."""
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    (tmp_path / "vault").symlink_to(bao_binary())
    *set_up, generate, run = commands("Run it")
    del stack.settings["ACRA_MASTER_KEY"]
    with OpenBao() as bao:
        operator = stack.environment(
            PATH=path(tmp_path), HOME=str(tmp_path), VAULT_ADDR=bao.url, VAULT_TOKEN=bao.root_token
        )
        printed = [shell(line, operator, tmp_path) for line in set_up]
        settings = blocks("toml")[0].replace("https://vault:8200", bao.url)
        settings = settings.replace("the role id that was printed", printed[-2].strip())
        for server in ("streams", "keys"):
            settings = settings.replace(f"redis://{server}:6379", stack.settings[f"TOKEN_WORKER_{server.upper()}_URL"])
        (tmp_path / "worker.toml").write_text(settings)
        stack.settings.clear()
        stack.storage.flushall()
        worker = stack.environment(PATH=path(tmp_path), HOME=str(tmp_path))
        shell(generate, worker, tmp_path)
        process = subprocess.Popen(shlex.split(run), env=worker, cwd=tmp_path, stderr=subprocess.DEVNULL)
        try:
            [reply] = stack.ask(
                [{"id": "1", "op": "tokenize", "client_id": shlex.split(generate)[-1], "type": "str", "value": "x"}]
            ).values()
        finally:
            process.terminate()
            process.wait(30)
    assert reply["status"] == "ok"
    assert (tmp_path / "secret-id").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("example", blocks("toml"), ids=range(len(blocks("toml"))))
def test_settings_files_load(example: str, tmp_path: Path) -> None:
    """Every TOML example is taken as it stands."""
    file = tmp_path / "worker.toml"
    file.write_text(example)
    assert load({}, file).routes


def test_commands_exist() -> None:
    """Every ``token-worker`` command in the README exists, and every command is in its table."""
    named = {name for name in re.findall(r"token-worker (?:--config \S+ )?([a-z-]+)", README) if name != "on"}
    commands = {name: app.get_command(click.Context(app), name) for name in app.list_commands(click.Context(app))}
    assert named <= commands.keys()
    for name, command in commands.items():
        names = [f"{name} {sub}" for sub in command.commands] if isinstance(command, click.Group) else [name]
        assert all(f"| `token-worker {it}" in README for it in names)


def test_files_that_are_linked_exist() -> None:
    """Links within the repository lead somewhere."""
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert all((ROOT / link).exists() for link in links)
