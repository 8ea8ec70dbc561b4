"""The movers: each takes one object from an address to an address, and tells what that cost.

Why `rclone copyto` between an `:http:` and a `:webdav:` remote: it streams, without a disk, and `copyurl` costs more
CPU; other buffer sizes and `--no-check-dest` changed less than the machine's noise. Its defaults are left as they
are: between these two remotes there is no common digest, so it compares sizes, as relay does with `verify: size`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench.measures import BASE, FLOOR, Cost
from loadtests.bench.peers import Peers
from loadtests.bench.proc import Pipeline, clean_environment
from loadtests.bench.server import Relay
from loadtests.bench.tools import Tools


@dataclass(frozen=True)
class Mover:
    """One contestant. `small` moves the small object, being too slow for the large one."""

    key: str
    label: str
    move: Callable[[str, str], Cost]
    small: bool = False
    schemes: tuple[str, ...] = ("http", "https")


class Programs:
    """Runs the movers that are programs, each in a clean environment and within `seconds`."""

    def __init__(self, tools: Tools, peers: Peers, seconds: float) -> None:
        self._tools, self._ca, self._folder, self._seconds = tools, str(peers.ca), peers.folder, seconds
        self._env = clean_environment(peers.folder)

    def _run(self, *commands: Sequence[str]) -> Cost:
        return Pipeline(commands, self._env, self._folder / "mover.log", self._seconds).run()

    def rclone(self, source: str, destination: str) -> Cost:
        """`rclone copyto` with its defaults, tried once."""
        read, name = source.rsplit("/", 1)
        write, new = destination.rsplit("/", 1)
        options = ["--config", os.devnull, "--ca-cert", self._ca, "--retries", "1", "--low-level-retries", "1"]
        remotes = [f":http,url='{read}/':{name}", f":webdav,url='{write}/',vendor=other:{new}"]
        return self._run([self._tools.rclone, "copyto", *options, *remotes])

    def curl(self, source: str, destination: str) -> Cost:
        """`curl SOURCE | curl -T - DESTINATION`; the second sends chunks, since a pipe has no length."""
        curl = [self._tools.curl, "-q", "--noproxy", "*", "-sSf", "--cacert", self._ca]
        return self._run([*curl, source], [*curl, "-T", "-", destination])

    def floor(self, program: Path, source: str, destination: str) -> Cost:
        """The plainest loop in C."""
        return self._run(
            [str(program), source, destination, self._ca]
            if source.startswith("https")
            else [str(program), source, destination]
        )

    def naive(self, source: str, destination: str) -> Cost:
        """The article's loop."""
        script = str(Path(__file__).with_name("naive.py"))
        return self._run([sys.executable, script, source, destination, self._ca])


def relay_with(openssl: str, relay: Relay) -> Mover:
    """Return a relay that runs on other libraries of OpenSSL than the system's; over plain HTTP they do nothing."""
    label = f"relay, `verify: size`, its Python on {openssl}"
    return Mover("relay-openssl", label, lambda s, d: relay.measured(s, d, "size"), schemes=("https",))


def floors(programs: Programs, built: Mapping[str, Path]) -> list[Mover]:
    """Return the floor of each scheme that could be compiled."""
    words = {"http": "C: `splice`, blocking (the floor)", "https": "C: `SSL_read` → `SSL_write`, blocking (the floor)"}

    def mover(scheme: str, program: Path) -> Mover:
        return Mover(FLOOR, words[scheme], lambda s, d: programs.floor(program, s, d), schemes=(scheme,))

    return [mover(scheme, program) for scheme, program in built.items()]


def movers(relay: Relay, programs: Programs) -> list[Mover]:
    """Return the others in the table's order."""
    return [
        Mover("relay", "**relay**, `verify: size`", lambda s, d: relay.measured(s, d, "size")),
        Mover("relay-auto", "relay, `verify: auto` (digests, reads back)", lambda s, d: relay.measured(s, d, "auto")),
        Mover(BASE, "`rclone copyto` `:http:` → `:webdav:`", programs.rclone),
        Mover("curl", "`curl` \\| `curl -T -`", programs.curl),
        Mover("naive", "naive: `requests`, `iter_content(1024)`", programs.naive, small=True),
    ]
