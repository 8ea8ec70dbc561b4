"""Run inside a network namespace that has only loopback: DNS, a listener, and transfers by name.
Prints a report."""

from gevent import monkey

monkey.patch_all()

import itertools  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402

import gevent  # noqa: E402
from dnslib import QTYPE, RR, A, DNSRecord  # noqa: E402
from gevent.server import DatagramServer, StreamServer  # noqa: E402

from relay.config import Settings  # noqa: E402
from relay.egress import EgressPolicy, parse_allow  # noqa: E402
from relay.engine.transfer_engine import TransferEngine  # noqa: E402
from relay.errors import RelayError  # noqa: E402
from relay.location import parse_location  # noqa: E402
from relay.transfer_limits import Limits  # noqa: E402
from relay.wire.watchdog import Watchdog  # noqa: E402

PUBLIC = "93.184.216.34"
ZONE = {
    "rebind.test.": itertools.cycle([[PUBLIC], ["127.0.0.1"]]),
    "mixed.test.": itertools.repeat([PUBLIC, "127.0.0.1"]),
    "inner.test.": itertools.repeat(["127.0.0.1"]),
}


class Names(DatagramServer):  # type: ignore[misc]
    """Answers A questions from the zone, with a TTL of 0, and nothing else."""

    def handle(self, data: bytes, address: tuple[str, int]) -> None:
        """Answer one question."""
        question = DNSRecord.parse(data)
        reply = question.reply()
        if question.q.qtype == QTYPE.A:
            for text in next(ZONE.get(str(question.q.qname), itertools.repeat([]))):
                reply.add_answer(RR(question.q.qname, QTYPE.A, rdata=A(text), ttl=0))
        self.sendto(reply.pack(), address)


def main() -> int:
    """Run the transfers and print their results."""
    connections = 0

    def listener(sock: object, _: object) -> None:
        nonlocal connections
        connections += 1
        sock.recv(65536)  # type: ignore[attr-defined]
        sock.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")  # type: ignore[attr-defined]

    Names(("127.0.0.1", 53)).start()
    StreamServer(("127.0.0.1", 80), listener).start()
    gevent.sleep(0)
    closed = {}
    for name in ZONE:
        for _ in range(
            3
        ):  # a public answer has no route from here; one of three questions gets the closed address
            code = outcome(name, EgressPolicy())
            if code == "egress-denied":
                break
        closed[name] = code
    before = connections
    allowed = outcome("inner.test.", EgressPolicy(allow=parse_allow("inner.test")))
    report = {
        "closed": closed,
        "connections_closed": before,
        "allowed": allowed,
        "connections_allowed": connections - before,
    }
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def outcome(name: str, policy: EgressPolicy) -> str:
    """Open an object by a name, and return the code of the error."""
    runner = TransferEngine(Settings(retry_budget=0, connect_seconds=2), policy)
    source = parse_location(f"http://{name.rstrip('.')}/a")
    try:
        runner.stores.source(source, Watchdog(Limits())).get(source)
    except RelayError as error:
        return error.code
    return "opened"


if __name__ == "__main__":
    sys.exit(main())
