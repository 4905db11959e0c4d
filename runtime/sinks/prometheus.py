"""The sink `prometheus:PORT`: metrics over HTTP, by the extra `prometheus`."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.registry import Collector

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.config import MetricsSettings
from axlebox.runtime.figures import Figures
from axlebox.runtime.metrics import families

_STOP_S = 1.0


class Prometheus:
    """Answers any path with the metrics of the latest figures; with none at all before the first."""

    bytes_written = 0

    def __init__(self, port: int, settings: MetricsSettings) -> None:
        """Raises UsageError where nothing can listen at this address and port."""
        self.uri = f"prometheus:{port}"
        self.period_s = settings.period_s
        self._latest = _Latest()
        registry = CollectorRegistry()
        registry.register(self._latest)
        try:
            self._server, self._thread = start_http_server(port, settings.address, registry)
        except OSError as error:
            raise UsageError(f"sink {self.uri}, address {settings.address}: {error.strerror}") from error

    def show(self, figures: Figures) -> None:
        self._latest.figures = figures

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_STOP_S)


class _Latest(Collector):
    """What the client library asks at each scrape, in its own thread."""

    figures: Figures | None = None

    def collect(self) -> Iterator[Metric]:
        for family in [] if self.figures is None else families(self.figures):
            # The library adds _total itself, after the rules of OpenMetrics.
            metric = Metric(family.name.removesuffix("_total"), family.help, family.type)
            for sample in family.samples:
                metric.add_sample(sample.name, dict(sample.labels), sample.value)
            if family.samples:
                yield metric

    def describe(self) -> list[Metric]:
        """Nothing: the names are this registry's own."""
        return []
