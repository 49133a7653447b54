"""What is given for deployment speaks of metrics that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from token_worker.admin.lag import GroupLag, Measured
from token_worker.admin.lag_exporter import LagCollector
from token_worker.telemetry.metrics import Metrics

DEPLOY = Path(__file__).parents[2] / "scripts" / "deploy"


def exported() -> set[str]:
    """Names of all metrics of a worker and of the lag exporter."""
    row = GroupLag(
        stream="in",
        group="g",
        undelivered=1,
        exact=True,
        pending=1,
        oldest_undelivered_age_seconds=1.0,
        oldest_pending_age_seconds=1.0,
        max_deliveries=1,
        consumers=1,
        dead_consumers=0,
        dead_letters=1,
        lag_known=True,
        ids_ahead_seconds=0.0,
    )
    registry = CollectorRegistry()
    Metrics(registry)
    names = {metric.name + ("_total" if metric.type == "counter" else "") for metric in registry.collect()}
    names |= {metric.name for metric in LagCollector(lambda: Measured([row], {}, {"in": 0.0}, {})).collect()}
    return names | {"token_worker_vault_token_seconds", "token_worker_key_cache_hits", "token_worker_key_cache_misses"}


def test_dashboard_is_whole(tmp_path: Path) -> None:
    """Every panel says what it shows and what to do, asks the chosen data source, and has a place of its own."""
    dashboard = json.loads((DEPLOY / "dashboard.json").read_text())
    assert [it["name"] for it in dashboard["templating"]["list"]] == ["datasource"]
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
        assert {it["datasource"]["uid"] for it in [panel, *panel["targets"]]} == {"${datasource}"}
    promtool = shutil.which("promtool")
    if promtool is not None:
        queries = [target["expr"] for panel in panels for target in panel["targets"]]
        rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
        file = tmp_path / "rules.json"  # JSON is YAML
        file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
        done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["alerts.yml", "keda.yml", "dashboard.json", "../../docs/operations.md"])
def test_metrics_that_are_named_exist(name: str) -> None:
    """Every metric in the alert rules, the scaler, the dashboard and the page for operators is exported."""
    used = set(re.findall(r"\b(?:token_worker|acra)_[a-z_]+", (DEPLOY / name).read_text()))
    assert used
    # What a dashboard asks of a histogram are its series; the uid of its data source is no metric.
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in used} <= exported()


def test_alert_rules_are_valid() -> None:
    """The rules are taken by Prometheus' own checker, where it is installed."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool of Debian's package prometheus is not installed")
    done = subprocess.run(
        [promtool, "check", "rules", DEPLOY / "alerts.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_images_and_units_run_without_rights() -> None:
    """The image has a user without rights; the unit has time to drain, and may nothing it does not need."""
    image = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^USER 65532:65532$", image, re.MULTILINE)
    unit = (DEPLOY / "token-worker.service").read_text()
    assert {"NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet="} <= set(unit.splitlines())
    stop = re.search(r"TimeoutStopSec=(\d+)", unit)
    assert stop is not None
    assert int(stop[1]) > 25
