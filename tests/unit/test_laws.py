"""Digests and their fields, the stall rule, the slots and the backoff: values in, values out."""

from __future__ import annotations

import base64

import gevent
import pytest

from relay.digest import Digester, compare, parse_fields
from relay.errors import Cancelled, Overloaded, Stalled, StoreTimeout
from relay.retry import RETRY_AFTER_CEILING, Backoff
from relay.throttle import Slots
from relay.transfer_limits import Limits
from relay.wire.watchdog import Watchdog


def test_published_check_values() -> None:
    digester = Digester(("crc32c", "crc64nvme", "md5"))
    for piece in (b"1234", b"", b"56789"):
        digester.update(piece)
    digests = {name: value.hex() for name, value in digester.digests().items()}
    assert digests == {
        "crc32c": "e3069283",
        "crc64nvme": "ae8b14860a799888",
        "md5": "25f9e794323b453885f5181f1b624d0b",
    }


CRC = bytes.fromhex("e3069283")
MD5 = bytes(16)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"repr-digest": "crc32c=:4waSgw==:"}, {"crc32c": CRC}),
        ({"repr-digest": "crc32c=:4waSgw==:;x=1, unknown=:AAAA:"}, {"crc32c": CRC}),
        ({"repr-digest": "crc32c=:4waS:"}, {}),
        ({"repr-digest": "crc32c=:!!!!:"}, {}),
        ({"repr-digest": "crc32c=4waSgw=="}, {}),
        (
            {"digest": "crc32c=4waSgw==,MD5=" + base64.b64encode(MD5).decode()},
            {"crc32c": CRC, "md5": MD5},
        ),
        (
            {"repr-digest": "crc32c=:4waSgw==:, md5=:AAAAAAAAAAAAAAAAAAAAAA==:"},
            {"crc32c": CRC, "md5": MD5},
        ),
        ({"content-md5": base64.b64encode(MD5).decode()}, {"md5": MD5}),
        ({"content-md5": "AAAA"}, {}),
        ({}, {}),
    ],
)
def test_fields_are_parsed_and_malformed_ones_left_out(
    fields: dict[str, str], found: dict[str, bytes]
) -> None:
    assert parse_fields(fields.get) == found


def test_compare_names_the_best_agreement_and_every_difference() -> None:
    ours = {"crc64nvme": b"a", "crc32c": b"b", "md5": b"c"}
    assert compare(ours, {"crc32c": b"b", "md5": b"x"}) == ("crc32c", ("md5",))
    assert compare(ours, {"sha-256": b"y"}) == (None, ())


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_stall_rule() -> None:
    clock = Clock()
    meter = Watchdog(Limits(stall_seconds=60, stall_bytes=1024, total_seconds=1000), clock)
    clock.now = 59.9
    meter.check_progress("source")
    clock.now, meter.moved = 60.0, 60 * 1024
    meter.check_progress("source")
    clock.now, meter.moved = 120.0, 2 * 60 * 1024 - 1
    with pytest.raises(Stalled) as caught:
        meter.check_progress("destination")
    assert caught.value.side == "destination"
    meter.check()  # where no bytes are expected there is no stall
    clock.now = 1000.0
    with pytest.raises(StoreTimeout):
        meter.check()


def test_a_listing_may_last_longer_than_a_transfer() -> None:
    meter = Watchdog.of_listing(Limits(total_seconds=0.0))
    meter.check()
    meter.cancel()
    with pytest.raises(Cancelled):
        meter.check()


def test_a_cancel_is_raised_by_the_next_check() -> None:
    meter = Watchdog(Limits())
    meter.cancel()
    with pytest.raises(Cancelled):
        meter.check()


@pytest.mark.parametrize(
    ("attempt", "elapsed", "after", "wait"),
    [
        (1, 0.0, None, 0.125),
        (2, 0.0, None, 0.25),
        (99, 0.0, None, 7.5),
        (1, 59.9, None, None),
        (1, 0.0, 5.0, 5.25),
        (1, 0.0, -1.0, 0.125),
        (1, 0.0, 1e9, None),
    ],
)
def test_backoff(attempt: int, elapsed: float, after: float | None, wait: float | None) -> None:
    assert Backoff(60).wait(attempt, elapsed, after, lambda: 0.5) == wait
    longest = Backoff(1e9).wait(1, 0, 1e9, lambda: 0.5)
    assert longest is not None
    assert longest <= RETRY_AFTER_CEILING * 1.1


def test_the_queue_is_bounded_and_a_slot_is_always_released() -> None:
    slots = Slots(1, waiters=1, wait_seconds=0.05)

    def hold() -> None:
        with slots.slot():
            gevent.sleep(30)

    holder = gevent.spawn(hold)
    gevent.sleep(0)
    with pytest.raises(Overloaded) as late, slots.slot():
        pass
    assert late.value.retry_after
    waiter = gevent.spawn(_is_refused, slots)
    gevent.sleep(0)
    assert slots.waiting == 1
    with pytest.raises(Overloaded, match="the queue is full"), slots.slot():
        pass
    assert waiter.get(timeout=2)
    holder.kill()
    assert (slots.held, slots.waiting) == (0, 0)
    with slots.slot():
        assert slots.held == 1


def test_a_released_slot_goes_to_the_transfer_that_waits() -> None:
    """Not to the next object of a tree, whose greenlet asks again at once: a server's requests
    waited as long as a tree ran."""
    slots, order = Slots(1, waiters=1, wait_seconds=30), ""

    def move(name: str, objects: int) -> None:
        nonlocal order
        for _ in range(objects):
            with slots.slot(admitted=name == "t"):
                order += name
                gevent.sleep(0)

    moving = [gevent.spawn(move, "t", 3), gevent.spawn(move, "r", 1)]
    gevent.joinall(moving, timeout=20, raise_error=True)
    assert order == "trtt"


def test_a_transfer_of_the_ledger_polls_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after the time that a request may wait."""
    slots, waits = Slots(1, waiters=0, wait_seconds=0), list[float]()

    class Taken:
        def acquire(self, *, blocking: bool = True, timeout: float | None = None) -> bool:
            if timeout is not None:
                waits.append(timeout)
            return len(waits) == 3

    monkeypatch.setattr(slots, "_semaphore", Taken())
    slots.acquire(admitted=True, tick=lambda: None)
    assert waits == [1.0] * 3


def _is_refused(slots: Slots) -> bool:
    try:
        with slots.slot():
            return False
    except Overloaded:
        return True
