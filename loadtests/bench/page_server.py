"""A relay with one worker over a large ledger, and what its page costs: answers, streams, scrapes."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench.measures import BenchError
from loadtests.bench.server import Relay

CONFIG = "loadtests/bench/page.conf.py"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer: its bytes, the milliseconds until its head was ready, those of CPU, and the number
    of statements that the ledger ran meanwhile."""

    body: bytes
    milliseconds: float
    cpu: float
    statements: int


@contextmanager
def page_server(folder: Path, ledger: str, **settings: str) -> Iterator[Relay]:
    """Run such a server for the time of the block; it may read and write files below `folder`."""
    own = {
        "RELAY_LEDGER": ledger,
        "RELAY_LOCAL_FOLDERS": str(folder),
        "BENCH_TICKS": str(folder / "ticks"),
    }
    with closing(Relay(folder, None, 60.0, {**own, **settings}, CONFIG)) as relay:
        yield relay


class Client:
    """A browser's connection to a server, which it keeps."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def get(self, path: str) -> Answer:
        """Return an answer. Raises BenchError unless its status is 200."""
        self._connection.request("GET", path, headers={"Accept": "text/html"})
        found = self._connection.getresponse()
        body = found.read()
        if found.status != 200:
            raise BenchError(f"GET {path} answered {found.status}")
        return Answer(
            body=body,
            milliseconds=float(found.headers["X-Bench-Ms"]),
            cpu=float(found.headers["X-Bench-Cpu"]),
            statements=int(found.headers["X-Bench-After"]) - int(found.headers["X-Bench-Before"]),
        )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def statements(port: int) -> int:
    """Return the number of statements that a server's ledger has run so far."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/healthz")
        return int(connection.getresponse().headers["X-Bench-After"])
    finally:
        connection.close()


@contextmanager
def open_streams(port: int, paths: Sequence[str]) -> Iterator[list[int]]:
    """Keep a stream of events open for each path, for the time of the block; give the numbers of
    events that each has brought so far. Raises BenchError if one is refused."""
    counts = [0] * len(paths)
    ready, loop = threading.Event(), asyncio.new_event_loop()
    failures: list[str] = []

    async def follow(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        head = f"GET {paths[number]} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
        try:
            writer.write(head.encode())
            status = (await reader.readline()).split(b" ")[1]
            if status != b"200":
                failures.append(status.decode())
                return
            while line := await reader.readline():
                counts[number] += line.startswith(b"event: set")
                if all(counts):
                    ready.set()
        finally:
            writer.transport.abort()

    async def follow_all() -> None:
        await asyncio.gather(*(follow(number) for number in range(len(paths))))

    def run() -> None:
        asyncio.set_event_loop(loop)
        task = loop.create_task(follow_all())
        loop.run_forever()
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.run_until_complete(asyncio.sleep(0))  # the connections are closed in a next turn
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        until = time.monotonic() + 60
        while not ready.wait(0.1):
            if failures or time.monotonic() > until:
                raise BenchError(f"a stream was not opened: {failures or 'no event'}")
        yield counts
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)


@contextmanager
def scrapes(port: int, seconds: float = 1.0) -> Iterator[list[int]]:
    """Read /metrics every `seconds` for the time of the block, as Prometheus does; give the sizes
    of the answers."""
    over, sizes = threading.Event(), list[int]()

    def run() -> None:
        with closing(Client(port)) as client:
            while not over.wait(seconds):
                sizes.append(len(client.get("/metrics").body))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield sizes
    finally:
        over.set()
        thread.join(30)
