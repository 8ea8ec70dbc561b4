"""Is a simulator the bottleneck? Both clouds against nginx on one object, round by round in turn.

nginx serves a file in /dev/shm by sendfile, and discards uploads behind `return 204`. The client is
the same for all: it discards downloads in the kernel, and uploads by sendfile. Bounded: one object,
a few rounds, all on loopback, nothing left behind."""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from simulators.content import Content
from simulators.spawn import spawn
from simulators.wire import Connection

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_STARTED_SECONDS: Final = 5.0
_NGINX: Final = """daemon off; master_process off; error_log stderr crit; pid {home}/pid;
events {{}}
http {{ access_log off; sendfile on; tcp_nopush on; client_max_body_size 0; default_type application/octet-stream;
  client_body_temp_path {home}/body; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  server {{ listen 127.0.0.1:{port}; root {home}; location = /discard {{ return 204; }} }} }}
"""


@dataclass(frozen=True)
class Contestant:
    """One server to measure: its process, and one round with it."""

    name: str
    pid: int
    run: Callable[[], None]


def measure(size_bytes: int, rounds: int) -> None:
    """Print GiB/s and the server's CPU seconds a GiB, medians of the rounds, and their ratios to
    nginx."""
    with ExitStack() as stack:
        content = stack.enter_context(Content("speed"))
        downloads, uploads = _contestants(stack, content, size_bytes)
        for title, contestants in (("download", downloads), ("upload", uploads)):
            _print(title, _rounds(contestants, rounds, size_bytes))


def _contestants(
    stack: ExitStack, content: Content, size: int
) -> tuple[list[Contestant], list[Contestant]]:
    source = stack.enter_context(spawn("src", "--seed", "speed"))
    blind = stack.enter_context(spawn("dst", "--digest", "none"))
    digesting = stack.enter_context(spawn("dst"))
    get, put = f"/object?size={size}", "/discard"
    downloads = [Contestant("source", source.process.pid, lambda: _get(source.port, get))]
    uploads = [
        Contestant(
            "destination, --digest none",
            blind.process.pid,
            lambda: _put(blind.port, put, content, size),
        ),
        Contestant(
            "destination", digesting.process.pid, lambda: _put(digesting.port, put, content, size)
        ),
    ]
    if shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin") is None:
        print("nginx is not installed: no ratios")
        return downloads, uploads
    pid, port = stack.enter_context(_nginx(content, size))
    nginx_get = Contestant("nginx, sendfile", pid, lambda: _get(port, "/object"))
    nginx_put = Contestant("nginx, discarding", pid, lambda: _put(port, put, content, size))
    return [nginx_get, *downloads], [nginx_put, *uploads]


@contextmanager
def _nginx(content: Content, size: int) -> Iterator[tuple[int, int]]:
    """Run nginx over one object in memory; yield its pid and port."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="simulators-speed-") as home:
        os.chmod(home, 0o755)  # nginx drops the privileges of root
        with Path(home, "object").open("wb") as file:
            for view in content.views("/object", 0, size):
                file.write(view)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = Path(home, "nginx.conf")
        config.write_text(_NGINX.format(home=home, port=port))
        path = os.environ.get("PATH", "") + ":/usr/sbin"
        process = subprocess.Popen(
            ["nginx", "-e", "stderr", "-p", home, "-c", str(config)],
            env={**os.environ, "PATH": path},
        )
        try:
            _await_port(port)
            yield process.pid, port
        finally:
            process.terminate()
            process.wait()


def _await_port(port: int) -> None:
    deadline = time.monotonic() + _STARTED_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _rounds(
    contestants: list[Contestant], rounds: int, size: int
) -> dict[str, tuple[float, float]]:
    """Return for each the medians of GiB/s and CPU seconds a GiB; in every round each has its
    turn."""
    gibibytes = size / 2**30
    rates: dict[str, list[float]] = {each.name: [] for each in contestants}
    costs: dict[str, list[float]] = {each.name: [] for each in contestants}
    for contestant in contestants:
        contestant.run()  # unmeasured: connections, caches and page tables warm up
    for _ in range(rounds):
        for contestant in contestants:
            cpu, start = _cpu_seconds(contestant.pid), time.perf_counter()
            contestant.run()
            rates[contestant.name].append(gibibytes / (time.perf_counter() - start))
            costs[contestant.name].append((_cpu_seconds(contestant.pid) - cpu) / gibibytes)
    return {
        name: (statistics.median(rates[name]), statistics.median(costs[name])) for name in rates
    }


def _print(title: str, results: dict[str, tuple[float, float]]) -> None:
    first = next(iter(results.values()))
    print(f"{title:28} {'GiB/s':>8} {'ratio':>6} {'CPU s/GiB':>10} {'ratio':>6}")
    for name, (rate, cost) in results.items():
        print(
            f"  {name:26} {rate:8.2f} {rate / first[0]:6.2f} {cost:10.2f}"
            f" {cost / max(first[1], 0.001):6.2f}"
        )


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process, proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _get(port: int, target: str) -> None:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        connection = Connection(sock)
        connection.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        left = _length(connection)
        while left > 0:
            left -= connection.discard(left)


def _put(port: int, target: str, content: Content, size: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        connection = Connection(sock)
        head = f"PUT {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
        connection.send(head.encode())
        for position, count in content.spans("/object", 0, size):
            connection.send_file(content.fd, position, count)
        _length(connection)


def _length(connection: Connection) -> int:
    head = connection.read_head() or b""
    if not head.startswith(b"HTTP/1.1 2"):
        raise RuntimeError(f"not a success: {head[:80]!r}")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0
