"""Clients that mean harm, for `make siege`: `python -m loadtests.bench.attackers KIND PORT SECONDS
NUMBER [MIGRATION]`. They run in a process of their own, and only ever dial 127.0.0.1.

`slow` keeps NUMBER connections of each kind: heads that arrive byte by byte, bodies that do, and
streams that nobody reads. `flood` sends NUMBER requests a second, in turn: random bytes, a huge
head, deeply nested JSON, a wrong token. At the end it prints how often each thing happened."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable

from loadtests.bench.processes import raise_open_files

DRIP_SECONDS = 1.0
"""Time between two bytes of a slow connection."""
RETRY_SECONDS = 10.0
"""When a refused stream is tried again: the answer asks for that."""
AT_ONCE = 400
"""Maximum number of a flood's connections at a time: a server that answers late gets fewer."""
WAIT_SECONDS = 10.0
JSON = b"Content-Type: application/json\r\n"
DEEP = b"[" * 5000 + b"]" * 5000
VALID = "siege-token-0123456789"
"""The token with which slow clients send their bodies, and open their streams."""
SIGNED = f"Host: 127.0.0.1\r\nAuthorization: Bearer {VALID}\r\n".encode()
WRONG = b"relay_00000000_" + b"A" * 43 + b"_AAAAAA"

KINDS = ("random bytes", "huge head", "deep JSON", "wrong token")
"""The kinds of a flood's requests."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Attack:
    """One attack of some seconds; `done` counts what was done."""

    def __init__(self, port: int, seconds: float, migration: str) -> None:
        self.done: Counter[str] = Counter()
        self._port, self._migration = port, migration
        self._until = asyncio.get_running_loop().time() + seconds

    @property
    def goes_on(self) -> bool:
        """Whether its time is not over."""
        return asyncio.get_running_loop().time() < self._until

    # -- slow connections

    async def slow(self, number: int) -> None:
        """Keep `number` connections of each kind until the end."""
        kinds = (self._drip_head, self._drip_body, self._ignore_stream)
        await asyncio.gather(*(self._keep(kind) for kind in kinds for _ in range(number)))

    async def _keep(self, attack: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(random.random() * 5)
        while self.goes_on:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await attack()
            self.done[f"{attack.__name__}, ended"] += 1
            await asyncio.sleep(DRIP_SECONDS)

    async def _drip_head(self) -> None:
        await self._drip(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: " + b"a" * 5000)

    async def _drip_body(self) -> None:
        head = b"POST /migrate HTTP/1.1\r\n" + SIGNED + JSON + b"Content-Length: 100000\r\n\r\n"
        await self._drip(b'{"source": "' + b"a" * 5000, head)

    async def _drip(self, slowly: bytes, at_once: bytes = b"") -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(at_once)
            for place in range(len(slowly)):
                if not self.goes_on or reader.at_eof():
                    return
                writer.write(slowly[place : place + 1])
                await writer.drain()
                await asyncio.sleep(DRIP_SECONDS)
        finally:
            writer.close()

    async def _ignore_stream(self) -> None:
        loop, sock = asyncio.get_running_loop(), socket.socket()
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(sock, ("127.0.0.1", self._port))
            line = f"GET /ui/stream?m={self._migration} HTTP/1.1\r\n".encode()
            await loop.sock_sendall(sock, line + SIGNED + b"\r\n")
            if b" 200 " not in await loop.sock_recv(sock, 16):
                self.done["streams, refused"] += 1
                await asyncio.sleep(RETRY_SECONDS)
                return
            while self.goes_on:
                await asyncio.sleep(DRIP_SECONDS)
        finally:
            sock.close()

    # -- a flood

    async def flood(self, rate: int) -> None:
        """Send `rate` requests a second until the end."""
        loop, places = asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)
        due, number = loop.time(), 0
        tasks: set[asyncio.Task[None]] = set()
        while self.goes_on:
            due += 1 / rate
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            await places.acquire()
            task = asyncio.create_task(self._send(number, places))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.gather(*tasks)

    async def _send(self, number: int, places: asyncio.Semaphore) -> None:
        kind, request = bad_request(number)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    writer.write(request)
                    answer = await reader.read(64)
                    self.done[f"{kind}: {answer[9:12].decode(errors='replace') or 'closed'}"] += 1
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            self.done[f"{kind}: {type(error).__name__}"] += 1
        finally:
            places.release()


def bad_request(number: int) -> tuple[str, bytes]:
    """Return a bad request and its kind: one of each kind in turn."""
    kind = KINDS[number % len(KINDS)]
    host = b"Host: 127.0.0.1\r\nConnection: close\r\n"
    if kind == "random bytes":
        return kind, random.randbytes(300) + b"\r\n\r\n"
    if kind == "huge head":
        return kind, b"GET / HTTP/1.1\r\n" + host + b"X: " + b"a" * 9000 + b"\r\n\r\n"
    if kind == "deep JSON":
        size = b"Content-Length: %d\r\n\r\n" % len(DEEP)
        return kind, b"POST /migrate HTTP/1.1\r\n" + host + JSON + size + DEEP
    field = b"Authorization: Bearer " + WRONG + b"\r\n\r\n"
    return kind, b"GET /migrations HTTP/1.1\r\n" + host + field


async def main(kind: str, port: int, seconds: float, number: int, migration: str) -> None:
    """Run one attack, and print what was done."""
    attack = Attack(port, seconds, migration)
    await (attack.slow(number) if kind == "slow" else attack.flood(number))
    print(json.dumps(attack.done), flush=True)


if __name__ == "__main__":
    raise_open_files(8192)
    asyncio.run(
        main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    )
