"""Decode a chunked body as it arrives (RFC 9112 section 7.1).

Decided here: how much is decoded at once. A peer chooses how small its chunks are, so one read does
a bounded amount of work, and all work is linear in the bytes that came. Never here: what a chunk's
line may say (`http1.py`)."""

from __future__ import annotations

from typing import Final

from relay.wire.http1 import ChunkDecoder
from relay.wire.stream import Stream

DIRECT_BYTES: Final = 16 * 1024
"""A chunk with at least this much to come is read straight into the reader's buffer."""
STEPS: Final = 1000
"""The most lines and pieces of chunks that one read decodes: some 2 ms of work."""


class ChunkReader:
    """Reads the payload of one chunked body. Bytes behind its end stay in the stream's
    `leftover`."""

    def __init__(self, stream: Stream, chunks: ChunkDecoder) -> None:
        self._stream, self._chunks = stream, chunks
        self._data, self._at = b"", 0
        """Bytes that came and are not decoded, from `_at` on, while a read runs; otherwise they are
        in the stream's `leftover`."""

    def read(self, view: memoryview) -> int | None:
        """Read into `view`: the count, 0 at the coding's end, None if nothing has come yet.

        Returns before `view` is full once it took `STEPS`. Raises SourceTruncated,
        ProtocolViolation, ConnectionLost."""
        done = 0
        self._data, self._at = bytes(self._stream.leftover), 0
        try:
            for _ in range(STEPS):
                if self._chunks.done or done == len(view):
                    break
                count = self._step(view[done:])
                if count is None:
                    break
                done += count
        finally:
            self._stream.leftover, self._data = self._data[self._at :], b""
        # The end is reported by a read of its own, after the last bytes. (STEPS always give bytes:
        # the lines without any, the trailers, are bounded by `head_fields`.)
        return 0 if self._chunks.done and not done else done or None

    def _step(self, view: memoryview) -> int | None:
        """Decode one line, or hand out a piece of a chunk, or fetch more: the bytes handed out,
        None to wait."""
        if not self._chunks.remaining:
            following = self._chunks.next_line(self._data, self._at)
            if following is None:
                return self._fill()
            self._at = following
            return 0
        if self._at < len(self._data):
            return self._piece(view)
        return self._fill() if self._chunks.remaining < DIRECT_BYTES else self._read_direct(view)

    def _piece(self, view: memoryview) -> int:
        count = min(self._chunks.remaining, len(view), len(self._data) - self._at)
        view[:count] = self._data[self._at : self._at + count]
        self._at += count
        self._chunks.note_bytes(count)
        return count

    def _read_direct(self, view: memoryview) -> int | None:
        """Read bytes of the current chunk directly from the socket."""
        # The stream's `leftover` still has the bytes that this read has decoded: without this,
        # `read_now` would hand them out again.
        self._give_back()
        count = self._stream.read_now(view[: self._chunks.remaining])
        if count == 0:
            raise self._chunks.truncated_error()
        if count is not None:
            self._chunks.note_bytes(count)
        return count

    def _fill(self) -> int | None:
        """Fetch the available bytes; None if there are none."""
        self._give_back()
        filled = self._stream.fill()
        self._data = bytes(self._stream.leftover)
        if filled is False:
            raise self._chunks.truncated_error()
        return None if filled is None else 0

    def _give_back(self) -> None:
        self._stream.leftover, self._data, self._at = self._data[self._at :], b"", 0
