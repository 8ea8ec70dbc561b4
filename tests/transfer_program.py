"""A program for tests: moves objects between two clouds in a patched process of its own, and
reports about itself.

Usage: python -m tests.transfer_program '{"pairs": [[source, destination], …], "verify": "auto", "fsize":
bytes or null, …}'"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402

from relay.config import Settings  # noqa: E402
from relay.engine.plan import Plan, Verify  # noqa: E402
from relay.engine.transfer_engine import TransferEngine  # noqa: E402
from relay.errors import RelayError  # noqa: E402
from relay.location import parse_location  # noqa: E402

TICK_SECONDS = 0.01


class Ticker:
    """Wakes every 10 ms and keeps its longest delay, and the most CPU that passed between two
    wakes.

    On a machine with more busy processes than cores the scheduler delays every process. The hub
    itself is measured by this process's CPU time: while the process is not running, its own code
    blocks nothing."""

    def __init__(self) -> None:
        self.late = self.busy = 0.0
        self.ticks = 0

    def run(self) -> None:
        """Tick until killed."""
        while True:
            wall, cpu = time.perf_counter(), time.process_time()
            gevent.sleep(TICK_SECONDS)
            self.late = max(self.late, time.perf_counter() - wall - TICK_SECONDS)
            self.busy = max(self.busy, time.process_time() - cpu)
            self.ticks += 1


def written_bytes() -> int:
    """Return the bytes that this process has sent to a disk."""
    with open("/proc/self/io") as lines:
        return int(dict(line.split(": ") for line in lines)["write_bytes"])


def main() -> int:
    """Make the transfers, all at once, and print the report."""
    order: dict[str, Any] = json.loads(sys.argv[1])
    runner = TransferEngine(
        Settings(egress_allow="127.0.0.1", retry_budget=0, ca_bundle=order.get("ca"))
    )
    opened: list[str] = []
    plans = [
        Plan(parse_location(source), parse_location(destination), verify=Verify(order["verify"]))
        for source, destination in order["pairs"]
    ]
    if order.get("fsize") is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["fsize"], order["fsize"]))
    sys.addaudithook(
        lambda event, args: (
            opened.append(str(args[0])) if event == "open" and _writes(args) else None
        )
    )
    if order.get("control"):  # shows that the watch can detect a write
        with open(order["control"], "w") as file:
            file.write("x")
    before, ticker = written_bytes(), Ticker()
    ticking = gevent.spawn(ticker.run)
    jobs = [gevent.spawn(settle, runner, plan) for plan in plans]
    gevent.joinall(jobs)
    ticking.kill()
    report = {
        "states": [job.value for job in jobs],
        "late": ticker.late,
        "busy": ticker.busy,
        "ticks": ticker.ticks,
        "written": written_bytes() - before,
        "opened": opened,
    }
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def settle(runner: TransferEngine, plan: Plan) -> str:
    """Run one transfer and return its state, or the code of its error."""
    try:
        return runner.run(runner.transfer(plan)).state.value
    except RelayError as error:
        return f"{error.code}: {error}"


def _writes(args: tuple[Any, ...]) -> bool:
    mode = args[1] or ""
    return any(letter in mode for letter in "wax+")


if __name__ == "__main__":
    sys.exit(main())
