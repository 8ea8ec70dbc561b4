"""The judges of the load tests: pure functions, each with a case that it must find."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from loadtests.answers import defect_of, digest_of, wrong_refusal
from loadtests.bench.measures import BenchError
from loadtests.ladder.__main__ import table, verdicts
from loadtests.ladder.chart import draw
from loadtests.ladder.measure import RUNGS, Objects, Row, Sample
from loadtests.process_metrics import ProcessMetrics, ProcessSample, slope
from loadtests.verdict import RULES, Figures, judge, read_thresholds
from simulators.content import Content

ROOT = Path(__file__).resolve().parents[2]
THRESHOLDS = ROOT / "loadtests" / "thresholds.toml"
CRC = "0a1b2c3d"
FIELD = f"sha-256=:AAAA:, crc32c=:{base64.b64encode(bytes.fromhex(CRC)).decode()}:"
THERE = {"content-length": "5", "repr-digest": FIELD}
GOOD = {
    "state": "verified",
    "bytes": 5,
    "receipt": {"level": "whole_digest", "digests": {"crc32c": CRC}},
}


# -- scenarios


def test_the_simulators_know_each_fault_of_the_scenarios() -> None:
    """In a process of its own, since locust patches the standard library when it is imported."""
    program = (
        "import locust\n"
        "from loadtests.locustfile import FAULTS\n"
        "from simulators.faults import parse_spec\n"
        "print(len([parse_spec(fault) for _, fault in FAULTS]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


# -- answers


def test_a_right_answer_is_right() -> None:
    assert defect_of(200, json.dumps(GOOD), 5, THERE) is None
    assert digest_of(FIELD) == CRC
    assert digest_of("") is None


@pytest.mark.parametrize(
    ("status", "change", "there"),
    [
        (502, {}, THERE),
        (200, {"state": "unverified"}, THERE),
        (200, {"bytes": 4}, THERE),
        (200, {"receipt": {}}, THERE),
        (200, {"receipt": {"digests": {"crc32c": "00000000"}}}, THERE),
        (200, {}, None),
        (200, {}, THERE | {"content-length": "4"}),
        (200, {}, {"content-length": "5"}),
    ],
)
def test_a_wrong_answer_is_found(
    status: int, change: dict[str, object], there: dict[str, str] | None
) -> None:
    assert defect_of(status, json.dumps(GOOD | change), 5, there)
    assert defect_of(200, "no JSON", 5, there)


PROBLEM = {"detail": "the source said 404", "side": "source"}


def test_a_right_refusal_is_right() -> None:
    assert (
        wrong_refusal(502, "application/problem+json", json.dumps(PROBLEM), "source", there=False)
        is None
    )


@pytest.mark.parametrize(
    ("status", "kind", "text", "there"),
    [
        (200, "application/json", json.dumps(GOOD), False),
        (502, "text/html", json.dumps(PROBLEM), False),
        (502, "application/problem+json", "{}", False),
        (502, "application/problem+json", json.dumps(PROBLEM | {"side": "destination"}), False),
        (502, "application/problem+json", json.dumps(PROBLEM), True),
    ],
)
def test_a_wrong_refusal_is_found(status: int, kind: str, text: str, there: bool) -> None:
    assert wrong_refusal(status, kind, text, "source", there)


# -- the verdict

KEPT = Figures(
    requests=100,
    failure_ratio=0.0,
    healthz_p99=0.01,
    small_p50=0.01,
    small_p95=0.02,
    small_p99=0.03,
    of_calibration=1.0,
    peak_rss_mib=100.0,
    disk_bytes=0.0,
    rss_slope=0.0,
    descriptor_slope=0.0,
)


def test_thresholds_that_are_kept() -> None:
    lines = judge(KEPT, read_thresholds(THRESHOLDS))
    assert len(lines) == 1 + len(RULES)  # the file has a limit for every measured value
    assert all(line.met for line in lines)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule[2])
def test_each_threshold_can_be_missed(rule: tuple[str, str, str, str, object]) -> None:
    worse = replace(KEPT, **{rule[2]: -1.0 if rule[2] == "of_calibration" else 1e9})
    missed = [line for line in judge(worse, read_thresholds(THRESHOLDS)) if line.met is False]
    assert [line.what for line in missed] == [rule[3]]
    assert str(missed[0]).startswith("NO ")


def test_a_load_without_requests_has_failed() -> None:
    lines = judge(Figures(requests=0), read_thresholds(THRESHOLDS))
    assert lines[0].met is False
    assert {line.met for line in lines[1:]} == {None}
    assert "not measured" in str(lines[1])


@pytest.mark.parametrize("text", ["[answers]\nfailure_ratoi = 0.1\n", "[answers\n", "loose = 1\n"])
def test_a_threshold_file_with_a_mistake_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "thresholds.toml"
    path.write_text(text)
    with pytest.raises(BenchError, match=r"thresholds\.toml"):
        read_thresholds(path)
    with pytest.raises(BenchError):
        read_thresholds(tmp_path / "nowhere.toml")


def test_the_slope_ignores_the_beginning() -> None:
    assert slope([(0, 1), (1, 3), (2, 5)]) == pytest.approx(2)
    assert slope([(0, 1)]) == 0
    metrics = ProcessMetrics([], settle=30)
    metrics.samples = [
        ProcessSample(float(at), (1000 if at < 30 else 1) * 2**20, 10 + at // 60)
        for at in range(0, 180)
    ]
    assert metrics.rss_slope == pytest.approx(0)
    assert 0.5 < metrics.descriptor_slope < 1.5
    assert metrics.minutes == pytest.approx(149 / 60)


def test_metrics_of_a_living_process() -> None:
    metrics = ProcessMetrics([os.getpid()])
    metrics.sample()
    assert metrics.peak_mib > 1
    assert metrics.samples[0].descriptors > 2
    assert metrics.disk == 0


# -- locust itself, which patches what it is imported into


def locust(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run locust on our file."""
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        str(ROOT / "loadtests" / "locustfile.py"),
        *words,
    ]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LOAD_")}
    return subprocess.run(
        command,
        cwd=ROOT,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_locust_finds_every_user() -> None:
    listed = locust("--list").stdout.split()
    assert {"SmallFiles", "BigFiles", "Mixed", "SlowClouds", "Saboteur", "Watcher"} == set(
        listed
    ) - {
        "Available",
        "Users:",
    }


def test_shapes_have_users_to_the_end() -> None:
    script = (
        "from loadtests.shapes import STAGES, users_at\n"
        "print([[users_at(s, share / 100, 20) for share in range(0, 101, 10)] for s in STAGES.values()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    ramp, spike, soak = json.loads(done.stdout.replace("None", "null"))
    assert ramp == [*range(2, 21, 2), None]
    assert max(spike[:-1]) == 20 and min(spike[:-1]) == 2 and spike[-1] is None
    assert soak == [20] * 10 + [None]


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        (["--headless", "-t", "5s", "NoSuchFiles"], {}, "NoSuchFiles"),
        (["--headless", "-t", "5s"], {"LOAD_SHAPE": "wave"}, "there are ramp, spike, soak"),
        (
            ["--headless", "-t", "5s", "--host", "http://127.0.0.1:9", "SmallFiles"],
            {},
            "where the relay should be",
        ),
    ],
    ids=["no such scenario", "no such shape", "no relay"],
)
def test_bad_input_gets_one_clear_line(
    words: list[str], environment: dict[str, str], message: str
) -> None:
    done = locust(*words, **environment)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


