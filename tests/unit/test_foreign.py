"""Foreign numbers and dates: every input gives a value that can be stored, or None."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.engine.comparison import verdict_of_pair
from relay.parsing import MAX_NUMBER, count, http_date, http_text, iso_date, moment, whole_number
from relay.receipt import Version


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "²",
        "١٢",
        "-1",
        "+1",
        "1_000",
        " 1",
        "1.0",
        "1e3",
        "9" * 19,
        "9" * 5000,
        str(MAX_NUMBER + 1),
        "0x10",
    ],
)
def test_invalid_numbers(text: str | None) -> None:
    assert count(text) is None


@pytest.mark.parametrize("number", [0, 1, 10**18, MAX_NUMBER])
def test_a_number_that_a_database_keeps(number: int) -> None:
    assert count(str(number)) == whole_number(number) == number
    assert count(f"0{number}") == number if number < 10**17 else True


@pytest.mark.parametrize("value", [None, True, 1.0, "1", -1, MAX_NUMBER + 1, 10**400, [1]])
def test_invalid_whole_numbers_of_a_document(value: Any) -> None:
    assert whole_number(value) is None


@given(st.text())
def test_no_text_raises(text: str) -> None:
    number, dates = count(text), (http_date(text), iso_date(text))
    assert number is None or 0 <= number <= MAX_NUMBER
    assert all(date is None or date.tzinfo is UTC for date in dates)


def is_unchanged(source: Version, destination: Version) -> bool:
    """Return whether the objects count as the same by default, without a full time."""
    return verdict_of_pair(
        source, destination, None, stores=("http", "webdav"), metadata=lambda: ((), ())
    ).is_same


GOOD_DATE = "Sat, 28 Nov 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    ("text", "at_source", "at_destination"),
    [
        ("Sat, 28 Nov 2026 10:00:00 -0000", True, True),
        ("Sat, 28 Nov 2026 99999999999:00:00 GMT", False, False),
        ("Sat, 28 Nov 33658 10:00:00 GMT", False, False),
        ("Sat, 28 Nov 2026 10:00:00 +99999999", False, False),
        ("Mon, 01 Jan 0001 00:00:00 +2300", True, False),
        ("x" * 100_000, False, False),
    ],
)
def test_an_odd_date_of_an_object_is_compared_or_ignored(
    text: str, at_source: bool, at_destination: bool
) -> None:
    odd, good = Version(1, last_modified=text), Version(1, last_modified=GOOD_DATE)
    assert is_unchanged(odd, good) is at_source
    assert is_unchanged(good, odd) is at_destination
    assert is_unchanged(odd, odd) is at_source


@given(st.floats() | st.integers())
def test_no_moment_raises(seconds: float) -> None:
    when, text = moment(seconds), http_text(seconds)
    assert (when is None) == (text is None)


def test_dates_are_in_utc() -> None:
    assert iso_date("2026-11-28T10:00:00") == datetime(2026, 11, 28, 10, tzinfo=UTC)
    assert iso_date("2026-11-28T10:00:00+02:00") == datetime(2026, 11, 28, 8, tzinfo=UTC)
    assert http_date("Sat, 28 Nov 2026 10:00:00 -0000") == datetime(2026, 11, 28, 10, tzinfo=UTC)
    assert http_text(0) == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert moment(1e12) is None
