"""A program of its own that takes orders: a line of JSON on its standard input, and a line of JSON as the answer."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import click
import msgspec

from harness.ending import uninterrupted

A = TypeVar("A")


class Program(Generic[A]):
    """A program that runs; made by ``program``."""

    def __init__(self, process: "subprocess.Popen[bytes]", answer: type[A]) -> None:
        self._process = process
        self._decoder = msgspec.json.Decoder(answer)

    def run(self, order: msgspec.Struct) -> A:
        """Give an order, and wait for the answer.

        Raises:
            ClickException: the program ended instead; it has said why.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the program has no pipes")
        try:
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            line = b""
        else:
            line = self._process.stdout.readline()
        if not line:
            raise click.ClickException("a program that makes load ended without an answer")
        return self._decoder.decode(line)


@contextmanager
def program(file: str, answer: type[A]) -> Iterator[Program[A]]:
    """Run a program for as long as the body runs."""
    with uninterrupted():
        process = subprocess.Popen(
            [sys.executable, "-P", file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
    try:
        yield Program(process, answer)
    finally:
        process.kill()
        with process:
            pass
