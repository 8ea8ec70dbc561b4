"""The calls by which a process that forks commands compiles their statements."""

from __future__ import annotations

from pathlib import Path

from tests.torture.rehearsal import play


def test_the_rehearsal_of_commands_comes_to_its_end(tmp_path: Path) -> None:
    """A call that fails ends it, and each forked command would compile the rest: a third more
    CPU."""
    play(tmp_path)
