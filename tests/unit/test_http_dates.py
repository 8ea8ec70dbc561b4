"""HTTP dates: the current form and the older ones mean the same as to Python's own parser, and
nothing else is a date."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.parsing import http_date, http_text, is_before


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)))
def test_todays_form(when: datetime) -> None:
    """RFC 9110 section 5.6.7, IMF-fixdate."""
    when = when.replace(microsecond=0, tzinfo=UTC)
    text = format_datetime(when, usegmt=True)
    assert http_date(text) == when == parsedate_to_datetime(text)


@pytest.mark.parametrize("text", ["Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"])
def test_older_forms(text: str) -> None:
    """The two obsolete forms that a recipient must accept."""
    assert http_date(text) == datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "soon",
        "Sun, 31 Feb 2026 00:00:00 GMT",
        "Sun, 06 Foo 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
    ],
)
def test_invalid_dates(text: str | None) -> None:
    """None, and no exception."""
    assert http_date(text) is None


def test_nothing_is_older_than_a_time_in_the_future() -> None:
    """It was recorded by a clock that has been set back since."""
    now = time.time()
    long_ago = http_text(now - 10 * 86400)
    assert is_before(long_ago, now - 86400, 86400)
    assert not is_before(long_ago, now + 3600, 86400)
    assert not is_before(None, now, 0) and not is_before(long_ago, None, 0)
