"""The metrics and traces of one process, wrapped around its services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..backends import ModelKey
from ..errors import NotInstalled
from ..pipeline.runner import Runner
from ..scheduling.observation import Observation
from .measured_runs import MeasuredRunner
from .metrics import Metrics

if TYPE_CHECKING:
    from .tracing import Tracing


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """What observes the services; traces only if they are exported."""

    metrics: Metrics = field(default_factory=Metrics)
    tracing: Tracing | None = None

    def observe(self, key: ModelKey, observation: Observation) -> None:
        """Take what happened to a model."""
        self.metrics.observe(key, observation)
        if self.tracing is not None:
            self.tracing.observe(key, observation)

    def runner(self, runner: Runner) -> Runner:
        """Return the runner with its runs observed."""
        measured = MeasuredRunner(runner, self.metrics)
        if self.tracing is None:
            return measured
        from .tracing import TracedRunner

        return TracedRunner(measured, self.tracing)

    def trace_headers(self) -> Mapping[str, str]:
        """The headers that continue the current trace elsewhere."""
        return {} if self.tracing is None else self.tracing.headers()

    async def close(self) -> None:
        """Export what is left."""
        if self.tracing is not None:
            await self.tracing.close()


def open_tracing(endpoint: str | None) -> Tracing | None:
    """Trace to an OTLP endpoint; not at all without one.

    Raises:
        NotInstalled: the packages for it are missing.
    """
    if endpoint is None:
        return None
    try:
        from .tracing import Tracing, export_to
    except ImportError as error:
        raise NotInstalled(
            "OTEL_EXPORTER_OTLP_ENDPOINT: traces need packages that are not installed: "
            "pip install 'whisperx-api-server[otel]'"
        ) from error
    return Tracing(export_to(endpoint))
