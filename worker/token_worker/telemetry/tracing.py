"""Whether this process traces, and what its spans have in common. Imports OpenTelemetry only where it is installed.

Who runs the process sets a tracer provider and so says where spans go, as ``opentelemetry-instrument`` does. Without
one nothing is traced.
"""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from token_worker.redis.address import DEFAULT_PORT, RedisSettings

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

Attributes = dict[str, str | int]


def find_tracer() -> "Tracer | None":
    """A tracer of the process' provider; None where there is none."""
    try:
        from opentelemetry import trace  # noqa: PLC0415 - of the extra "otel"
    except ImportError:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return provider.get_tracer("token_worker.service")


def describe(operation: str, stream: str, server: RedisSettings) -> Attributes:
    """Attributes of an operation on entries of a stream, by the conventions for messaging.

    Sentinels and nodes of a cluster are not told: which server it is may change with each command.
    """
    attributes: Attributes = {
        "messaging.system": "redis",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": stream,
    }
    if server.kind == "server":
        parts = urlsplit(server.url)
        attributes["server.address"] = parts.path if parts.scheme == "unix" else parts.hostname or ""
        if parts.scheme != "unix":
            attributes["server.port"] = parts.port or DEFAULT_PORT
    return attributes
