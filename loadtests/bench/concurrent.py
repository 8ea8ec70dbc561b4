"""Four large transfers at once: their effect on the worker's memory, and on its answers in the
meantime."""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from time import monotonic, sleep
from typing import NamedTuple

from loadtests.bench.measures import MIB, BenchError, Verdict, percentile
from loadtests.bench.nginx import Nginx
from loadtests.bench.processes import Growth, core_wait_seconds
from loadtests.bench.sections import LARGE
from loadtests.bench.server import Relay
from loadtests.bench.throughput import Say
from loadtests.bench.ticks import read_ticks

AT_ONCE = 4
MOST_GROWTH = 32 * MIB
TICK = 0.01
MOST_LATE = 0.1
_SIDES = {"http": "plain", "https": "TLS"}


def run_memory(
    relay: Relay, clouds: Nginx, schemes: Sequence[str], size: int, say: Say
) -> list[Verdict]:
    """Move four objects at once, once for each scheme, and measure the rise of the worker's
    resident memory."""
    verdicts = []
    for scheme in schemes:
        say(f"memory {scheme}: {AT_ONCE} transfers at once")
        with Growth(relay.workers) as growth:
            whole = _keep_four_running(relay, clouds, scheme, 0.0)
        what = (
            f"memory: {AT_ONCE} × {size / MIB:g} MiB at once, {_SIDES[scheme]}: the worker grows by"
        )
        figure = f"{growth.bytes / MIB:.1f} MiB" + ("" if whole else ", NOT WHOLE")
        verdicts.append(Verdict(what, figure, "< 32 MiB", whole and growth.bytes < MOST_GROWTH))
    return verdicts


def run_hub(
    relay: Relay, ticks: Path, clouds: Nginx, schemes: Sequence[str], seconds: float, say: Say
) -> list[Verdict]:
    """Let four transfers run flat out, with a ticker in the worker (`ticks` is its file), and ask
    for /healthz.

    The ticker decides: a measurement from outside includes the client and the kernel's queue for
    two cores."""
    verdicts = []
    for scheme in schemes:
        ticks.unlink(missing_ok=True)
        say(f"hub {scheme}: {AT_ONCE} transfers flat out for {seconds:g} s, /healthz every 10 ms")
        done = Event()
        with ThreadPoolExecutor(1) as pool:
            polled = pool.submit(_poll, relay, done)
            try:
                sleep(0.5)  # the poller's connection stands before the transfers begin
                whole = _keep_four_running(relay, clouds, scheme, seconds)
            finally:
                done.set()
            answers, late = polled.result()
        found = read_ticks(ticks)
        what = (
            f"hub: a greenlet that wakes every 10 ms during {AT_ONCE} transfers, {_SIDES[scheme]}:"
            " at most late by"
        )
        figure = (
            f"{found.late * 1e3:.0f} ms, and {found.coreless * 1e3:.0f} that it had no core"
            f" ({found.wakes} wakes); from outside {_figure(answers, late)}"
            + ("" if whole else ", NOT WHOLE")
        )
        # A ticker that hardly woke has measured nothing.
        verdicts.append(
            Verdict(
                what, figure, "< 100 ms", whole and found.wakes > 100 and found.late < MOST_LATE
            )
        )
    return verdicts


def _keep_four_running(relay: Relay, clouds: Nginx, scheme: str, seconds: float) -> bool:
    """Keep four transfers running for at least `seconds`, each at least once; return whether all
    arrived whole."""
    until = monotonic() + seconds

    def keep_on(name: str) -> None:
        while True:
            relay.migrate(clouds.source_url(scheme, LARGE), clouds.destination_url(scheme, name))
            if monotonic() >= until:
                return

    names = [f"{scheme}-{index}.bin" for index in range(AT_ONCE)]
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                list(pool.map(keep_on, names))
            except KeyboardInterrupt:
                relay.close()  # or the pool would wait for the transfers
                raise
        return all(clouds.is_whole(LARGE, name) for name in names)
    finally:
        clouds.clear()


class _Answer(NamedTuple):
    wait: float
    coreless: float
    """Seconds of it in which the worker was ready to run and had no core."""


def _figure(answers: Sequence[_Answer], late: float) -> str:
    worst = max(answers)
    most = percentile([answer.wait for answer in answers], 0.99)
    return (
        f"/healthz answers with a p99 of {most * 1e3:.0f} ms, at worst in {worst.wait * 1e3:.0f} "
        f"({len(answers)} asked; the asker itself woke up to {late * 1e3:.0f} ms late)"
    )


def _poll(relay: Relay, done: Event) -> tuple[list[_Answer], float]:
    """Return the time of each answer, and the largest delay of this loop itself, which is caused by
    the machine."""
    connection = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=30)
    answers, late = [], 0.0
    try:
        while not done.is_set():
            before, began = core_wait_seconds(relay.workers), monotonic()
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            answer.read()
            asked = monotonic()
            if answer.status != 200:
                raise BenchError(f"/healthz answered {answer.status}")
            answers.append(_Answer(asked - began, core_wait_seconds(relay.workers) - before))
            now = monotonic()
            pause = max(began + TICK - now, 0.0)
            sleep(pause)
            late = max(late, monotonic() - now - pause)
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"/healthz: {error!r}") from None
    finally:
        connection.close()
    return answers, late
