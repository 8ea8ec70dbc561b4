"""The places at which tests let relay end: their names, their visits, and that they cost nothing in
normal use."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from relay.errors import ConfigError
from relay.process import failpoints
from relay.process.failpoints import EXIT_CODE, POINTS, Failpoint, FailpointReached, failpoint_of
from relay.wire import exchange
from tests import forked

ROOT = Path(__file__).resolve().parents[2]


def failpoint_names() -> list[str]:
    """Return the names of every failpoint in relay's source."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "relay").rglob("*.py")]
    named = [name for text in texts for name in re.findall(r"\breach\(\"([a-z-]+)\"\)", text)]
    return [*named, *exchange.SENT.values(), *exchange.SENT_BARE.values()]


def test_every_name_is_a_place_and_every_place_has_a_name() -> None:
    found = set(failpoint_names()) - {"name"}  # which the module's own text lists
    assert found == set(POINTS)


def test_only_the_visit_that_was_asked_for_acts() -> None:
    acts: list[str] = []
    point = Failpoint("after-pin", 2, lambda: acts.append("acted"))
    for name in ("after-part", "after-pin", "after-part", "after-pin", "after-pin"):
        point.reach(name)
        acts.append(name)
    assert acts == ["after-part", "after-pin", "after-part", "acted", "after-pin", "after-pin"]


@pytest.mark.parametrize(
    "text",
    [
        "nowhere:1:kill9",
        "after-pin",
        "after-pin:1",
        "after-pin::kill9",
        "after-pin:0:kill9",
        "after-pin:x:kill9",
        "after-pin:-1:kill9",
        "after-pin:1:stop",
        "after-pin:1:kill9:2",
        "after-pin:1:sleep",
        "after-pin:1:sleep:soon",
        "after-pin:1:sleep:-1",
        "after-pin:1:sleep:nan",
        "after-pin:1:sleep:inf",
    ],
)
def test_a_wrong_failpoint_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="RELAY_FAILPOINT"):
        failpoint_of(text)


def test_without_the_variable_a_place_does_nothing() -> None:
    assert os.environ.get(failpoints.VARIABLE) is None
    assert failpoints.reach is failpoints._ignore


def environment(**settings: str) -> dict[str, str]:
    """Return our environment with these settings only."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith("RELAY_")
    } | settings


@pytest.mark.parametrize("words", [("serve",), ("migrate", "x", "y"), ("status",)])
def test_an_unknown_name_refuses_the_start_in_one_line(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "relay", *words],
        cwd=ROOT,
        env=environment(RELAY_FAILPOINT="nowhere:1:kill9", RELAY_BIND="127.0.0.1:0"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "'nowhere' is not a failpoint" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("action", "code"),
    [("kill9", -signal.SIGKILL), ("exit", EXIT_CODE), ("raise", 1), ("sleep:0.01", 0)],
)
def test_each_action_in_a_process(tmp_path: Path, action: str, code: int) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "object").write_bytes(b"bytes")
    words = ("migrate", "-r", f"{tmp_path}/from", f"{tmp_path}/to")
    settings = environment(RELAY_LEDGER=f"sqlite:///{tmp_path}/ledger.db")
    armed = settings | {"RELAY_FAILPOINT": f"after-pin:1:{action}"}
    found, _, err = forked.run(words, armed, 60)
    assert found == code, err
    found, _, err = forked.run(words, settings, 60)
    assert found == 0, err
    assert (tmp_path / "to" / "object").read_bytes() == b"bytes"


@pytest.mark.parametrize("flags", [(), ("-r",)])
def test_a_bug_is_reported_as_the_failure_of_its_object(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "object").write_bytes(b"bytes")
    ends = [f"{tmp_path}/from", f"{tmp_path}/to"]
    ends = ends if flags else [f"{end}/object" for end in ends]
    settings = environment(
        RELAY_LEDGER=f"sqlite:///{tmp_path}/ledger.db", RELAY_FAILPOINT="after-pin:1:raise"
    )
    code, out, err = forked.run(("migrate", *flags, *ends), settings, 60)
    assert code == 1
    assert "other processes" not in out
    assert "an unexpected FailpointReached; the traceback is in the log" in err
    assert not (tmp_path / "to" / "object").exists()


def test_a_failpoint_that_raises_looks_like_a_bug() -> None:
    with pytest.raises(FailpointReached):
        failpoint_of("after-pin:1:raise").reach("after-pin")
