"""A source of slow streams: `python -m loadtests.bench.slow_source PORT BYTES` gives each
connection 10 KB a second.

GET or HEAD of /INDEX gives object INDEX, a function of its number alone. GET /most returns the
largest number of concurrent streams."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys

from loadtests.bench.processes import raise_open_files

RATE = 10_000
STEP = 0.5
"""Seconds between two pieces of one stream: more than two a second would keep the machine busy by
themselves."""
_APART = 64
_BLOCK = 4 << 20


class Objects:
    """Many different objects out of one block of random bytes: number i begins 64 bytes after
    number i - 1."""

    def __init__(self, size: int, block: int = _BLOCK) -> None:
        self.size = size
        self._block = memoryview(random.Random(7).randbytes(block))

    def __getitem__(self, index: int) -> memoryview:
        return self._block[index * _APART : index * _APART + self.size]


class Drip:
    """The server."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._now = 0
        self._most = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests until it closes."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, _ = head.split(b" ", 2)
                await self._answer(method, target.decode().lstrip("/"), writer)
        writer.close()

    async def _answer(self, method: bytes, name: str, writer: asyncio.StreamWriter) -> None:
        if name == "most":
            text = b"%d" % self._most
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nETag:"
            b' "%b"\r\nContent-Length: %d\r\n\r\n' % (name.encode(), self._objects.size)
        )
        if method != b"HEAD":
            await self._drip(self._objects[int(name)], writer)

    async def _drip(self, content: memoryview, writer: asyncio.StreamWriter) -> None:
        self._now += 1
        self._most = max(self._most, self._now)
        piece = int(RATE * STEP)
        clock = asyncio.get_running_loop()
        due = clock.time()
        try:
            for offset in range(0, len(content), piece):
                writer.write(bytes(content[offset : offset + piece]))
                await writer.drain()
                due += STEP
                await asyncio.sleep(max(due - clock.time(), 0))
        finally:
            self._now -= 1


async def main(port: int, size: int) -> None:
    """Serve until killed."""
    server = await asyncio.start_server(Drip(Objects(size)).serve, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    raise_open_files(8192)
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
