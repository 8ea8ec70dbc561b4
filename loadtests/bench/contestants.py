"""The movers: each moves the objects of a job from one cloud to the other, and returns the cost.

Why `rclone copyto` and `copy` between an `:http:` and a `:webdav:` remote: they stream, without a
disk. Between these two remotes a common digest is missing, so rclone compares sizes, as relay does
with `verify: size`. Its WebDAV uploads parts to Nextcloud alone, so `--multi-thread-streams` can
only show the cost of the attempt."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from loadtests.bench.measures import BASE, BASELINE, BEST_BASE, Cost
from loadtests.bench.nginx import Nginx
from loadtests.bench.processes import Pipeline, clean_environment
from loadtests.bench.sections import Job
from loadtests.bench.server import Relay
from loadtests.bench.tools import Tools

ONE, EIGHT, SMALL = ("plain", "tls"), ("eight", "eight-tls"), ("small", "small-tls")
BEST = {
    ONE: ("--buffer-size", "0", "--no-check-dest"),
    EIGHT: ("--buffer-size", "0", "--no-check-dest", "--transfers", "8"),
    SMALL: (
        "--buffer-size",
        "0",
        "--no-check-dest",
        "--no-traverse",
        "--transfers",
        "32",
        "--checkers",
        "32",
        "--webdav-pacer-min-sleep",
        "0",
    ),
}
"""The flags that made rclone cheapest and fastest here, without a change of its comparison of
sizes."""


@dataclass(frozen=True)
class Mover:
    """One contestant, and the sections that it takes part in. `small` moves a smaller object, being
    too slow."""

    key: str
    label: str
    move: Callable[[Job], Cost]
    sections: tuple[str, ...] = (*ONE, *EIGHT, *SMALL)
    small: bool = False


class Programs:
    """Runs the movers that are programs, each in a clean environment and within `seconds`."""

    def __init__(self, tools: Tools, clouds: Nginx, seconds: float) -> None:
        self._tools, self._ca, self._folder, self._seconds = (
            tools,
            str(clouds.ca),
            clouds.folder,
            seconds,
        )
        self._env = clean_environment(clouds.folder)

    def rclone(self, job: Job, *options: str) -> Cost:
        """`rclone copyto` for one object, `rclone copy --files-from` for many; tried once."""
        read, write = f":http,url='{job.read}/':", f":webdav,url='{job.write}/',vendor=other:"
        if len(job.names) == 1:
            return self._run(
                self._rclone("copyto", *options, read + job.names[0], write + job.names[0])
            )
        names = self._folder / "names.txt"
        names.write_text("".join(f"{name}\n" for name in job.names))
        return self._run(self._rclone("copy", "--files-from", str(names), *options, read, write))

    def rclone_best(self, job: Job) -> Cost:
        """`rclone` with the flags that help it most."""
        return self.rclone(
            job, *next(flags for sections, flags in BEST.items() if job.section.name in sections)
        )

    def rclone_url(self, job: Job) -> Cost:
        """`rclone copyurl`, of one object."""
        (source, _), name = job.pairs[0], job.names[0]
        return self._run(
            self._rclone("copyurl", source, f":webdav,url='{job.write}/',vendor=other:{name}")
        )

    def curl(self, job: Job) -> Cost:
        """`curl SOURCE | curl -T - DESTINATION`; the second sends chunks, since a pipe has no
        length."""
        curl = [self._tools.curl, "-q", "--noproxy", "*", "-sSf", "--cacert", self._ca]
        return self._run_each(
            job, lambda source, target: [[*curl, source], [*curl, "-T", "-", target]]
        )

    def baseline(self, program: Path, job: Job) -> Cost:
        """The simplest loop in C."""
        more = [self._ca] if job.section.scheme == "https" else []
        return self._run_each(job, lambda source, target: [[str(program), source, target, *more]])

    def naive(self, job: Job) -> Cost:
        """The article's loop."""
        script = str(Path(__file__).with_name("naive.py"))
        return self._run_each(
            job, lambda source, target: [[sys.executable, script, source, target, self._ca]]
        )

    def _rclone(self, verb: str, *words: str) -> list[str]:
        # A retry would hide a failure, and count as cost.
        once = ["--retries", "1", "--low-level-retries", "1"]
        return [
            self._tools.rclone,
            verb,
            "--config",
            os.devnull,
            "--ca-cert",
            self._ca,
            *once,
            *words,
        ]

    def _run(self, *commands: Sequence[str], log: str = "mover.log") -> Cost:
        return Pipeline(commands, self._env, self._folder / log, self._seconds).run()

    def _run_each(self, job: Job, commands: Callable[[str, str], list[list[str]]]) -> Cost:
        """Run a pipeline for each object, `at_once` of them at a time, and add up their costs."""
        began = monotonic()
        with ThreadPoolExecutor(job.section.at_once) as pool:
            running = [
                pool.submit(self._run, *commands(source, target), log=f"mover-{index}.log")
                for index, (source, target) in enumerate(job.pairs)
            ]
            spent = sum(future.result().cpu for future in running)
        return Cost(monotonic() - began, spent)


