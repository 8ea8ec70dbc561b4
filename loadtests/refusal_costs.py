"""The processor time that a server spends on a refused request, by the kind of request:
`python -m loadtests.refusal_costs`. All of it on loopback.

Each kind is sent some thousand times, each time on a new connection, and the processor time of the
one worker is read before and after. A limit of refusals an address is left out with `--limit 0`,
which shows the cost of a full answer.

Decided here: the requests, and how the costs are read. Never here: a limit for them."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path

from loadtests.bench.attackers import KINDS, VALID, bad_request
from loadtests.bench.measures import BenchError
from loadtests.bench.processes import cpu_seconds
from loadtests.bench.server import Relay

AT_ONCE = 50
"""Connections at a time."""
HEALTHZ = "/healthz"
"""Sent as well, since it is answered as early."""


async def send(port: int, request: bytes, count: int) -> Counter[str]:
    """Send a request `count` times; return how often each status came."""
    found: Counter[str] = Counter()
    places = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with places:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request)
                answer = await reader.read(64)
                found[answer[9:12].decode(errors="replace") or "closed"] += 1
                while answer:
                    answer = await reader.read(65536)
            except OSError as error:
                found[type(error).__name__] += 1
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    await asyncio.gather(*(one() for _ in range(count)))
    return found


def request_of(kind: str) -> bytes:
    """Return a request of a kind."""
    if kind == HEALTHZ:
        return b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    return bad_request(KINDS.index(kind))[1]


def measure(relay: Relay, kind: str, count: int) -> tuple[float, Counter[str]]:
    """Return the milliseconds of processor time of one request, and the statuses."""
    asyncio.run(send(relay.port, request_of(kind), count // 10))
    before = cpu_seconds(relay.workers)
    found = asyncio.run(send(relay.port, request_of(kind), count))
    return (cpu_seconds(relay.workers) - before) / count * 1e3, found


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.refusal_costs",
        description=(__doc__ or "").partition("\n\n")[0],
    )
    kinds = (*KINDS, HEALTHZ)
    parser.add_argument("--requests", type=int, default=5000, help="of each kind (5000)")
    parser.add_argument("--only", default=",".join(kinds), help=f"of {', '.join(kinds)}")
    parser.add_argument("--limit", type=int, help="RELAY_REFUSALS_PER_SECOND (its default)")
    return parser.parse_args()


def main() -> int:
    """Return 0 once all is measured, 2 if the server can't be run."""
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="relay-refusals-", dir="/dev/shm") as home:
        tokens = Path(home, "tokens")
        tokens.write_text(f"{VALID}\n")
        tokens.chmod(0o600)
        settings = {"RELAY_TOKENS_FILE": str(tokens), "RELAY_LEDGER": f"sqlite:///{home}/l.db"}
        if args.limit is not None:
            settings["RELAY_REFUSALS_PER_SECOND"] = str(args.limit)
        try:
            with closing(Relay(Path(home), None, 60.0, settings)) as relay:
                sys.stdout.write("| request | CPU-ms | answers |\n|---|---|---|\n")
                for kind in args.only.split(","):
                    cost, found = measure(relay, kind, args.requests)
                    answers = ", ".join(f"{n} × {status}" for status, n in found.most_common())
                    sys.stdout.write(f"| {kind} | {cost:.3f} | {answers} |\n")
                    sys.stdout.flush()
        except (BenchError, OSError) as error:
            print(f"refusal_costs: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
