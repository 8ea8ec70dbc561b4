"""`make test` runs every test file, once."""

from __future__ import annotations

from collections import Counter

from tests.__main__ import SHARES, TESTS, files_of


def test_every_file_is_in_one_share() -> None:
    there = {f"tests/{path.relative_to(TESTS)}" for path in TESTS.rglob("test_*.py")}
    assert Counter(name for share in SHARES for name in files_of(share)) == Counter(dict.fromkeys(there, 1))
