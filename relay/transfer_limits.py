"""The limits of a transfer and of its exchanges (law 6), with their defaults.

Never here: which of them a user may set (`config.py`)."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a transfer and of its exchanges. All times in seconds, all sizes in bytes."""

    connect_seconds: float = 10.0
    """For the lookup, the connection and the TLS handshake together, with all addresses that are
    tried."""
    head_seconds: float = 60.0
    """From the last byte of a request to the last byte of the answer's head."""
    total_seconds: float = 24 * 3600.0
    """For one transfer with all its attempts."""
    stall_seconds: float = 60.0
    stall_bytes: int = KIB
    """A side is stalled if fewer than `stall_bytes` a second moved over `stall_seconds`; with 0, if
    no byte moved."""
    expect_seconds: float = 1.0
    """Time to wait for a `100 Continue`. RFC 9110 section 10.1.1 lets a client send the body
    without it."""
    expect_bytes: int = MIB
    """Minimum length of an upload that asks with `Expect: 100-continue` first. A smaller upload is
    cheaper to repeat."""
    early_seconds: float = 2.0
    """Time to wait for an answer after the connection of an upload broke."""
    head_bytes: int = 64 * KIB
    head_fields: int = 1000
    interim_heads: int = 8
    chunk_line_bytes: int = 4 * KIB
    """Maximum length of a chunk's size line with its extensions. All trailers together may have
    `head_bytes`."""
    text_bytes: int = 64 * KIB
    """Maximum length that is read of an answer that is not an object, such as an error page."""
    redirects: int = 5
    idle_seconds: float = 15.0
    """Time for which an idle connection is kept alive."""
    idle_connections: int = 64
    """Maximum number of idle connections, of all origins together."""
    lookups: int = 64
    """Maximum number of concurrent lookups of names, each in a thread."""
    addresses: int = 16
    """Maximum number of addresses of one name that are tried."""
    buffer_bytes: int = MIB
    """Maximum number of bytes that are copied at once."""
    tick_seconds: float = 1.0
    """Time between two checks of the clocks and of a cancel by a waiting pump."""
    yield_seconds: float = 0.002
    """Time after which a pump yields to other greenlets: with ten busy slots each has its turn
    every 20 ms."""
    parted_bytes: int = 64 * MIB
    """Minimum length of an object that is moved as a multipart upload, if both stores can."""
    part_bytes: int = 16 * MIB
    """Length of a part, unless the destination's limits need larger parts."""
    parts_in_flight: int = 4
    """Maximum number of parts of one object that move concurrently."""
    listing_seconds: float = 0.0
    """Time for which a page of a listing is retried; 0 requests it once."""
    settle_seconds: float = 10.0
    """Time that a destination may take to show an object that it acknowledged."""
    sweep_waits: tuple[float, ...] = (0.0, 0.05, 0.2, 0.5)
    """Waits before each check for the remains of a failed upload: a server may write for a moment
    after the connection broke."""
