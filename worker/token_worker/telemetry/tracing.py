"""The tracer of this process, and common attributes of spans. Imports OpenTelemetry only if it is installed.

A tracer provider decides where spans go. ``opentelemetry-instrument``, say, sets one. Without a provider nothing is
traced.
"""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from token_worker.errors import SettingsError
from token_worker.redis.address import DEFAULT_PORT, RedisSettings

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

Attributes = dict[str, str | int]


def find_tracer() -> "Tracer | None":
    """Return a tracer of the provider of this process; None if there is no provider.

    Raises:
        SettingsError: OTEL_PYTHON_TRACER_PROVIDER names a provider that is not there.
    """
    try:
        from opentelemetry import trace  # noqa: PLC0415 - of the extra "otel"
    except ImportError:
        return None
    try:
        provider = trace.get_tracer_provider()
    except Exception:  # noqa: BLE001 - the library raises what it met, StopIteration among others
        problem = "OTEL_PYTHON_TRACER_PROVIDER: no provider of that name is installed; leave the variable out"
        raise SettingsError(problem) from None
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return provider.get_tracer("token_worker.service")


def describe(operation: str, stream: str, server: RedisSettings) -> Attributes:
    """Return the attributes of an operation on entries of a stream, by the conventions for messaging.

    Behind Sentinels and in a cluster there is no server address: the server may change with each command.
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
