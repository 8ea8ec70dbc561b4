"""Law 8: payload never touches the disk, shown on objects larger than the process may write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simulators.spawn import spawn

ROOT = Path(__file__).resolve().parents[2]
MIB = 1024 * 1024


def run_mover(**order: Any) -> dict[str, Any]:
    """Run the moving program and return its report."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.transfer_program", json.dumps(order)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("verify", ["auto", "size"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_objects_larger_than_the_process_may_write_are_moved(verify: str, framing: str) -> None:
    with spawn("src", "--framing", framing) as source, spawn("dst") as destination:
        pairs = [
            (source.url(f"/objects/{n}?size=16MiB"), destination.url(f"/{n}")) for n in range(3)
        ]
        report = run_mover(pairs=pairs, verify=verify, fsize=MIB)
    assert report["states"] == ["verified" if verify == "auto" else "unverified"] * 3
    assert report["written"] < MIB
    assert report["opened"] == []


def test_objects_over_tls_touch_no_disk(tmp_path: Path) -> None:
    ca, other = tmp_path / "source.pem", tmp_path / "destination.pem"
    with (
        spawn("src", "--tls", "--ca-out", str(ca)) as source,
        spawn("dst", "--tls", "--ca-out", str(other)) as there,
    ):
        both = tmp_path / "both.pem"
        both.write_text(ca.read_text() + other.read_text())
        pairs = [(source.url("/objects/a?size=16MiB"), there.url("/a"))]
        report = run_mover(pairs=pairs, verify="auto", fsize=MIB, ca=str(both))
    assert (report["states"], report["opened"]) == (["verified"], [])
    assert report["written"] < MIB


def test_the_watch_sees_a_file_that_is_written(tmp_path: Path) -> None:
    control = str(tmp_path / "control")
    assert run_mover(pairs=[], verify="auto", fsize=MIB, control=control)["opened"] == [control]
