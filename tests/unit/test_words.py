"""The ratchet on private idioms finds each, and lets no file gain one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.words import count, main


@pytest.mark.parametrize(
    "text",
    [
        "Of one who is denied: who is denied waits.",
        "It is no failure.",
        "So many of them are read at a time.",
        "what the caller is told",
        "It begins anew.",
        "The next process goes on with it.",
        "A worker that has lost his lease.",
    ],
)
def test_an_idiom_is_found(text: str) -> None:
    assert count(text) >= 1


@pytest.mark.parametrize(
    "text",
    [
        "A paused worker stops within a second.",
        "The object is no longer there.",
        "There is no such migration.",
        "It stays as long as the lease holds.",
        "Maximum number of parts that are read at a time.",
        "The caller knows what the store returned.",
    ],
)
def test_plain_english_passes(text: str) -> None:
    assert count(text) == 0


def test_a_file_may_lose_idioms_and_gain_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, baseline = tmp_path / "relay/a.py", tmp_path / "words.json"
    page.parent.mkdir()
    page.write_text('"""What is told twice is told."""')
    words = ["--write"]
    assert main(words, tmp_path, baseline) == 0
    before = json.loads(baseline.read_text())
    assert before["relay/a.py"] >= 2
    page.write_text('"""What is told twice is told, and told."""')
    assert main(words, tmp_path, baseline) == 1
    assert "relay/a.py" in capsys.readouterr().err and json.loads(baseline.read_text()) == before
    page.write_text('"""The message is told once."""')
    assert main(words, tmp_path, baseline) == 0
    assert json.loads(baseline.read_text()) == {"relay/a.py": 1}
    (tmp_path / "relay/b.py").write_text('"""told"""')
    assert main([], tmp_path, baseline) == 1
