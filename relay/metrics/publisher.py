"""Write the numbers of one process into its files, from which any worker answers.

Theory of operation. `prometheus_client` keeps each series as one number in a file in memory. Its
own metrics would be increased at each event, which costs a microsecond or two each; here the plain
numbers of `Tallies` are compared with what was written, once a second.

Decided here: how a number becomes a series. Never here: the measurements (`readings.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.values import ValueClass

from relay.metrics.metric_table import METRICS, Kind, Metric
from relay.tallies import OTHER, Distribution, Labels, Tallies

GAUGE_MODE = "livesum"
"""prometheus_client's name for the sum of the processes that live."""


class Publisher:
    """The series of one process."""

    def __init__(self, metrics: Iterable[Metric] = METRICS) -> None:
        """Write the metrics of `metrics` that have files, at first only those without labels."""
        self._metrics = tuple(metric for metric in metrics if metric.kind is not Kind.READING)
        self._label_sets: dict[str, set[Labels]] = {metric.name: set() for metric in self._metrics}
        self._values: dict[tuple[str, Labels], Any] = {}
        self._written: dict[tuple[str, Labels], float] = {}

    def write(self, tallies: Tallies, gauges: Mapping[str, Mapping[Labels, float]]) -> None:
        """Write all numbers that have changed."""
        for metric in self._metrics:
            if metric.kind is Kind.GAUGE:
                self._write_gauge(metric, gauges.get(metric.name, {}))
            elif metric.kind is Kind.COUNTER:
                self._write_counter(metric, tallies)
            else:
                for labels, found in tuple(_of(tallies, metric).items()):
                    self._write_histogram(metric, labels, found)
                if not metric.labels and () not in _of(tallies, metric):
                    self._write_histogram(metric, (), Distribution(metric.bounds))

    def _write_gauge(self, metric: Metric, values: Mapping[Labels, float]) -> None:
        # A series that is gone has nothing any longer; its number in the file would stay.
        gone = dict.fromkeys(self._label_sets[metric.name], 0.0)
        for labels, value in {**gone, **values}.items():
            kept = self._kept_labels(metric, labels)
            if self._written.get((metric.name, labels)) != value:
                self._written[metric.name, labels] = value
                self._value(metric, metric.full_name, kept).set(value)

    def _write_counter(self, metric: Metric, tallies: Tallies) -> None:
        found: dict[Labels, float] = _of(tallies, metric)
        for labels, value in (*found.items(), *(() if metric.labels or () in found else [((), 0)])):
            self._raise(metric, metric.full_name, labels, value)

    def _write_histogram(self, metric: Metric, labels: Labels, found: Distribution) -> None:
        bounds = (*map(str, metric.bounds), "+Inf")
        for bound, count in zip(bounds, found.counts, strict=True):
            self._raise(metric, f"{metric.full_name}_bucket", labels, count, bound)
        self._raise(metric, f"{metric.full_name}_sum", labels, found.sum)

    def _raise(
        self, metric: Metric, name: str, labels: Labels, value: float, le: str | None = None
    ) -> None:
        """Raise a series to a number: by the difference, since several sets of labels may be one
        series, and since a process with the same id may have left the file."""
        key = (name if le is None else f"{name} {le}", labels)
        before = self._written.get(key)
        if before == value:
            return
        self._written[key] = value
        kept = self._kept_labels(metric, labels)
        self._value(metric, name, kept, le).inc(value - (before or 0.0))

    def _kept_labels(self, metric: Metric, labels: Labels) -> Labels:
        """Return the labels, or `other` for each if the metric has too many series."""
        known = self._label_sets[metric.name]
        if labels not in known and len(known) >= metric.most - 1:
            labels = (OTHER,) * len(metric.labels)
        known.add(labels)
        return labels

    def _value(self, metric: Metric, name: str, labels: Labels, le: str | None = None) -> Any:
        """Return the number of one series in its file."""
        key = (name if le is None else f"{name} {le}", labels)
        found = self._values.get(key)
        if found is None:
            names, texts = metric.labels, tuple(map(str, labels))
            if le is not None:
                names, texts = (*names, "le"), (*texts, le)
            found = self._values[key] = ValueClass(
                metric.type, metric.family, name, names, texts, metric.help, GAUGE_MODE
            )
        return found


def _of(tallies: Tallies, metric: Metric) -> Any:
    return getattr(tallies, metric.name.removesuffix("_total"))
