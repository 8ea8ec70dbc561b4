"""The alert rules, by Prometheus' own `promtool`: each fires in one case and is silent in another."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SERVER = 'job="relay",instance="one"'
MINUTES = 90
"""Length of each case, in minutes."""


@dataclass(frozen=True)
class Case:
    """One alert: series with which it fires after `minutes`, and others with which it is silent.

    A series is a name with labels, and values in promtool's notation."""

    firing: Mapping[str, str]
    silent: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    minutes: int = 60


def series(name: str, labels: str = "") -> str:
    """Return a series of the one server."""
    return f"{name}{{{SERVER}{',' if labels else ''}{labels}}}"


def steady(value: float) -> str:
    """Return values that stay."""
    return f"{value}x{MINUTES}"


def rising(step: float) -> str:
    """Return values that rise by `step` a minute."""
    return f"0+{step}x{MINUTES}"


UP, BUILD = series("up"), series("relay_build_info", 'version="1"')
RUNNING = series("relay_migrations", 'state="running"')
BYTES = series("relay_bytes_total", 'remote="old",side="source",use="payload"')
SOURCE = {"remote": "old", "side": "source"}
AT_SOURCE = 'remote="old",side="source"'
MISMATCHES = series("relay_integrity_mismatches_total", AT_SOURCE)
JOB, ONE = {"job": "relay"}, {"job": "relay", "instance": "one"}
RESIDENT = series("relay_worker_resident_bytes")
ROOM = {
    series("relay_memory_ceiling_bytes"): steady(200e6),
    series("relay_workers"): steady(2),
}
FREE = series("relay_ledger_free_bytes")


def settled_objects(failed: float) -> dict[str, str]:
    """Return the series of 100 settled objects a minute, of which some failed."""
    return {
        series("relay_transfers_total", 'state="verified",level="size"'): rising(100 - failed),
        series("relay_transfers_total", 'state="failed",level="none"'): rising(failed),
    }


def throttled_requests(answers: float) -> dict[str, str]:
    """Return the series of 1,000 requests a minute, some answered by 429."""
    return {
        series("relay_store_throttled_total", AT_SOURCE): rising(answers),
        series("relay_store_requests_total", f'{AT_SOURCE},op="get",status="2xx"'): rising(1000),
    }


def late(name: str, bound: str, slow: float, labels: str = "") -> dict[str, str]:
    """Return the buckets of a histogram: 100 events a minute, of which `slow` are above `bound`."""
    extra = f",{labels}" if labels else ""
    return {
        series(name, f'le="{bound}"{extra}'): rising(100 - slow),
        series(name, f'le="5.0"{extra}'): rising(100),
        series(name, f'le="+Inf"{extra}'): rising(100),
    }


CASES: Mapping[str, Case] = {
    "RelayDown": Case({UP: steady(0), BUILD: steady(1)}, {UP: steady(1), BUILD: steady(1)}, ONE),
    "RelayIntegrityMismatch": Case(
        {MISMATCHES: "0x54 1x30"}, {MISMATCHES: steady(3)}, {**ONE, **SOURCE}
    ),
    "RelayQuarantine": Case(
        {series("relay_quarantined_total"): "0x54 1x30"},
        {series("relay_quarantined_total"): steady(2)},
        ONE,
    ),
    "RelayNothingMoves": Case(
        {RUNNING: steady(1), BYTES: steady(9)}, {RUNNING: steady(1), BYTES: rising(9)}, JOB
    ),
    "RelayNeedsYou": Case(
        {series("relay_migrations_needing_attention", 'reason="full"'): steady(1)},
        {series("relay_migrations_needing_attention", 'reason="full"'): steady(0)},
        {"reason": "full", **JOB},
    ),
    "RelayFailureRatio": Case(settled_objects(6), settled_objects(4), JOB),
    "RelayThrottledLong": Case(throttled_requests(80), throttled_requests(20), {**JOB, **SOURCE}),
    "RelayHubBlocked": Case(
        late("relay_hub_late_seconds_bucket", "0.1", 2),
        late("relay_hub_late_seconds_bucket", "0.1", 0.5),
        ONE,
    ),
    "RelayLedgerSlow": Case(
        late("relay_ledger_seconds_bucket", "1.0", 2, 'op="turn"'),
        late("relay_ledger_seconds_bucket", "1.0", 2, 'op="page"'),
        ONE,
    ),
    "RelayLedgerErrors": Case(
        {series("relay_ledger_errors_total", 'code="ledger-busy"'): rising(1)},
        {series("relay_ledger_errors_total", 'code="ledger-busy"'): steady(4)},
        {"code": "ledger-busy", **JOB},
    ),
    "RelayMemory": Case({RESIDENT: steady(450e6), **ROOM}, {RESIDENT: steady(390e6), **ROOM}, ONE),
    "RelayLedgerDisk": Case({FREE: f"50e9-500e6x{MINUTES}"}, {FREE: steady(50e9)}, ONE),
    "RelayAuthFlood": Case(
        {series("relay_auth_failures_total", 'reason="unauthorized"'): rising(400)},
        {series("relay_auth_failures_total", 'reason="unauthorized"'): rising(200)},
        JOB,
    ),
}
NEW = Case({MISMATCHES: "_x54 1x30"}, {MISMATCHES: "_x20 1x70"}, {**ONE, **SOURCE})
"""A series that begins with its first event has no increase."""
NEARLY_FULL = Case({FREE: steady(1e9)}, {FREE: steady(3e9)}, ONE)
GONE = Case({series("relay_workers"): steady(1)}, {UP: steady(1), BUILD: steady(1)}, JOB)
"""Prometheus has no series of relay at all."""
FURTHER = {"RelayIntegrityMismatch": NEW, "RelayLedgerDisk": NEARLY_FULL, "RelayDown": GONE}


def rules() -> list[dict[str, Any]]:
    """Return the rules."""
    (group,) = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return list(group["rules"])


@pytest.fixture
def promtool() -> str:
    """Return Prometheus' tool, or skip the test."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return found


def run(*words: str) -> None:
    """Run a command, which must succeed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_its_configuration_and_rules(promtool: str) -> None:
    run(promtool, "check", "config", str(DEPLOY / "prometheus.yml"))
    run(promtool, "check", "rules", str(DEPLOY / "alerts.yml"))


def test_every_rule_says_what_it_means_and_has_its_cases() -> None:
    """A summary and a description, and a case here."""
    assert [rule["alert"] for rule in rules()] == list(CASES)
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_each_alert_fires_and_is_silent_in_its_case(promtool: str, tmp_path: Path) -> None:
    """The texts are left out: promtool would compare them word for word."""
    bare = [{key: rule[key] for key in rule if key != "annotations"} for rule in rules()]
    severities = {rule["alert"]: rule["labels"]["severity"] for rule in bare}
    (tmp_path / "rules.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "relay", "rules": bare}]})
    )
    tests = []
    for alert, case in (*CASES.items(), *FURTHER.items()):
        labels = {"severity": severities[alert], **case.labels}
        for shown, expected in ((case.firing, [{"exp_labels": labels}]), (case.silent, [])):
            tests.append(
                {
                    "interval": "1m",
                    "input_series": [
                        {"series": name, "values": row} for name, row in shown.items()
                    ],
                    "alert_rule_test": [
                        {
                            "eval_time": f"{case.minutes}m",
                            "alertname": alert,
                            "exp_alerts": expected,
                        }
                    ],
                }
            )
    made = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(made))
    run(promtool, "test", "rules", str(tmp_path / "tests.yml"))