def relay_by_ssl(relay: Relay) -> Mover:
    """Return a relay that encrypts by Python's `ssl` module; over plain HTTP it is the same."""
    label = f"relay, `verify: size`, RELAY_TLS=ssl ({' '.join(ssl.OPENSSL_VERSION.split()[:2])})"
    return Mover(
        "relay-ssl",
        label,
        lambda job: relay.measure_job(job, "size"),
        sections=("tls", "eight-tls", "small-tls"),
    )


def baselines(programs: Programs, built: Mapping[str, Path]) -> list[Mover]:
    """Return the baseline of each scheme that could be compiled."""
    words = {
        "http": "C: `splice`, blocking (the baseline)",
        "https": "C: `SSL_read` → `SSL_write`, blocking (the baseline)",
    }
    where = {"http": ("plain", "eight"), "https": ("tls", "eight-tls")}

    def mover(scheme: str, program: Path) -> Mover:
        return Mover(
            BASELINE, words[scheme], lambda job: programs.baseline(program, job), where[scheme]
        )

    return [mover(scheme, program) for scheme, program in built.items()]


def movers(relay: Relay, two: Relay, programs: Programs) -> list[Mover]:
    """Return the others in the table's order; `two` is a relay with two workers."""
    off, on = ("--multi-thread-streams", "0"), ("--multi-thread-streams", "8")
    return [
        Mover("relay", "**relay**, `verify: size`", lambda job: relay.measure_job(job, "size")),
        Mover(
            "relay-2",
            "relay with two workers",
            lambda job: two.measure_job(job, "size"),
            (*EIGHT, *SMALL),
        ),
        Mover(
            "relay-auto",
            "relay, `verify: auto` (digests, reads back)",
            lambda job: relay.measure_job(job, "auto"),
        ),
        Mover(BASE, "`rclone` `:http:` → `:webdav:`", programs.rclone, (*ONE, *EIGHT, "small")),
        Mover(BEST_BASE, "`rclone` with its best flags", programs.rclone_best),
        Mover(
            "rclone-off",
            f"`rclone {' '.join(off)}`",
            lambda job: programs.rclone(job, *off),
            ("plain",),
        ),
        Mover(
            "rclone-on",
            f"`rclone {' '.join(on)}`",
            lambda job: programs.rclone(job, *on),
            ("plain",),
        ),
        Mover("copyurl", "`rclone copyurl`", programs.rclone_url, ONE),
        Mover("curl", "`curl` \\| `curl -T -`", programs.curl, (*ONE, *EIGHT)),
        Mover("naive", "naive: `requests`, `iter_content(1024)`", programs.naive, ONE, small=True),
    ]
