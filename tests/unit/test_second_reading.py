"""Which objects are read again before they are deleted: those whose version may not show a
change."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from relay.engine.removal.second_reading import needs_second_reading, read_again
from relay.ledger.pages import TransferRow
from relay.location import parse_location
from relay.receipt import Version
from relay.stores.interfaces import ObjectInfo

NOW = 1_800_000_000.0
ROW = TransferRow(
    id=1,
    name="a",
    state="verified",
    size=1,
    bytes=1,
    resent=0,
    attempts=1,
    seconds=1.0,
    level="read_back",
    error=None,
    reason=None,
    receipt={},
    ended=NOW - 9,
)
"""An object that was read ten seconds ago."""
PLACE = parse_location("https://a/a")


def object_aged(age: float | None, etag: str = '"a"') -> ObjectInfo:
    return ObjectInfo(Version(1, etag), PLACE, age=age)


@pytest.mark.parametrize(
    ("store", "age", "is_needed"),
    [
        ("webdav", 10.0, True),
        ("webdav", 12.0, True),
        ("webdav", 13.5, False),
        ("webdav", None, True),
        ("s3", 10.0, False),
        ("nextcloud", None, False),
    ],
)
def test_an_object_that_was_read_young(store: str, age: float | None, is_needed: bool) -> None:
    assert needs_second_reading(store, ROW, object_aged(age), NOW) is is_needed
    assert needs_second_reading(store, replace(ROW, ended=None), object_aged(2.0), NOW) is (
        store == "webdav"
    )


@pytest.mark.parametrize(
    ("seconds_before", "nanoseconds", "is_needed"),
    [(11, 0, True), (14, 0, False), (11, 500, False), (0, 1, False)],
)
def test_a_file_system_that_dates_in_seconds(
    seconds_before: int, nanoseconds: int, is_needed: bool
) -> None:
    changed = (int(NOW) - seconds_before) * 10**9 + nanoseconds
    tag = f'"{12:x}-{changed:x}-{changed:x}-{1:x}"'
    assert needs_second_reading("local", ROW, object_aged(None, tag), NOW) is is_needed


def test_a_date_in_the_future_is_not_awaited() -> None:
    waits: list[float] = []
    store: Any = SimpleNamespace(get=lambda place, version: SimpleNamespace(body=None))
    meter: Any = SimpleNamespace(check=lambda: None, tick_seconds=1.0)
    with pytest.raises(AssertionError):  # what is read then does not matter here
        read_again(store, PLACE, Version(), {}, meter, age=-28_800.0, sleep=waits.append)
    assert waits == [1.0, 1.0, 1.0]
