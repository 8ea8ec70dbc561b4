"""The number of clients that follow migrations is bounded."""

from __future__ import annotations

import pytest

from relay.api.following import StreamPlaces, Waiters
from relay.errors import TooManyStreams


def test_waiting_places_are_bounded_and_released() -> None:
    """Also if waiting ends by an exception; a client without a place releases none."""
    waiters = Waiters(1)
    with waiters.place() as first, waiters.place() as second:
        assert (first, second) == (True, False)
    with pytest.raises(KeyError), waiters.place():
        raise KeyError
    with waiters.place() as third:
        assert third
    with Waiters(0).place() as none:
        assert not none


def test_streams_of_a_process_are_bounded() -> None:
    """A refusal says when to ask again, and a place that is released twice is free once."""
    places = StreamPlaces(2, 9)
    first, _ = places.take(None), places.take("token")
    with pytest.raises(TooManyStreams) as caught:
        places.take(None)
    with pytest.raises(TooManyStreams):
        places.require("other")
    assert (caught.value.status, caught.value.retry_after) == (503, 10.0)
    first()
    first()
    assert places.open == 1
    places.take(None)
    assert places.open == 2


def test_streams_of_a_token_are_bounded() -> None:
    """Other tokens, and callers without one, have their own places."""
    places = StreamPlaces(9, 1)
    release = places.take("a")
    with pytest.raises(TooManyStreams):
        places.take("a")
    for other in ("b", None, None):
        places.take(other)
    release()
    places.take("a")
    assert places.open == 4
