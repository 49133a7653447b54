"""Answers about a worker's health come whole, also from a worker that is ending."""

import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from harness.ports import release, reserve

ENDS_AFTER_ONE_SEND = """
import os, socket, sys, threading
from prometheus_client import CollectorRegistry, Gauge
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
serve(sys.argv[1], Health(1.0), registry)
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
