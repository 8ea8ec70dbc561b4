"""The table of metrics, and everything that names one: Grafana's dashboard and the rules."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from relay.metrics.metric_table import BY_NAME, METRICS, MOST_SERIES, Kind, Metric
from relay.tallies import Distributions, Tallies

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SCRAPED = frozenset({"job", "instance", "le"})
"""Labels that Prometheus itself adds."""

FILL = """
import os
from pathlib import Path
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from relay.metrics.metric_table import METRICS, Kind
from relay.metrics.publisher import Publisher
from relay.metrics.shared_sums import SharedSums
from relay.tallies import Distributions, Tallies

folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
sums = SharedSums(folder)
tallies, gauges, publisher = Tallies(), {}, Publisher()
for _ in range(2):
    for metric in METRICS:
        sets = [tuple(f"{label}{n}" for label in metric.labels) for n in range(1000 if metric.labels else 1)]
        held = getattr(tallies, metric.name.removesuffix("_total"), None)
        for labels in sets:
            if metric.kind is Kind.GAUGE:
                gauges.setdefault(metric.name, {})[labels] = 2.0
            elif isinstance(held, Distributions):
                held[labels].add(0.03)
            elif held is not None:
                held[labels] += 1
    publisher.write(tallies, gauges)
    answer = sums.text({"build_info": {('a"b', "c\\\\d", "e\\nf"): 1}})
registry = CollectorRegistry()
MultiProcessCollector(registry)
(folder / "answer").write_bytes(answer)
(folder / "official").write_bytes(generate_latest(registry))
"""
"""Counts each metric under 1,000 sets of labels, twice; writes the second answer, and that of
prometheus_client."""


@pytest.fixture(scope="module")
def metrics_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a process that has counted more than it may show."""
    folder = tmp_path_factory.mktemp("metrics")
    done = subprocess.run(
        [sys.executable, "-c", FILL],
        env={"PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONPATH": str(DEPLOY.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def full(metrics_folder: Path) -> dict[str, Any]:
    """Return the families of its answer, by name."""
    return families(metrics_folder / "answer")


def families(path: Path) -> dict[str, Any]:
    """Return the families of an answer, by name."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in text_string_to_metric_families(path.read_text())
    }


def values_of(family: Any) -> dict[Any, float]:
    """Return the values of a family, by name and labels."""
    found = {(one.name, frozenset(one.labels.items())): one.value for one in family.samples}
    assert len(found) == len(family.samples)
    return found


def test_the_answer_is_that_of_prometheus_client(metrics_folder: Path) -> None:
    """Each family with its help, its type and its samples; its own readings come on top."""
    ours, official = families(metrics_folder / "answer"), families(metrics_folder / "official")
    (build,) = ours.pop("relay_build_info").samples
    assert build.labels == {"version": 'a"b', "python": "c\\d", "schema": "e\nf"}
    assert set(ours) == set(official)
    for name, family in official.items():
        found = ours[name]
        assert (found.type, found.documentation) == (family.type, family.documentation)
        assert values_of(found) == values_of(family), name


def test_a_process_counts_what_the_table_names() -> None:
    """Counters and histograms are attributes of the tallies, with the same bounds."""
    tallies = Tallies()
    for metric in METRICS:
        held = getattr(tallies, metric.name.removesuffix("_total"), None)
        if metric.kind is Kind.COUNTER:
            assert isinstance(held, dict) and metric.name.endswith("_total"), metric.name
        elif metric.kind is Kind.HISTOGRAM:
            assert isinstance(held, Distributions), metric.name
            assert held[()].bounds == metric.bounds
    assert len(BY_NAME) == len(METRICS)


def test_there_are_never_too_many_series(full: dict[str, Any]) -> None:
    """Further sets of labels are counted as `other`, and none is lost."""
    assert sum(metric.most_series for metric in METRICS) <= MOST_SERIES
    assert sum(len(family.samples) for family in full.values()) <= MOST_SERIES
    for metric in METRICS:
        if metric.kind is Kind.COUNTER:
            samples = full[metric.full_name].samples
            assert sum(sample.value for sample in samples) == (2000 if metric.labels else 2)
            assert len(samples) <= metric.most


def test_each_metric_has_its_labels_kind_and_help(full: dict[str, Any]) -> None:
    """As the table says, also those of errors that no other test makes."""
    for metric in METRICS:
        if metric.kind is Kind.READING:
            continue
        family = full[metric.full_name]
        assert (family.type, family.documentation) == (metric.type, metric.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels), sample


def test_a_histogram_is_cumulative(full: dict[str, Any]) -> None:
    """Its buckets rise, and the last one is the count."""
    samples = full["relay_hub_late_seconds"].samples
    buckets = [sample.value for sample in samples if sample.name.endswith("_bucket")]
    (count,) = (sample.value for sample in samples if sample.name.endswith("_count"))
    assert (buckets, count) == ([0, 0, 0, 0, 2, 2, 2, 2], 2)


# -- what names a metric


def expressions() -> Iterator[tuple[str, str]]:
    """Yield every expression of the dashboard and of the rules, with its place."""
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"].replace("$__rate_interval", "5m").replace("$job", ".*")
            yield f"grafana: {panel['title']}", text
    for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alerts: {rule['alert']}", rule["expr"]


def selectors(node: Any) -> Iterator[Any]:
    """Yield the selectors of a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        inner = getattr(node, name, None)
        if inner is not None and not isinstance(inner, str):
            yield from selectors(inner)
    for inner in getattr(node, "args", None) or ():
        yield from selectors(inner)


def named_metric(name: str) -> Metric | None:
    """Return the metric of a series, or None."""
    return BY_NAME.get(name) or BY_NAME.get(re.sub(r"_(bucket|count|sum)$", "", name))


@pytest.mark.parametrize(("place", "text"), list(expressions()), ids=lambda text: str(text)[:40])
def test_every_expression_names_a_metric(place: str, text: str) -> None:
    """And its labels. A name that is in no table would show an empty panel, or never fire."""
    found = list(selectors(promql_parser.parse(text)))
    assert found, place
    named = [named_metric(selector.name) for selector in found if selector.name != "up"]
    assert None not in named, text
    known = SCRAPED.union(*(metric.labels for metric in named if metric is not None))
    for selector in found:
        assert {matcher.name for matcher in selector.matchers.matchers} <= known, text
    for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", text):
        assert {label.strip() for label in group.split(",")} <= known, text


def test_the_dashboard_has_its_rows_and_every_metric() -> None:
    """A metric that no panel shows is one that nobody sees before an alert."""
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert rows == ["Now", "Why", "Trust", "Host", "Ledger", "Web"]
    shown = {
        metric.full_name
        for place, text in expressions()
        if place.startswith("grafana")
        for selector in selectors(promql_parser.parse(text))
        if (metric := named_metric(selector.name)) is not None
    }
    assert shown == set(BY_NAME)


def test_a_wrong_name_is_found() -> None:
    """The check itself can fail."""
    text = "sum by (remote) (rate(relay_byte_total[5m])) / on (job) relay_workers"
    names = [selector.name for selector in selectors(promql_parser.parse(text))]
    assert names == ["relay_byte_total", "relay_workers"]
    assert named_metric("relay_byte_total") is None
