"""The only place that knows prometheus_client: plain figures, read when somebody asks."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from tunnel.admin.families import Family, Kind

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class _Reader(Collector):
    def __init__(self, read: Callable[[], Iterable[Family]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        return map(_metric, self._read())


def _metric(family: Family) -> Metric:
    make = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
    metric = make(family.name, family.words, labels=family.labels)
    for labels, value in sorted(family.samples.items()):
        metric.add_metric(labels, value)
    return metric


class Exposition:
    """The metrics page: what `read` returns, and what the kernel says of this process."""

    def __init__(self, read: Callable[[], Iterable[Family]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Reader(read))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Return every figure in the text format of Prometheus."""
        return generate_latest(self._registry)
