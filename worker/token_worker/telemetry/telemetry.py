"""All that a worker reports to, in one value."""

from typing import TYPE_CHECKING, NamedTuple

from token_worker.telemetry.audit import Audit
from token_worker.telemetry.health import Health
from token_worker.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from token_worker.telemetry.spans import Spans  # needs the extra "otel"


class Telemetry(NamedTuple):
    """Metrics, health, audit log and spans of one worker; ``spans`` is None if tracing is off."""

    metrics: Metrics
    health: Health
    audit: Audit
    spans: "Spans | None" = None
