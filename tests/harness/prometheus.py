"""Prometheus on real scrapes: the server itself, and recordings of scrapes for ``promtool test rules``.

Both come from Debian's package ``prometheus``. Where it is not installed, the tests that need it are skipped.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from harness.server_process import ServerProcess

PHASE_MINUTES = 30
"""Time that a recorded state of affairs lasts: longer than any ``for`` and any range of an alert."""

SETTLE_MINUTES = 3
"""Start of a phase in which an alert of the phase before may still be there."""


def debian_program(name: str) -> str:
    """Path of ``prometheus`` or ``promtool``; skips the test where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} of Debian's package prometheus is not installed")
    return path


def scrape(port: int, path: str = "/metrics") -> str:
    """The metrics that a process of this host exports, or another of its pages; empty if it does not listen."""
    try:
        return requests.get(f"http://127.0.0.1:{port}{path}", timeout=30).text
    except requests.ConnectionError:
        return ""


class Recording:
    """Scrapes of processes in several states of affairs, each of which lasts for ``PHASE_MINUTES`` when replayed.

    Args:
        targets: by job, the ports of its processes. Each is an instance.
    """

    def __init__(self, targets: Mapping[str, Sequence[int]]) -> None:
        self._targets = targets
        self._phases: list[dict[str, str]] = []
        self._expected: list[dict[str, int]] = []

    def record(self, **alerts: int) -> None:
        """Scrape all processes. These alerts have to fire then, each so many times, and no others."""
        found = {}
        for job, ports in self._targets.items():
            for port in ports:
                for family in text_string_to_metric_families(scrape(port)):
                    for sample in family.samples:
                        labels = {**sample.labels, "job": job, "instance": f"127.0.0.1:{port}"}
                        pairs = ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
                        found[f"{sample.name}{{{pairs}}}"] = str(sample.value).replace("nan", "NaN")
        self._phases.append(found)
        self._expected.append(alerts)

    @property
    def alerts(self) -> set[str]:
        """All alerts that have to fire at some time."""
        return {alert for expected in self._expected for alert in expected}

    def check(self, rules: Path, file: Path) -> None:
        """Replay what was recorded to the rules with ``promtool``.

        Args:
            rules: the alert rules.
            file: is written for ``promtool``.

        Raises:
            AssertionError: another alert fired, or one did not.
        """
        names = sorted({name for phase in self._phases for name in phase})
        fired = (
            f'count by (alertname) (max_over_time(ALERTS{{alertstate="firing"}}[{PHASE_MINUTES - SETTLE_MINUTES}m]))'
        )
        tests = [
            {
                "expr": fired,
                "eval_time": f"{(number + 1) * PHASE_MINUTES - 1}m",
                "exp_samples": [
                    {"labels": f'{{alertname="{alert}"}}', "value": count} for alert, count in expected.items()
                ],
            }
            for number, expected in enumerate(self._expected)
        ]
        series = [{"series": name, "values": self._values(name)} for name in names]
        suite = {"interval": "1m", "input_series": series, "promql_expr_test": tests}
        file.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [suite]}))
        command = [debian_program("promtool"), "test", "rules", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(done.stdout + done.stderr)

    def _values(self, name: str) -> str:
        """One value a minute. A series that is not scraped any more ends, as it does in Prometheus."""
        return " ".join(" ".join([phase.get(name, "stale")] * PHASE_MINUTES) for phase in self._phases)


class Prometheus(ServerProcess):
    """A Prometheus that scrapes processes of this host every second.

    Args:
        targets: by job, the ports of its processes.
    """

    SCRAPE_SECONDS = 1

    def __init__(self, targets: Mapping[str, Sequence[int]]) -> None:
        super().__init__("prometheus")
        self._targets = targets

    def command(self) -> list[str]:
        jobs = [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
            for job, ports in self._targets.items()
        ]
        config = self.folder / "prometheus.yml"
        config.write_text(
            json.dumps({"global": {"scrape_interval": f"{self.SCRAPE_SECONDS}s"}, "scrape_configs": jobs})
        )
        return [
            debian_program("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=error",
        ]

    def answers(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.port}/-/ready", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an instant query returns now: ``metric`` and ``value``."""
        return self._ask("query", query=expression)

    def value(self, expression: str) -> float:
        """The only value that a query returns now.

        Raises:
            ValueError: the query returns another number of series.
        """
        [series] = self.query(expression)
        return float(series["value"][1])

    def graph(
        self, expression: str, seconds: float, step: int = SCRAPE_SECONDS, later: float = 0
    ) -> list[dict[str, Any]]:
        """The series that Grafana draws for these last seconds, now or ``later``: ``metric`` and ``values``."""
        end = time.time() + later
        expression = in_grafana(expression, seconds, step, self.SCRAPE_SECONDS)
        return self._ask("query_range", query=expression, start=str(end - seconds), end=str(end), step=str(step))

    def _ask(self, path: str, **given: str) -> list[dict[str, Any]]:
        answer = requests.post(f"http://127.0.0.1:{self.port}/api/v1/{path}", data=given, timeout=30).json()
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result


def in_grafana(expression: str, seconds: float, step: int, scrape_seconds: int) -> str:
    """Fill in Grafana's variables as Grafana does: ``$__rate_interval`` covers a step, and at least four scrapes."""
    variables = {
        "$__rate_interval": f"{max(step + scrape_seconds, 4 * scrape_seconds)}s",
        "$__range": f"{seconds:.0f}s",
    }
    for name, value in variables.items():
        expression = expression.replace(name, value)
    left = re.search(r"\$\w+", expression)
    assert left is None, f"a variable that nobody fills in: {left}"
    return expression
