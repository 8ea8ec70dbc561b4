"""Read a listing's answer in small pieces, and yield to the hub between them (law 10).

Decided here: how much of a listing is parsed without a break. Never here: what it says."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

import gevent

from relay.errors import ProtocolViolation
from relay.wire.body import Body
from relay.wire.watchdog import Watchdog

PIECE_BYTES: Final = 8 << 10
"""Size of the pieces that are read and parsed at a time, which takes some milliseconds."""
BARREN_BYTES: Final = 64 << 20
"""Maximum size of a listing between two entries, in bytes: blank lines, markup, or rows without an
entry could be endless."""


def pieces_of(body: Body, meter: Watchdog, most: int | None = None) -> Generator[bytes, None, None]:
    """Yield a body's bytes in pieces, with a yield to the hub between them; close the body in the
    end.

    The consumer's time does not count as a stall of the store. Raises ProtocolViolation for more
    than `most` bytes, or more than BARREN_BYTES since the last entry, and the body's errors."""
    clock, turn = meter.clock, meter.clock()
    seen = meter.listed_entries
    barren = 0
    try:
        while piece := body.read(PIECE_BYTES):
            if meter.listed_entries != seen:  # an entry came since the last piece
                seen = meter.listed_entries
                barren = 0
            barren += len(piece)
            if barren > BARREN_BYTES:
                message = f"a listing has {BARREN_BYTES} bytes without an entry"
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
