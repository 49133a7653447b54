"""Answers about a worker's health come whole, also from a worker that is ending."""

import http.client
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Gauge

from harness.ports import release, reserve
from token_worker.settings.listen_address import ListenAddress
from token_worker.telemetry.health import Health, serve

ENDS_AFTER_ONE_SEND = """
import os, socket, sys, threading
from prometheus_client import CollectorRegistry, Gauge
from token_worker.settings.listen_address import ListenAddress
from token_worker.telemetry.health import Health, serve

def last(send):
    def send_and_end(*arguments):
        send(*arguments)
        os._exit(0)
    return send_and_end

socket.socket.send, socket.socket.sendall = last(socket.socket.send), last(socket.socket.sendall)
registry = CollectorRegistry()
routes = Gauge("entries", "Entries of each route.", ["stream"], registry=registry)
for number in range(5000):
    routes.labels(f"stream {number}")
serve(ListenAddress.parse(sys.argv[1]), Health(1.0), registry)
print("listening", flush=True)
threading.Event().wait()
"""
"""A process whose health is served, and which ends as soon as it has sent anything."""


@pytest.mark.parametrize(
    ("path", "ending"), [("/readyz", "starting\n"), ("/metrics", 'entries{stream="stream 4999"} 0.0\n')]
)
def test_answer_of_a_process_that_ends_is_whole(path: str, ending: str) -> None:
    """Head and body leave the process together, so an answer is whole, or the connection is closed without one."""
    port = reserve()
    command = [sys.executable, "-c", ENDS_AFTER_ONE_SEND, f"127.0.0.1:{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"listening\n"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                    text = answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    text = error.read().decode()
            assert text.endswith(ending)
            assert process.wait(30) == 0
        finally:
            process.kill()
            release(port)


@pytest.fixture(scope="module")
def probes() -> str:
    """Address of the probes of a worker that starts. A server of its own serves them until the process ends."""
    registry = CollectorRegistry()
    Gauge("entries", "Entries.", registry=registry)
    return str(serve(ListenAddress("127.0.0.1", 0), Health(1.0), registry))


def ask(address: str, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body."""
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/nothing"])
def test_head_is_answered_as_get_without_the_body(probes: str, path: str) -> None:
    """HEAD gets the status and the headers that GET gets; load balancers probe that way."""
    status, headers, body = ask(probes, "GET", path)
    assert body
    head_status, head_headers, nothing = ask(probes, "HEAD", path)
    assert (head_status, nothing) == (status, b"")
    assert {**head_headers, "Date": ""} == {**headers, "Date": ""}


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/nothing"])
def test_query_strings_are_ignored(probes: str, path: str) -> None:
    """A query string, which some probes add against caches, changes nothing."""
    status, _, body = ask(probes, "GET", path)
    assert ask(probes, "GET", f"{path}?x=/healthz&y=1")[::2] == (status, body)
