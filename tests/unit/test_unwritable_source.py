"""Extra objects of a mirror whose source takes no probe: which were changed lately."""

from __future__ import annotations

import pytest

from relay.engine.removal.unwritable_source import is_young
from relay.receipt import Version

NOW = 1_704_153_600.0
"""2024-01-02 00:00:00 UTC."""


@pytest.mark.parametrize(
    ("date", "is_so"),
    [
        ("Mon, 01 Jan 2024 22:59:00 GMT", False),
        ("Mon, 01 Jan 2024 23:59:00 GMT", True),
        (None, True),
    ],
)
def test_an_object_with_a_date(date: str | None, is_so: bool) -> None:
    assert is_young("s3", Version(1, '"a"', date), NOW) is is_so


def test_a_server_shows_a_time_that_the_file_has_kept() -> None:
    assert is_young("webdav", Version(1, '"a"', "Mon, 01 Jan 2018 22:59:00 GMT"), NOW)


@pytest.mark.parametrize(("seconds", "is_so"), [(3601, False), (60, True)])
def test_a_file_by_the_time_of_its_change(seconds: int, is_so: bool) -> None:
    changed = (int(NOW) - seconds) * 10**9
    tag = f'"{12:x}-{changed:x}-{changed:x}-{1:x}"'
    assert is_young("local", Version(1, tag), NOW) is is_so
