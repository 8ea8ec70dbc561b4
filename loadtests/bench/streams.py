"""Two thousand slow streams at once in one worker: all must arrive whole, and the worker must stay
small."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from loadtests.bench.measures import MIB, BenchError, Verdict
from loadtests.bench.nginx import Nginx, await_port
from loadtests.bench.ports import free_ports
from loadtests.bench.processes import Growth, clean_environment, raise_open_files, stop
from loadtests.bench.sections import WARM
from loadtests.bench.server import Relay
from loadtests.bench.slow_source import RATE, Objects
from loadtests.bench.throughput import Say
from loadtests.bench.tools import ROOT

SECONDS = 30
"""Seconds of one stream; all start well before the first ends."""
SIZE = RATE * SECONDS
MOST_GROWTH = 200 * MIB
OPENED_PER_SECOND = 250
FILES_PER_STREAM = 6
"""Open files of a stream in the worker: the client's socket, two clouds' sockets, the two ends of a
pipe, and one to spare."""


def settings(count: int) -> dict[str, str]:
    """Return the settings of relay for this number of streams in a worker."""
    return {
        "RELAY_SLOTS": str(count + 100),
        "RELAY_WAITERS": str(count + 100),
        "RELAY_WAIT_SECONDS": "120",
    }


def run_streams(clouds: Nginx, count: int, seconds: float, say: Say) -> list[Verdict]:
    """Run the streams once with `verify: size` (spliced) and once with `auto` (digests, and read
    back)."""
    raise_open_files(count * FILES_PER_STREAM + 1024)
    verdicts = []
    with _run_drip(clouds) as port:
        for verify in ("size", "auto"):
            relay = Relay(clouds.folder, clouds.ca, seconds, settings(count))
            try:
                say(
                    f"streams, verify {verify}: {count} of {RATE // 1000} KB/s, for about"
                    f" {SECONDS} s"
                )
                verdicts.append(_run(relay, clouds, port, count, verify, seconds))
            finally:
                relay.close()
                clouds.clear()
    return verdicts


def _run(
    relay: Relay, clouds: Nginx, port: int, count: int, verify: str, seconds: float
) -> Verdict:
    relay.migrate(
        clouds.source_url("http", WARM), clouds.destination_url("http", "streams/warm"), verify
    )
    with Growth(relay.workers) as growth:
        answers = asyncio.run(_post_all(relay.port, clouds, port, count, verify, seconds))
    if not relay.is_alive():
        raise BenchError("relay's worker did not survive the streams")
    whole, most = _count_whole(clouds, count), _most_streams(port)
    bad = Counter(answer for answer in answers if answer != "200")
    figure = f"{growth.bytes / MIB:.0f} MiB; {whole} of {count} whole"
    if bad:
        figure += "; " + ", ".join(f"{times} × {what}" for what, times in bad.most_common(3))
    what = (
        f"streams: {most} at once of {RATE // 1000} KB/s in one worker, `verify: {verify}`: it"
        " grows by"
    )
    met = whole == count and not bad and growth.bytes < MOST_GROWTH and most >= count
    return Verdict(what, figure, f"< 200 MiB, {count} whole", met)


async def _post_all(
    relay: int, clouds: Nginx, drip: int, count: int, verify: str, seconds: float
) -> list[str]:
    """Open every migration and return each one's status code, or its error."""

    async def post(index: int) -> str:
        await asyncio.sleep(index / OPENED_PER_SECOND)
        order = {
            "source": f"http://127.0.0.1:{drip}/{index}",
            "destination": clouds.destination_url("http", f"streams/{index}"),
            "verify": verify,
        }
        try:
            async with asyncio.timeout(seconds):
                return await _post(relay, json.dumps(order).encode())
        except (OSError, ValueError, IndexError) as error:
            return type(error).__name__

    return await asyncio.gather(*(post(index) for index in range(count)))


async def _post(port: int, body: bytes) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            b"POST /migrate HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (port, len(body), body)
        )
        answer = await reader.read()
        return answer.split(b" ", 2)[1].decode()
    finally:
        writer.close()


def _count_whole(clouds: Nginx, count: int) -> int:
    objects = Objects(SIZE)
    paths = ((index, clouds.destination / "streams" / str(index)) for index in range(count))
    return sum(path.is_file() and path.read_bytes() == objects[index] for index, path in paths)


def _most_streams(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/most")
        return int(connection.getresponse().read())
    finally:
        connection.close()


@contextmanager
def _run_drip(clouds: Nginx) -> Iterator[int]:
    port, log = free_ports(1)[0], clouds.folder / "drip.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "loadtests.bench.slow_source", str(port), str(SIZE)],
            cwd=ROOT,
            env=clean_environment(clouds.folder),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        await_port(port, process, log, "the drip")
        yield port
    finally:
        stop(process)
