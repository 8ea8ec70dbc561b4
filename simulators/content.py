"""The bytes of every simulated object: a function of (seed, name, offset), so nothing is stored for
an object.

Byte `o` of an object is `pool[(start(name) + o) % POOL_BYTES]`. The pool is pseudo-random and its
length is a prime, so two parts of any usual size always differ: swapped, repeated or dropped parts
always change the digest. The pool is twice in one memfd, so a range of up to POOL_BYTES is always
contiguous and `sendfile` sends it without a copy. Never here: sockets."""

from __future__ import annotations

import hashlib
import mmap
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Final, Self

from awscrt import checksums

POOL_BYTES: Final = 16_777_213  # the largest prime below 16 MiB


class Content:
    """The objects of one seed. Close it, or let it be collected, to release the memory."""

    def __init__(self, seed: str | int = "relay") -> None:
        self.seed = str(seed)
        pool = hashlib.shake_128(self.seed.encode()).digest(POOL_BYTES)
        self.fd = os.memfd_create("content", os.MFD_CLOEXEC)
        self.close = weakref.finalize(self, os.close, self.fd)
        for _ in range(2):
            _write_all(self.fd, pool)
        self._map = mmap.mmap(self.fd, 2 * POOL_BYTES, prot=mmap.PROT_READ)
        self._view = memoryview(self._map)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def spans(self, name: str, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield the (offset in `fd`, count) pairs that hold this range, each as long as
        possible."""
        position = (self._start(name) + offset) % POOL_BYTES
        while length > 0:
            count = min(length, 2 * POOL_BYTES - position)
            yield position, count
            position = (position + count) % POOL_BYTES
            length -= count

    def views(self, name: str, offset: int, length: int) -> Iterator[memoryview]:
        """Yield views of the bytes of this range, without copying."""
        for position, count in self.spans(name, offset, length):
            yield self._view[position : position + count]

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return `length` bytes of the endless object `name`, from `offset`."""
        return b"".join(self.views(name, offset, length))

    def size_of(self, name: str, min_bytes: int, max_bytes: int) -> int:
        """Return a size for `name`: always the same one, evenly distributed between the two, both
        included."""
        return min_bytes + self._number("size", name) % (max_bytes - min_bytes + 1)

    def crc32c(self, name: str, size: int) -> int:
        """CRC-32C of the first `size` bytes of `name`, in a time that hardly grows with the
        size."""
        return self._combined_checksum(name, size, checksums.crc32c, checksums.combine_crc32c)

    def crc64nvme(self, name: str, size: int) -> int:
        """CRC-64/NVME of the first `size` bytes of `name`, in a time that hardly grows with the
        size."""
        return self._combined_checksum(name, size, checksums.crc64nvme, checksums.combine_crc64nvme)

    def digest(self, algorithm: str, name: str, size: int) -> str:
        """Return the hex digest of an object; hashlib's names read every byte, the CRCs do not."""
        if algorithm == "crc32c":
            return f"{self.crc32c(name, size):08x}"
        if algorithm == "crc64nvme":
            return f"{self.crc64nvme(name, size):016x}"
        state = hashlib.new(algorithm)
        for view in self.views(name, 0, size):
            state.update(view)
        return state.hexdigest()

    def _combined_checksum(
        self, name: str, size: int, crc: Callable[..., int], combine: Callable[[int, int, int], int]
    ) -> int:
        start = self._start(name)
        whole, rest = divmod(size, POOL_BYTES)
        total = 0
        # An object is its rotated pool `whole` times and a piece: double the block, as in a power
        # by squaring.
        if whole:
            block, block_bytes = crc(self._view[start : start + POOL_BYTES]), POOL_BYTES
            while whole:
                if whole & 1:
                    total = combine(total, block, block_bytes)
                block = combine(block, block, block_bytes)
                block_bytes *= 2
                whole >>= 1
        return combine(total, crc(self._view[start : start + rest]), rest) if rest else total

    def _start(self, name: str) -> int:
        return self._number("start", name) % POOL_BYTES

    def _number(self, purpose: str, name: str) -> int:
        text = f"{purpose}\0{self.seed}\0{name}".encode("utf-8", "surrogateescape")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _write_all(fd: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(fd, view) :]
