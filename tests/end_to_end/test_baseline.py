"""The baseline of the benchmark: the simplest loops in C move whole objects."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from loadtests.bench.baseline import build
from loadtests.bench.measures import Cost, Row, Sample, compare
from simulators.content import Content
from simulators.spawn import spawn

SIZE = 5_000_001


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_baseline_moves_an_object_whole(tmp_path: Path, scheme: str) -> None:
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed (Debian: gcc)")
    built, missing = build(tmp_path)
    if scheme not in built:
        pytest.skip(f"{missing} (Debian: libssl-dev)")
    authorities = [tmp_path / "source.pem", tmp_path / "destination.pem"]
    tls = [["--tls", "--ca-out", str(path)] if scheme == "https" else [] for path in authorities]
    with (
        spawn("src", "--seed", "7", *tls[0]) as source,
        spawn("dst", *tls[1]) as destination,
        Content(7) as content,
    ):
        command = [
            str(built[scheme]),
            source.url(f"/objects/a?size={SIZE}"),
            destination.url("/bucket/a"),
        ]
        if scheme == "https":
            both = tmp_path / "both.pem"
            both.write_text("".join(path.read_text() for path in authorities))
            command.append(str(both))
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        (entry,) = destination.get_json("/_received")
        assert entry["size"] == SIZE
        assert entry["digests"]["crc64nvme"] == content.digest("crc64nvme", "/objects/a", SIZE)
        missed = subprocess.run(
            [*command[:1], source.url("/objects/a?fault=status(404)"), *command[2:]],
            capture_output=True,
            check=False,
        )
        assert missed.returncode == 1  # it does not report work that it cannot do as done


def test_relay_is_compared_with_rclone_and_the_baseline() -> None:
    def row(key: str, cpu: float) -> Row:
        return Row(key, key, "plain", 1 << 30, samples=[Sample(Cost(1.0, cpu), whole=True)])

    def verdicts_met(relay: float) -> list[bool]:
        rows = [row("relay", relay), row("rclone", 1.0), row("baseline", 0.4)]
        return [
            verdict.met for verdict in compare(rows, "plain", most_cpu=0.55, most_of_baseline=1.25)
        ]

    assert verdicts_met(0.5) == [True, True, True]
    assert verdicts_met(0.52) == [False, True, True]
    assert verdicts_met(0.6) == [False, False, True]
