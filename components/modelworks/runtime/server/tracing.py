"""W3C trace context, through OpenTelemetry.

Spans are made and exported only where `OTEL_EXPORTER_OTLP_ENDPOINT` is set; the standard `OTEL_*` variables choose
sampler and headers. Everywhere else a caller's trace id still reaches the logs and the answer, and nothing is imported.
"""

from __future__ import annotations

import os
import re
import time
from typing import Any

from modelworks.errors import ModelworksError

_TRACEPARENT = re.compile(rb"^[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$")


def trace_id(traceparent: bytes | None) -> str:
    """The trace id in a `traceparent` header; empty when there is none or it is malformed."""
    match = _TRACEPARENT.match(traceparent) if traceparent and not traceparent.startswith(b"ff") else None
    return match[1].decode() if match else ""


class Tracer:
    """Makes a server span for each request and exports it in the background.

    Args:
        model: Name of the model: the service's name unless OTEL_SERVICE_NAME is set.
        release: The release's short digest: the service's version.

    Raises:
        ModelworksError: No OTLP exporter is installed.
    """

    def __init__(self, model: str, release: str) -> None:
        from opentelemetry.sdk.resources import Resource  # only where tracing is on
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import (
            TraceContextTextMapPropagator,
        )

        resource = Resource.create(
            {"service.name": os.environ.get("OTEL_SERVICE_NAME", model), "service.version": release}
        )
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(_exporter()))
        self._tracer = self._provider.get_tracer("modelworks.runtime")
        self._propagator = TraceContextTextMapPropagator()
        self._server = SpanKind.SERVER
        self._failed = Status(StatusCode.ERROR)

    def span(
        self,
        headers: dict[bytes, bytes],
        status: int,
        seconds: float,
        attributes: dict[str, Any],
        path: str = "/v1/predict",
    ) -> bytes:
        """Record a request that was just answered; returns the `traceparent` of its span."""
        carrier = {name.decode(): headers[name].decode("latin-1") for name in headers if name.startswith(b"trace")}
        end = time.time_ns()
        span = self._tracer.start_span(
            f"POST {path}",
            context=self._propagator.extract(carrier),
            kind=self._server,
            start_time=end - int(seconds * 1e9),
            attributes={"http.request.method": "POST", "http.response.status_code": status, **attributes},
        )
        if status >= 500:
            span.set_status(self._failed)
        span.end(end)
        context = span.get_span_context()
        return b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags)

    def close(self) -> None:
        """Export what is left."""
        self._provider.shutdown()


def tracer_if_wanted(model: str, release: str) -> Tracer | None:
    """A tracer where `OTEL_EXPORTER_OTLP_ENDPOINT` (or its traces variant) is set, else None."""
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return Tracer(model, release) if any(os.environ.get(name) for name in names) else None


def _exporter() -> Any:
    for module in ("opentelemetry.exporter.otlp.proto.http", "opentelemetry.exporter.otlp.proto.grpc"):
        try:
            found = __import__(f"{module}.trace_exporter", fromlist=["OTLPSpanExporter"])
        except ImportError:
            continue
        return found.OTLPSpanExporter()
    raise ModelworksError(
        "OTEL_EXPORTER_OTLP_ENDPOINT is set, but no OTLP exporter is installed",
        fix="Add opentelemetry-exporter-otlp-proto-http to the image, or unset the variable.",
    )