# -- the ladder

OBJECTS = Objects.chosen(1, 24, 1_000_000, 200_000_000)


def row(number: str, wall: float, cpu: float, disk: int = 0, whole: int = 24) -> Row:
    """Return a rung that ran once."""
    rung = next(rung for rung in RUNGS if rung.number == number)
    return Row(rung, OBJECTS, [Sample(wall, cpu, disk, 50 << 20, whole)])


def test_the_list_is_the_same_for_the_same_seed() -> None:
    assert Objects.chosen(1, 24, 1_000_000, 200_000_000) == OBJECTS
    assert Objects.chosen(2, 24, 1_000_000, 200_000_000) != OBJECTS
    assert all(1_000_000 <= size <= 200_000_000 for size in OBJECTS.sizes.values())


def test_objects_are_whole_by_size_and_digest() -> None:
    objects = Objects.chosen(3, 2, 1000, 2000)
    with Content(3) as content:
        received = [
            {
                "path": f"/bucket/{n}",
                "size": s,
                "digests": {"crc32c": content.digest("crc32c", f"/objects/{n}", s)},
            }
            for n, s in objects.sizes.items()
        ]
    assert objects.count_whole(received) == 2
    received[0]["digests"] = {"crc32c": "0" * 16}
    assert objects.count_whole(received) == 1
    assert objects.count_whole([]) == 0


def test_the_expectations_of_the_ladder() -> None:
    good = [row("1", 60, 60, disk=10**9), row("7", 100, 90), row("8b", 5, 3)]
    assert all(met for _, met in verdicts(good))
    for bad in (
        row("8b", 7, 3),
        row("8b", 5, 10),
        row("8b", 5, 3, disk=1),
        row("8b", 5, 3, whole=23),
    ):
        assert [met for _, met in verdicts([*good[:2], bad])].count(False) == 1
    failed = Row(RUNGS[0], OBJECTS, failure="ended with 1: boom")
    assert "boom" in table([failed, *good], 1)
    assert not all(met for _, met in verdicts([failed]))


def test_the_chart_is_an_svg_with_a_bar_for_each_rung_that_ran() -> None:
    rows = [row("1", 60, 60), row("8b", 5, 3), Row(RUNGS[1], OBJECTS, failure="<late>")]
    root = ElementTree.fromstring(draw(rows, "a <caption> & more"))
    assert len(root.findall("{http://www.w3.org/2000/svg}rect")) == 4
    assert "prefers-color-scheme: dark" in "".join(root.itertext())


@pytest.mark.parametrize("program", ["loadtests.ladder", "loadtests.compare"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--json", "/nowhere/x"), "/nowhere is not a folder"),
        (("--write", "CHANGELOG.md"), "CHANGELOG.md has no <!--"),
    ],
)
def test_an_unwritable_report_is_refused_before_measuring(
    program: str, words: tuple[str, str], message: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", program, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
