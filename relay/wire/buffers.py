"""Pools of buffers to copy through, and of pipes to splice through.

Decided here: a slow stream holds no buffer. A buffer or pipe is taken when bytes are ready and
returned at once, so ten thousand slow streams share a few."""

from __future__ import annotations

import fcntl
import os
from types import TracebackType

from relay.errors import TooManyFiles

PIPE_BYTES = 1024 * 1024


class Buffers:
    """Buffers of powers of two, kept for the next borrower up to `kept_bytes` in all."""

    def __init__(self, kept_bytes: int = 8 * 1024 * 1024) -> None:
        self._free: dict[int, list[memoryview]] = {}
        self._kept, self._kept_bytes = 0, kept_bytes

    def lend(self, size: int) -> Loan:
        """Lend a writable view of `size` bytes, of undefined content, for the time of a `with`
        block."""
        return Loan(self, size)

    def take(self, size: int) -> memoryview:
        """Return the smallest buffer that is kept and large enough, else a new one.

        A larger one will do: the kernel clears the pages of a new buffer one by one, which costs
        more than the copy itself."""
        rounded = 1 << (size - 1).bit_length()
        free = self._free.get(rounded) or self._larger(rounded)
        if not free:
            return memoryview(bytearray(rounded))
        found = free.pop()
        self._kept -= len(found)
        return found

    def _larger(self, size: int) -> list[memoryview]:
        """Return the free buffers of the smallest size above `size` that has some, else none."""
        sizes = [kept for kept, free in self._free.items() if kept > size and free]
        return self._free[min(sizes)] if sizes else []

    def give(self, view: memoryview) -> None:
        """Take a whole buffer back, for the next borrower if there is room."""
        size = len(view)
        if self._kept + size <= self._kept_bytes:
            self._free.setdefault(size, []).append(view)
            self._kept += size


class Loan:
    """A buffer for the time of a `with` block. (A generator would do, at twice the cost, for each
    piece that moves.)"""

    __slots__ = ("_buffers", "_size", "_view")

    def __init__(self, buffers: Buffers, size: int) -> None:
        self._buffers, self._size = buffers, size

    def __enter__(self) -> memoryview:
        """Take the buffer."""
        self._view = self._buffers.take(self._size)
        return self._view[: self._size]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Return the buffer to its pool."""
        self._buffers.give(self._view)


class Pipes:
    """Kernel pipes for splice; an empty one is kept for the next borrower, a used one is closed."""

    def __init__(self, kept: int = 16) -> None:
        self._free: list[tuple[int, int]] = []
        self._kept = kept

    def take(self) -> tuple[int, int]:
        """Return (read end, write end) of an empty pipe, of 1 MiB where the system allows it.
        Raises TooManyFiles."""
        if self._free:
            return self._free.pop()
        try:
            ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise TooManyFiles(
                f"no pipe can be opened ({error.strerror})", retry_after=5.0
            ) from None
        try:
            fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except PermissionError:
            pass  # the user's quota of pipe pages is used up; a smaller pipe works, only slower
        return ends

    def give(self, ends: tuple[int, int], empty: bool) -> None:
        """Return a pipe; `empty` means that all its bytes were read again."""
        if empty and len(self._free) < self._kept:
            self._free.append(ends)
            return
        os.close(ends[0])
        os.close(ends[1])

    def close(self) -> None:
        """Close the kept pipes."""
        while self._free:
            self.give(self._free.pop(), empty=False)


BUFFERS = Buffers()
PIPES = Pipes()
