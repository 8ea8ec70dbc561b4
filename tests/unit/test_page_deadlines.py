"""The limit for a store that a page waits for."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest

from relay.errors import StoreTimeout
from relay.process.native_threads import in_native_thread
from relay.ui.deadlines import call_store_within

SECONDS = 20.0
CALLER: ContextVar[str] = ContextVar("caller")


def test_a_call_that_hangs_is_left_behind() -> None:
    """It can't be ended: as one into a mount whose server is away."""
    answers, ended = threading.Event(), threading.Event()

    def hang() -> None:
        answers.wait(SECONDS)
        ended.set()

    try:
        with pytest.raises(StoreTimeout, match="nas"):
            call_store_within(0.01, "nas", lambda: in_native_thread(hang, "the mount"))
        assert not ended.is_set()
    finally:
        answers.set()


def test_a_call_answers_or_raises_as_it_does() -> None:
    """With the values of its request."""
    CALLER.set("ann")
    assert call_store_within(SECONDS, "nas", CALLER.get) == "ann"
    with pytest.raises(ZeroDivisionError):
        call_store_within(SECONDS, "nas", lambda: 1 // 0)
