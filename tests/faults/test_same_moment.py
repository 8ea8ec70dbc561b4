"""The same command twice at one moment: what the other one does meanwhile is no failure of this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gevent
import pytest

from relay.cli.durable import accepted
from relay.config import Settings
from relay.engine.claimer import Claimer
from relay.engine.order import End, Order
from relay.engine.runner import Runner
from relay.ledger.ledger import Ledger
from relay.throttle import Bounds


def ledger_of(folder: Path) -> Ledger:
    """Return the ledger in a folder, as one more process opens it."""
    return Ledger.at(f"sqlite:///{folder}/ledger.db")


def worked(ledger: Ledger, runner: Runner, id: str) -> str:
    """Work on a migration until it has ended; return its state."""
    with gevent.Timeout(30):
        Claimer(ledger, runner, 2, id).run()
    return ledger.migration(id).state


@pytest.mark.parametrize("recursive", [True, False], ids=["tree", "object"])
@pytest.mark.parametrize("before", ["running", "failed", "paused", "cancelled"])
@pytest.mark.parametrize("step", ["renew_secret", "trust", "list_again", "act", "limit"])
def test_another_process_ends_it_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recursive: bool, before: str, step: str
) -> None:
    """Between any two looks of this command the other one may have gone on with it, and ended it."""
    runner = Runner(Settings(local_folders=str(tmp_path), retry_budget=0))
    ledger, other = ledger_of(tmp_path), ledger_of(tmp_path)
    (tmp_path / "to").mkdir()
    name = "" if recursive else "/a"
    places = End(f"file://{tmp_path}/from{name}"), End(f"file://{tmp_path}/to{name}")
    order = Order(*places, recursive=recursive, bounds=Bounds(slots=2))
    made, _ = accepted(ledger, order, runner, quiet=True)
    if before == "failed":
        assert worked(ledger, runner, made.id) == "failed"
    elif before != "running":
        ledger.act(made.id, {"paused": "pause", "cancelled": "cancel"}[before])
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a").write_bytes(b"bytes")
    real, begun = getattr(ledger, step), []

    def after_the_other(*arguments: Any) -> Any:
        if not begun:
            begun.append(step)
            found, _ = accepted(other, order, runner, quiet=True)
            assert worked(other, runner, found.id) == "succeeded"
        return real(*arguments)

    monkeypatch.setattr(ledger, step, after_the_other)
    found, _ = accepted(ledger, order, runner, quiet=True)
    assert worked(ledger, runner, found.id) == "succeeded"
    assert (tmp_path / "to" / "a").read_bytes() == b"bytes"
    ledger.close()
    other.close()
