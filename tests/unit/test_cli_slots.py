"""The number of slots of `relay migrate -r`: the one that its user gave, or one that grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from relay.cli.migrate import migrate
from relay.engine.worker.slot_growth import MOST_SLOTS


@pytest.mark.parametrize(
    ("flags", "variable", "line", "first", "grows"),
    [
        ((), None, "", 10, True),
        ((), "", "", 10, True),
        (("--slots", "4"), None, "", 4, False),
        (("--slots", "10"), None, "", 10, False),
        ((), "10", "", 10, False),
        ((), None, "slots = 12", 12, False),
        (("--slots", "100"), "7", "slots = 12", 100, False),
    ],
)
def test_only_an_unset_number_of_slots_grows(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    variable: str | None,
    line: str,
    first: int,
    grows: bool,
) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "relay.toml").write_text(line)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RELAY_SLOTS", raising=False)
    monkeypatch.setenv("RELAY_LEDGER", f"sqlite:///{tmp_path}/ledger.db")
    if variable is not None:
        monkeypatch.setenv("RELAY_SLOTS", variable)
    called: list[Any] = []

    def migrate_tree(_: Any, __: Any, engine: Any, *, slots: int, growth: Any, **___: Any) -> int:
        called.append((slots, growth, engine.settings.slots))
        return 0

    monkeypatch.setattr("relay.cli.tree.migrate_tree", migrate_tree)
    done = CliRunner().invoke(migrate, ["-r", "from", "to", *flags], standalone_mode=False)
    assert done.exception is None, done.output
    ((slots, growth, most),) = called
    assert (slots, growth is not None) == (first, grows)
    assert most == (MOST_SLOTS if grows else first)
    if grows:
        assert (growth.first, growth.most) == (first, MOST_SLOTS)
        assert growth.room() > 0
