"""A destination without space: the migration waits instead of sending a million requests, and then
resumes."""

from __future__ import annotations

from pathlib import Path

from tests.end_to_end.terminal import Terminal
from tests.end_to_end.test_tree import digests_of, plant
from tests.faults.test_webdav import EMPTY, Dav
from tests.scripted import Peer


def test_f48_a_tree_waits_for_free_space(tmp_path: Path) -> None:
    plant(tmp_path / "from")
    objects = len(digests_of(tmp_path / "from"))
    dav = Dav(answers={b"PUT": [EMPTY % 507] * 1000})
    terminal = Terminal(
        tmp_path, RELAY_EGRESS_ALLOW="127.0.0.1", RELAY_SLOTS="2", RELAY_RETRY_BUDGET="2"
    )
    with Peer([dav] * 1000) as peer:
        words = ("migrate", "-r", f"{tmp_path}/from", f"webdav://127.0.0.1:{peer.port}/to/")
        code, out, _ = terminal.run(*words)
        assert code == 1
        assert "507" in out and "Free space" in out
        assert terminal.query("SELECT state FROM migrations") == "paused"
        assert dav.asked.count(b"PUT") < objects / 2
        assert dav.objects == {}
        dav.answers.clear()
        code, _, err = terminal.run(*words)
        assert code == 0, err
    assert len(dav.objects) == objects
