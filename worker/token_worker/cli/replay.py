"""``token-worker replay``: send answered requests or dead letters again, and compare their replies."""

import datetime as dt
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from token_worker.admin.replay import Replay, ReplayCandidate, Selection
from token_worker.admin.reply_comparison import ComparisonResult, ReplyComparison, ResentRequest
from token_worker.cli.terminal import number
from token_worker.contract.messages import Op
from token_worker.errors import CheckFailed, OperatorError
from token_worker.redis.connect import make_link
from token_worker.redis.exchange import drive
from token_worker.redis.link import Link
from token_worker.settings import load
from token_worker.settings.options import Settings
from token_worker.streams.routes import Route
from token_worker.streams.stream_ids import FIRST_ID, LAST_ID, MOST, check_id, order
from token_worker.telemetry.command_audit import CommandAudit

WAIT_SECONDS = 60.0
"""Longest wait for the next reply."""

LOOK_SECONDS = 0.2


@click.command(epilog='Example: token-worker replay --from "2026-01-31 08:00" --op tokenize --dry-run')
@click.option(
    "--from", "first", metavar="WHEN", help="First entry: a stream id, or an ISO time (UTC if it names no zone)."
)
@click.option("--to", "last", metavar="WHEN", help="Last entry: the same. Default: the newest entry.")
@click.option("--ids", metavar="ID,ID…", help="Only these entries.")
@click.option("--dead-letters", is_flag=True, help="Replay dead letters. Each is deleted when it is sent.")
@click.option(
    "--stream", "streams", multiple=True, help="Request stream of a route; may be repeated. Default: all routes."
)
@click.option("--client", help="Only requests for this client.")
@click.option("--op", type=click.Choice([op.value for op in Op]), help="Only requests with this operation.")
@click.option("--reason", help="Only dead letters with this reason.")
@click.option("--dry-run", is_flag=True, help="List what would be sent. Send nothing.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Most requests to send in a second.")
@click.option("--force", is_flag=True, help="Send undelivered and pending entries, too: they are answered twice.")
@click.option("--resume", is_flag=True, help="Continue a replay that was interrupted.")
@click.option("--forget", is_flag=True, help="Forget a replay that was interrupted.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the replies, and do not compare them.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
@click.pass_obj
def replay(
    config: Path | None,
    *,
    first: str | None,
    last: str | None,
    ids: str | None,
    dead_letters: bool,
    streams: tuple[str, ...],
    client: str | None,
    op: str | None,
    reason: str | None,
    dry_run: bool,
    rate: float | None,
    force: bool,
    resume: bool,
    forget: bool,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Send requests again that are still in their streams, and compare the replies with the retained ones.

    A replayed request carries `replay` and `replay_of`, and no `expires_at`. Undelivered and pending entries are not
    sent. Of a range, entries that are replays themselves are not sent either. The command needs no key. After Ctrl-C,
    --resume continues.

    Exit status 1: replies differ or are missing, entries were unreadable or do not exist, or an earlier replay was
    interrupted.
    """
    selects = any(given is not None for given in (first, last, ids, client, op, reason)) or dead_letters or force
    if (resume or forget) and (selects or (resume and forget) or dry_run):
        raise click.UsageError("--resume continues and --forget ends an earlier replay: leave the other options out")
    if not (resume or forget) and not (first or last or ids or dead_letters):
        raise click.UsageError("name what to replay: --from, --to, --ids or --dead-letters")
    if forget and (rate or no_wait or as_json):
        raise click.UsageError("--forget sends nothing: leave --rate, --no-wait and --json out")
    if force and dead_letters:
        raise click.UsageError("--force is only for request streams: leave it out of --dead-letters")
    if ids and (first or last):
        raise click.UsageError("--ids names entries: leave --from and --to out")
    if reason is not None and not dead_letters:
        raise click.UsageError("--reason is only for dead letters: add --dead-letters")
    settings = load(os.environ, config)
    routes = _routes(settings, streams, op)
    if ids and not dead_letters and len(routes) > 1:
        raise click.UsageError("--ids needs one stream: name it with --stream")
    link = make_link("streams", settings.streams, raise_server_errors=True)
    runner = Runner(settings, link, dry_run=dry_run, as_json=as_json, rate=rate, wait=not no_wait)
    if forget or resume:
        names = [name for route in routes for name in (route.requests, route.dead_letters)]
        facts = {"streams": streams, "op": op, "resume": resume, "forget": forget}
        with noted("replay", settings, runner, facts, dry_run=False):
            runner.go_on([*dict.fromkeys(names)], forget=forget)
        return
    wanted = tuple(_id(text.strip(), "--ids", end=False) for text in ids.split(",")) if ids else ()
    selection = Selection(
        stream="",
        first=FIRST_ID if first is None else _id(first, "--from", end=False),
        last=LAST_ID if last is None else _id(last, "--to", end=True),
        ids=wanted,
        origins=tuple(route.requests for route in routes) if dead_letters and streams else (),
        client=client,
        op=Op(op) if op else None,
        reason=reason,
        force=force,
    )
    if order(selection.last) < order(selection.first):
        raise click.UsageError("--to is before --from: nothing lies between them")
    names = [route.dead_letters if dead_letters else route.requests for route in routes]
    facts = {
        "streams": streams,
        "from": first,
        "to": last,
        "ids": wanted,
        "dead_letters": dead_letters,
        "client_id": client,
        "op": op,
        "reason": reason,
        "force": force,
    }
    with noted("replay", settings, runner, facts, dry_run=dry_run):
        runner.start([msgspec.structs.replace(selection, stream=name) for name in dict.fromkeys(names)])


@contextmanager
def noted(
    command: str, settings: Settings, runner: "Runner", facts: Mapping[str, object], *, dry_run: bool
) -> Iterator[None]:
    """Note in the audit log what is to be sent again, and afterwards how many requests were."""
    with CommandAudit(command, settings.audit_file).change(facts, dry_run=dry_run) as outcome:
        try:
            yield
        finally:
            outcome["sent"] = runner.sent


class Runner:
    """Runs replays and prints their results.

    Args:
        settings: settings with the routes and the group.
        link: the streams.
        dry_run: list the requests and send nothing.
        as_json: print JSON.
        rate: most requests in a second. None: as fast as possible.
        wait: wait for the replies and compare them.
    """

    def __init__(
        self, settings: Settings, link: Link, *, dry_run: bool, as_json: bool, rate: float | None, wait: bool
    ) -> None:
        self._settings = settings
        self._link = link
        self._dry_run = dry_run
        self._as_json = as_json
        self._rate = rate
        self._wait = wait
        self._counts: Counter[str] = Counter()
        self._sent: list[ResentRequest] = []

    @property
    def sent(self) -> int:
        """Requests that were sent so far."""
        return self._counts["send"]

    def start(self, selections: Sequence[Selection]) -> None:
        """Start replays. Raises ``CheckFailed``."""
        begun: list[Replay] = []
        try:
            for selection in selections:
                replay = self._replay(selection)
                drive(replay.prepare() if self._dry_run else replay.begin(), self._link)
                begun.append(replay)
        except CheckFailed:
            for replay in begun:
                drive(replay.forget(), self._link)
            raise
        self._carry_out(begun)

    def go_on(self, streams: Sequence[str], *, forget: bool) -> None:
        """Continue or forget the interrupted replays of these streams."""
        found: list[Replay] = []
        for stream in streams:
            replay = self._replay(Selection(stream=stream))
            if drive(replay.forget() if forget else replay.resume(), self._link):
                found.append(replay)
        if not found:
            raise CheckFailed("no replay was interrupted")
        if forget:
            click.echo(f"forgotten: {', '.join(replay.progress.selection.stream for replay in found)}")
            return
        self._carry_out(found)

    def _replay(self, selection: Selection) -> Replay:
        routes = [route for route in self._settings.routes if selection.stream in (route.requests, route.dead_letters)]
        return Replay(routes, self._settings.group, selection)

    def _carry_out(self, replays: Sequence[Replay]) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        try:
            with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
                for replay in replays:
                    self._one(replay, bar)
        except KeyboardInterrupt:
            raise CheckFailed(f"stopped; sent so far: {self._counts['send']}; --resume continues") from None
        compared = None
        if self._sent:
            comparison = ReplyComparison(self._sent)
            try:
                self._wait_for_replies(comparison, console)
            except KeyboardInterrupt:
                click.echo("stopped waiting for replies; all requests were sent", err=True)
            compared = comparison.result()
        # A named dead letter is in one of several streams: it is missing only if all streams lack it.
        self._tell(compared, sorted(set.intersection(*(replay.missing for replay in replays))))

    def _one(self, replay: Replay, bar: Progress) -> None:
        selection = replay.progress.selection  # its ends are the ends of the stream
        start, end = _ms(max(selection.first, replay.progress.done, key=_ms)), _ms(selection.last)
        task = bar.add_task(selection.stream, total=None if selection.ids else max(end - start, 1))
        while (page := drive(replay.next_page(), self._link)) is not None:
            if not self._rate:
                parts = [page]
            else:  # requests for a tenth of a second at a time
                size = max(1, int(self._rate / 10))
                parts = [page[index : index + size] for index in range(0, len(page), size)]
            for part in parts:
                started = time.monotonic()
                sent = [] if self._dry_run else drive(replay.send(part), self._link)
                self._note(selection.stream, part, {request.read_entry: request.entry for request in sent})
                if self._wait:
                    self._sent += sent
                if self._rate and sent:
                    time.sleep(max(0.0, len(sent) / self._rate - (time.monotonic() - started)))
            bar.update(task, completed=_ms(replay.progress.done) - start)
        if not self._dry_run:
            drive(replay.end(), self._link)

    def _note(self, stream: str, page: Sequence[ReplayCandidate], new_entries: dict[str, str]) -> None:
        for candidate in page:
            self._counts[candidate.decision] += 1
            if self._as_json:
                line = {
                    "stream": stream,
                    "entry": candidate.entry,
                    "original": candidate.original,
                    "request_id": candidate.request_id,
                    "op": candidate.op,
                    "client_id": candidate.client_id,
                    "decision": candidate.decision,
                    "new_entry": new_entries.get(candidate.entry),
                }
                click.echo(msgspec.json.encode(line))
            elif self._dry_run:
                identity = f"{candidate.request_id}  {candidate.op}  {candidate.client_id}"
                click.echo(f"{candidate.decision:<12}{stream}  {candidate.entry}  {identity}")

    def _wait_for_replies(self, comparison: ReplyComparison, console: Console) -> None:
        deadline, before = time.monotonic() + WAIT_SECONDS, -1
        with console.status("waiting for the replies"):
            while (missing := drive(comparison.read_replies(), self._link)) and time.monotonic() < deadline:
                if missing != before:
                    deadline, before = time.monotonic() + WAIT_SECONDS, missing
                time.sleep(LOOK_SECONDS)

    def _tell(self, compared: ComparisonResult | None, not_there: Sequence[str]) -> None:
        counts = self._counts
        different = compared.different if compared is not None else []
        missing = compared.missing if compared is not None else []
        if self._as_json:
            names = ("send", "undelivered", "pending", "replay", "unreadable")
            totals = {
                "dry_run": self._dry_run,
                **{name: counts[name] for name in names},
                "not_there": not_there,
                "compared": compared,
            }
            click.echo(msgspec.json.encode(totals))
        else:
            words = {
                "undelivered": "still undelivered",
                "pending": "still pending",
                "replay": "replays themselves",
                "unreadable": "unreadable",
            }
            left = [f"{counts[name]} {text}" for name, text in words.items() if counts[name]]
            click.echo(f"{'would be sent' if self._dry_run else 'sent'}: {counts['send']}")
            if left:
                click.echo(f"not sent: {', '.join(left)}")
            if compared is not None:
                click.echo(
                    f"replies: {compared.same} as before, {len(different)} differ, {compared.no_original} without a"
                    f" first reply to compare with, {len(missing)} missing"
                )
            for original, entry, request_id in different:
                click.echo(f"differs: {original} replayed as {entry}, request {request_id}")
        unreadable = counts["unreadable"]
        problems = [number(len(different), "reply differs", "replies differ")] if different else []
        if missing:
            problems.append(number(len(missing), "reply is", "replies are") + " missing; is a worker running?")
        problems += [number(unreadable, "entry", "entries") + " cannot be read"] if unreadable else []
        problems += [f"no such entries: {', '.join(not_there)}"] if not_there else []
        if problems:
            raise CheckFailed("; ".join(problems))


def _routes(settings: Settings, streams: Sequence[str], op: str | None) -> list[Route]:
    known = {route.requests: route for route in settings.routes}
    for stream in streams:
        if stream not in known:
            raise click.BadParameter(
                f"no route has this request stream; the streams are {', '.join(known)}", param_hint="--stream"
            )
    chosen = [known[stream] for stream in streams] if streams else list(known.values())
    return [route for route in chosen if op is None or Op(op) in route.ops] or _no_route(op)


def _no_route(op: str | None) -> list[Route]:
    raise OperatorError(f"--op: no chosen route serves {op}")


def _id(text: str, option: str, *, end: bool) -> str:
    """Read a stream id or an ISO time. A time becomes its first stream id, or with ``end`` its last one."""
    try:
        if end and "-" not in text and text.isdigit():
            return check_id(f"{text}-{MOST}")
        return check_id(text)
    except ValueError:
        pass
    try:
        when = dt.datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"expected {'stream ids' if option == '--ids' else 'a stream id or an ISO time'}", param_hint=option
        ) from None
    if option == "--ids":
        raise click.BadParameter("expected stream ids", param_hint=option)
    when = when if when.tzinfo is not None else when.replace(tzinfo=dt.UTC)
    return check_id(f"{max(0, int(when.timestamp() * 1000))}-{MOST if end else 0}")


def _ms(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])
