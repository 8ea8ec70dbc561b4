"""Read a listing's answer in small pieces, and yield to the hub between them (law 10).

Decided here: how much of a listing is looked at without a break. Never here: what it says.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

import gevent

from relay.errors import ProtocolViolation
from relay.wire.body import Body
from relay.wire.watchdog import Watchdog

PIECE_BYTES: Final = 8 << 10
"""So much is read, and looked at, at a time: some milliseconds."""
BARREN_BYTES: Final = 64 << 20
"""The most of a listing between two of its entries: blank lines, markup, or rows that tell of
nothing may have no end."""


def pieces_of(body: Body, meter: Watchdog, most: int | None = None) -> Generator[bytes, None, None]:
    """Yield a body's bytes, and let others run between them; it is closed in the end.

    What the reader of a piece takes for it is held against nobody: the meter's stall rule stands
    still. Raises ProtocolViolation for more than `most` bytes, or too many since the last entry,
    and the body's errors."""
    clock, turn = meter.clock, meter.clock()
    reported, barren = meter.reported, 0
    try:
        while piece := body.read(PIECE_BYTES):
            reported, barren = (
                meter.reported,
                len(piece) + (barren if reported == meter.reported else 0),
            )
            if barren > BARREN_BYTES:
                message = f"a listing has {BARREN_BYTES} bytes in which it tells of nothing"
                raise ProtocolViolation(message, side=body.connection.side)
            if most is not None and body.count > most:
                message = f"one page of a listing has more than {most} bytes"
                raise ProtocolViolation(message, side=body.connection.side)
            given = clock()
            yield piece
            if clock() - turn > meter.limits.yield_seconds:
                gevent.sleep(0)
                turn = clock()
            meter.exclude_wait(clock() - given)
    finally:
        body.close()
