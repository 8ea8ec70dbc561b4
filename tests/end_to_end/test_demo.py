"""`make demo` itself, on fewer and smaller objects: everything verified, everything stopped, exit
0."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
from rich.console import Console

from loadtests.demo import Job, Result, conclude

ROOT = Path(__file__).resolve().parents[2]


def demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the demo as `make demo` does."""
    return subprocess.run(
        [sys.executable, "-m", "loadtests.demo", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def marked_commands(mark: str) -> list[list[str]]:
    """Return the command lines of the running processes with this in their environment: other tests
    run servers meanwhile."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("MARK_OF_THIS_DEMO") == mark:
                found.append(process.cmdline())
    return found


@pytest.mark.demo
def test_the_demo_verifies_everything_and_leaves_nothing(tmp_path: Path) -> None:
    """It keeps out of its user's settings: their ledger, those in the checkout, and their proxy."""
    mark = uuid.uuid4().hex
    done = demo(
        "--objects",
        "12",
        "--max",
        "20MB",
        "--at-a-time",
        "10",
        COLUMNS="160",
        MARK_OF_THIS_DEMO=mark,
        XDG_DATA_HOME=str(tmp_path),
        HTTP_PROXY="http://127.0.0.1:9",
        http_proxy="http://127.0.0.1:9",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
    assert "12 of 12 objects verified" in done.stdout
    assert done.stdout.count("whole_digest") == 12
    assert done.stdout.count("the same") >= 12
    assert "Try next" in done.stdout
    assert marked_commands(mark) == []


@pytest.mark.demo
def test_the_page_of_the_demo_stays_until_ctrl_c() -> None:
    mark = uuid.uuid4().hex
    words = ("--objects", "3", "--max", "2MB", "--page", "--plain")
    with subprocess.Popen(
        [sys.executable, "-m", "loadtests.demo", *words],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "160", "MARK_OF_THIS_DEMO": mark, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        lines = []
        while "Ctrl-C" not in (lines[-1] if lines else ""):
            lines.append(running.stdout.readline())
            assert lines[-1], lines
        text = "".join(lines)
        assert "3 of 3 objects verified" in text and text.count("whole_digest") == 3
        named = re.findall(r"http://\S+/ui/migrations/1\b", text)
        assert len(set(named)) == 1 and len(named) == 2
        with urlopen(named[-1], timeout=30) as answer:
            assert "3 of 3 objects" in answer.read().decode().replace("\u00a0", " ")
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0
    assert marked_commands(mark) == []


def test_a_process_left_by_the_demo_would_be_seen() -> None:
    mark = uuid.uuid4().hex
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        env={**os.environ, "MARK_OF_THIS_DEMO": mark},
        stdin=subprocess.PIPE,
    ) as left:
        assert marked_commands(mark) == [left.args]
        left.communicate(timeout=30)
    assert marked_commands(mark) == []


@pytest.mark.parametrize(
    ("state", "digest", "code"),
    [("verified", "ab", 0), ("unverified", "ab", 1), ("verified", "cd", 1)],
)
def test_the_demo_compares_both_statements(state: str, digest: str, code: int) -> None:
    answer = {
        "state": state,
        "bytes": 5,
        "seconds": 1,
        "receipt": {"digests": {"crc64nvme": "ab"}, "level": "x"},
    }
    received = {"/bucket/a": {"digests": {"crc64nvme": digest}, "size": 5}}
    results = [Result(Job("a", 5), answer)]
    assert conclude(Console(file=io.StringIO()), results, received, 1.0) == code


@pytest.mark.demo
@pytest.mark.timeout(200)
def test_the_demo_of_a_cutover_shows_a_signed_report() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.demo_cutover"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=190,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 listings equal" in done.stdout and '"quiet_since"' in done.stdout
    assert "are the same." in done.stdout
