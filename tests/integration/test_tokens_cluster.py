"""``token-worker tokens`` with a token storage in a Redis Cluster."""

import json

from harness.dense import add_owner, record_dense
from harness.servers import Cluster, Valkey
from harness.stack import Stack, workers_killed
from token_worker.acra.owner import Owner

CLIENT = "shop-frontend"


def test_commands_work_on_all_nodes(streams_server: Valkey, storage_server: Valkey) -> None:
    """Commands find the tokens of every node, and change both entries of a token, each on its own node."""
    with (
        Cluster(replicas=0) as cluster,
        workers_killed(Stack(streams_server, storage_server, tokens=cluster)) as stack,
    ):
        add_owner(stack, Owner("client", CLIENT))
        record_dense(stack, cluster)
        stack.start_worker()

        def run(*arguments: str, value: str = "") -> str:
            done = stack.run("tokens", arguments[0], CLIENT, *arguments[1:], value=value)
            assert done.returncode == 0, done.stderr
            return done.stdout

        def ask(op: str, values: list[str]) -> list[str]:
            requests = [
                {"id": f"{op} {value}", "op": op, "client_id": CLIENT, "type": "str", "value": value}
                for value in values
            ]
            replies = stack.ask(requests, op)
            return [
                str(reply["value"] if reply["status"] == "ok" else reply["error"]["code"])
                for reply in (replies[request["id"]] for request in requests)
            ]

        values = [f"value {number}" for number in range(40)]
        tokens = ask("tokenize", values)
        assert json.loads(run("status", "--json"))["types"][0]["enabled"] == 40
        run("verify")
        assert run("disable", "--yes") == "disabled: 40 tokens\n"
        assert set(ask("tokenize", values)) == set(ask("detokenize", tokens)) == {"token_disabled"}
        assert run("enable", "--yes") == "enabled: 40 tokens\n"
        assert stack.run("keys", "rotate", CLIENT, "--yes").returncode == 0
        assert json.loads(run("reencrypt", "--json"))["sealed"] == 80
        assert ask("detokenize", tokens) == values
        assert run("remove", "--type", "str", "--value", value="value 0") == "removed: 1 token\n"
        assert run("remove", "--yes") == "removed: 39 tokens\n"
        assert set(ask("detokenize", tokens)) == {"token_not_found"}
        others = ask("tokenize", values)
        assert not set(tokens) & set(others)
        assert ask("detokenize", others) == values
        run("verify")


def test_tokens_of_acra_are_never_in_a_cluster(streams_server: Valkey, storage_server: Valkey) -> None:
    """Without a record, which means Acra's layout, commands on a cluster are refused in words."""
    with Cluster(replicas=0) as cluster, workers_killed(Stack(streams_server, storage_server, tokens=cluster)) as stack:
        done = stack.run("tokens", "status", CLIENT)
        assert (done.returncode, "never in a cluster" in done.stderr) == (2, True)
