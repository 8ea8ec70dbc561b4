"""law 10: nothing blocks the hub longer than 100 ms, not even four transfers at full speed.

A functional law, not a measure of speed: the pump yields on its own clock. The test measures the
CPU time of the process between two wakes of a greenlet that wakes every 10 ms (see
tests.transfer_program.Ticker), since on two cores the clouds compete with us for the processor and can make
any process late."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulators.spawn import spawn
from tests.faults.test_disk import run_mover

LATEST_SECONDS = 0.1


@pytest.mark.parametrize("verify", ["size", "auto"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_four_transfers_at_full_speed_let_others_run(
    tmp_path: Path, verify: str, tls: bool
) -> None:
    ca, other, both = (tmp_path / name for name in ("source.pem", "destination.pem", "both.pem"))
    secure = ("--tls", "--ca-out") if tls else ()
    with (
        spawn("src", *secure, *((str(ca),) if tls else ())) as source,
        spawn("dst", *secure, *((str(other),) if tls else ())) as there,
    ):
        both.write_text(ca.read_text() + other.read_text() if tls else "")
        pairs = [(source.url(f"/objects/{n}?size=100MiB"), there.url(f"/{n}")) for n in range(4)]
        report = run_mover(pairs=pairs, verify=verify, ca=str(both) if tls else None)
    assert report["states"] == ["verified" if verify == "auto" else "unverified"] * 4
    assert report["ticks"] > 5
    assert report["busy"] < LATEST_SECONDS
