"""`make test` runs every test file, once; failed tests once more, alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests import __main__ as shares
from tests.__main__ import FEW, SHARES, TESTS, files_of, main

PASSES = "def test_passes(): pass\n"
FAILS = "def test_fails(): assert False\n"
SHAKY = """
from pathlib import Path
def test_shaky():
    mark = Path(__file__).with_name("mark")
    seen = mark.exists()
    mark.touch()
    assert seen
"""
CRASHES = "import os\ndef test_crashes(): os._exit(139)\n"
MANY = f"import pytest\n@pytest.mark.parametrize('n', range({FEW + 1}))\ndef test_many(n): assert False\n"


def test_every_file_is_in_one_share() -> None:
    there = {f"tests/{path.relative_to(TESTS)}" for path in TESTS.rglob("test_*.py")}
    assert Counter(name for share in SHARES for name in files_of(share)) == Counter(dict.fromkeys(there, 1))


@pytest.mark.parametrize(
    ("files", "code", "printed"),
    [
        ((PASSES, SHAKY), 0, "SHAKY, passed alone the second time: tests/b/test_1.py::test_shaky"),
        ((FAILS, SHAKY), 1, "once more, alone: tests/a/test_0.py::test_fails"),
        ((CRASHES, SHAKY), 139, ""),
        ((MANY, PASSES), 1, ""),
    ],
)
def test_failed_tests_run_once_more_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    files: tuple[str, str],
    code: int,
    printed: str,
) -> None:
    """A test that passes then is named; one that fails again, many failures, and a crash stay failures."""
    for number, (folder, text) in enumerate(zip("ab", files, strict=True)):
        path = tmp_path / "tests" / folder / f"test_{number}.py"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    monkeypatch.setattr(shares, "TESTS", tmp_path / "tests")
    monkeypatch.setattr(shares, "SHARES", (("a/test_*.py",), ("b/test_*.py",)))
    assert main([]) == code
    text = capfd.readouterr().out
    assert printed in text
    assert ("SHAKY" in text) is ("SHAKY" in printed)
