"""The files for deployment name metrics that exist, and are written out of the package."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry, ProcessCollector

from harness import looks
from harness.prometheus import in_grafana
from harness.servers import DEPLOY_FILES
from token_worker.admin.lag import Measured
from token_worker.admin.lag_exporter import LagCollector
from token_worker.cli import app
from token_worker.errors import CheckFailed
from token_worker.service.state import WorkerState
from token_worker.telemetry.health import Health
from token_worker.telemetry.metrics import Metrics

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def exported() -> set[str]:
    """Names of all metrics of a worker and of the lag exporter."""
    row = looks.lag("in", undelivered=1, oldest_undelivered_age_seconds=1.0, oldest_pending_age_seconds=1.0)
    registry = CollectorRegistry()
    Metrics(registry, ["in"])
    registry.register(WorkerState(("streams", "vault"), Health(30), lambda: 60.0))
    ProcessCollector(registry=registry)
    names = {metric.name + ("_total" if metric.type == "counter" else "") for metric in registry.collect()}
    lag = LagCollector(lambda: Measured([row], {}, {"in": 0.0}, {}), list)
    return names | {metric.name for metric in lag.collect()}


def test_dashboard_is_whole(tmp_path: Path) -> None:
    """Every panel says what it shows and what to do, asks the chosen data source, and has a place of its own.

    No rate has a range of its own: at a long time range Grafana's steps are longer, and would miss what lies between.
    """
    dashboard = json.loads((DEPLOY_FILES / "dashboard.json").read_text())
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        places = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not places & taken, panel["title"]
        assert max(x for x, _ in places) < 24
        taken |= places
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert {part["datasource"]["uid"] for part in [panel, *panel["targets"]]} == {"${datasource}"}
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert set(re.findall(r"\[(.*?)\]", "".join(queries))) == {"$__rate_interval", "$__range"}
    promtool = shutil.which("promtool")
    if promtool is not None:
        filled_in = [in_grafana(query, 3600, 15, 15) for query in queries]
        rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(filled_in)]
        file = tmp_path / "rules.json"  # JSON is YAML
        file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
        done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "file",
    [*(DEPLOY_FILES / name for name in ("alerts.yml", "keda.yml", "dashboard.json")), OPERATIONS],
    ids=lambda file: file.name,
)
def test_metrics_that_are_named_exist(file: Path) -> None:
    """Every metric in the alert rules, the scaler, the dashboard and the page for operators is exported."""
    used = set(re.findall(r"\b(?:token_worker|acra)_[a-z_]+", file.read_text()))
    assert used
    # What a dashboard asks of a histogram are its series; the uid of its data source is no metric.
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in used} <= exported()


def test_alert_rules_are_valid() -> None:
    """The rules are taken by Prometheus' own checker, where it is installed."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool of Debian's package prometheus is not installed")
    done = subprocess.run(
        [promtool, "check", "rules", DEPLOY_FILES / "alerts.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def write_files(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["deploy-files", *arguments])


def test_files_are_written(tmp_path: Path) -> None:
    """``token-worker deploy-files FOLDER`` writes what the package holds, and the same again."""
    in_package = {
        str(file.relative_to(DEPLOY_FILES)): file.read_bytes() for file in DEPLOY_FILES.rglob("*") if file.is_file()
    }
    assert {"alerts.yml", "vault/master-key-only.hcl"} <= in_package.keys()
    assert write_files().output.split() == sorted(in_package)
    folder = tmp_path / "new" / "folder"
    for _ in range(2):
        done = write_files(str(folder))
        assert done.exit_code == 0
        assert {Path(line) for line in done.output.splitlines()} == {folder / name for name in in_package}
    assert all((folder / name).read_bytes() == text for name, text in in_package.items())


def test_files_that_were_changed_are_kept(tmp_path: Path) -> None:
    """A file that a user has changed is replaced only with ``--force``; without it, nothing is written."""
    (tmp_path / "keda.yml").write_text("mine")
    done = write_files(str(tmp_path))
    assert isinstance(done.exception, CheckFailed)
    assert "keda.yml" in str(done.exception)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]
    assert write_files(str(tmp_path), "--force").exit_code == 0
    assert (tmp_path / "keda.yml").read_bytes() == (DEPLOY_FILES / "keda.yml").read_bytes()


def test_files_that_cannot_be_written_are_wrong_usage(tmp_path: Path) -> None:
    """A folder below a file, or an option without effect, is wrong usage."""
    (tmp_path / "file").touch()
    assert write_files(str(tmp_path / "file" / "folder")).exit_code == 2
    assert write_files("--force").exit_code == 2
