"""What one process has counted since it started: plain numbers, which the wire, the engine, the
ledger and the API increase once a request or an object, and which metrics read once a second.

Bytes are not counted here while they move: each transfer knows how many have moved, and
`RouteTally.note_carried` adds what is new when somebody asks.

Decided here: the counts, and which names of remotes are kept apart. Never here: Prometheus
(`relay/metrics/`)."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from typing import Final, NamedTuple

from relay.errors import (
    ConnectFailed,
    ConnectionLost,
    IntegrityMismatch,
    RelayError,
    Side,
    Stalled,
    StoreTimeout,
    Throttled,
    TransferError,
    Unavailable,
)
from relay.logs.emitter import emit
from relay.logs.event_table import LogEvent

MOST_REMOTES: Final = 30
"""Maximum number of names of remotes that are kept apart on each side; further ones are OTHER."""
MOST_ROUTES: Final = 1000
"""Maximum number of pairs of names that are remembered."""
OTHER: Final = "other"

TRANSFER_BOUNDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0, 300.0, 1800.0, 7200.0)
FIRST_BYTE_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
HUB_BOUNDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
LEDGER_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
HTTP_BOUNDS: Final = (0.005, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0)
"""Upper bounds of the buckets of each distribution, in seconds; one more bucket has the rest."""

SIZE_CLASSES: Final = ("up_to_1_mib", "up_to_64_mib", "up_to_1_gib", "larger")
_SIZE_BOUNDS: Final = (1 << 20, 64 << 20, 1 << 30)
STATUS_CLASSES: Final = ("2xx", "3xx", "4xx", "429", "5xx", "none")
"""Classes of an answer's status; `none` is a request without an answer."""
_BY_HUNDREDS: Final = {1: "2xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}
OPERATIONS: Final = {
    "GET": "get",
    "HEAD": "head",
    "PUT": "put",
    "POST": "post",
    "DELETE": "delete",
    "PROPFIND": "list",
    "MOVE": "move",
    "COPY": "copy",
}
"""The operation of each method of a request to a store; any other method is OTHER."""
RETRY_CLASSES: Final = {
    Throttled: "throttled",
    Unavailable: "unavailable",
    StoreTimeout: "connection",
    ConnectFailed: "connection",
    ConnectionLost: "connection",
    TransferError: "content",
}
"""The class of each retried error, by its type; any other is OTHER."""

Labels = tuple[str, ...]
"""The values of a metric's labels, in the order of its row in the table of metrics."""
Counts = defaultdict[Labels, float]


class Distribution:
    """How many values were at most as large as each bound, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Start without values."""
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Add one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Distributions(dict[Labels, Distribution]):
    """Distributions with the same bounds, made when they are first needed."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Start without any."""
        super().__init__()
        self._bounds = bounds

    def __missing__(self, labels: Labels) -> Distribution:
        """Make the distribution of these labels."""
        made = self[labels] = Distribution(self._bounds)
        return made


class Carried(NamedTuple):
    """The bytes that one transfer has moved so far in this process, in all attempts."""

    moved: int = 0
    """Bytes that were read at the source and sent to the destination."""
    copied: int = 0
    """Bytes that the store copied itself."""
    resent: int = 0
    """Those of `moved` that had to be sent again, or will have to be."""
    read_back: int = 0
    """Bytes that were read at the destination to prove the object."""


def _counts() -> Counts:
    return defaultdict(float)


class Tallies:
    """The numbers of one process. An attribute has the name of its metric without `relay_` and
    `_total`, and its keys are the values of the metric's labels."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.transfers = _counts()
        self.transfer_seconds = Distributions(TRANSFER_BOUNDS)
        self.transfer_failures = _counts()
        self.retries = _counts()
        self.bytes = _counts()
        self.server_copied_bytes = _counts()
        self.integrity_mismatches = _counts()
        self.stalls = _counts()
        self.store_throttled = _counts()
        self.store_requests = _counts()
        self.store_first_byte_seconds = Distributions(FIRST_BYTE_BOUNDS)
        self.lapses = _counts()
        self.quarantined = _counts()
        self.hub_late_seconds = Distributions(HUB_BOUNDS)
        self.ledger_seconds = Distributions(LEDGER_BOUNDS)
        self.ledger_errors = _counts()
        self.http_requests = _counts()
        self.http_request_seconds = Distributions(HTTP_BOUNDS)
        self.auth_failures = _counts()
        self.worker_cpu_seconds = _counts()
        self.open_streams = 0
        """Number of answers that are being streamed now."""
        self._names: dict[Side, set[str]] = {"source": set(), "destination": set()}
        self._routes: dict[tuple[str, str], RouteTally] = {}

    def route(self, source: str, destination: str) -> RouteTally:
        """Return the tally of what moves between two remotes, which all its transfers share."""
        found = self._routes.get((source, destination))
        if found is None:
            names = self._kept_name("source", source), self._kept_name("destination", destination)
            if len(self._routes) >= MOST_ROUTES:
                self._routes.clear()
            found = self._routes[source, destination] = RouteTally(self, *names)
        return found

    def _kept_name(self, side: Side, name: str) -> str:
        """Return a remote's name, or OTHER if there are too many; a new one's rare events start at
        zero, so that the first one is an increase."""
        kept = self._names[side]
        if name not in kept and len(kept) >= MOST_REMOTES:
            name = OTHER
        kept.add(name)
        for rare in (self.integrity_mismatches, self.stalls, self.store_throttled):
            rare[name, side] += 0
        self.bytes[name, side, "payload"] += 0
        return name

    def end_transfer(
        self, state: str, level: str | None, size: int | None, seconds: float | None
    ) -> None:
        """Count one object that was settled, with its level of proof, its size in bytes and its
        duration."""
        self.transfers[state, level or "none"] += 1
        if level is not None and seconds is not None:
            fits = SIZE_CLASSES[bisect_left(_SIZE_BOUNDS, size or 0)]
            self.transfer_seconds[fits,].add(seconds)

    def fail_transfer(self, side: str, code: str) -> None:
        """Count the reason why an object failed for good; `end_transfer` counts the object."""
        self.transfer_failures[_side_of(side), code] += 1


class RouteTally:
    """Counts what transfers from one remote to another do."""

    __slots__ = ("_tallies", "destination", "source")

    def __init__(self, tallies: Tallies, source: str, destination: str) -> None:
        """`source` and `destination` are the names under which the two remotes count."""
        self._tallies, self.source, self.destination = tallies, source, destination

    def remote(self, side: Side) -> str:
        """Return the name under which one side counts."""
        return self.source if side == "source" else self.destination

    def note_request(
        self, side: Side, method: str, status: int | None, first_byte: float | None
    ) -> None:
        """Count a request to a store, the status of its answer (None without one), and the seconds
        from the request to the answer's head."""
        remote = self.source if side == "source" else self.destination
        kind = "429" if status == 429 else _BY_HUNDREDS.get((status or 0) // 100, "none")
        operation = OPERATIONS.get(method, OTHER)
        self._tallies.store_requests[remote, side, operation, kind] += 1
        if first_byte is not None:
            self._tallies.store_first_byte_seconds[remote, side].add(first_byte)

    def note_complaint(self, side: Side) -> None:
        """Count an answer by which a store asked for fewer requests."""
        self._tallies.store_throttled[self.remote(side), side] += 1

    def note_failure(self, error: RelayError) -> None:
        """Count what a failed attempt of an object, or of one part of it, shows about a store. The
        log names bytes that differ."""
        if error.side not in ("source", "destination"):
            return
        if isinstance(error, IntegrityMismatch):
            self._tallies.integrity_mismatches[self.remote(error.side), error.side] += 1
            emit(
                LogEvent.INTEGRITY_MISMATCH,
                remote=self.remote(error.side),
                side=error.side,
                detail=error.message,
            )
        elif isinstance(error, Stalled):
            self._tallies.stalls[self.remote(error.side), error.side] += 1

    def note_retry(self, scope: str, error: RelayError) -> None:
        """Count a failure that is tried again; the scope is `transfer` or `part`."""
        kind = next((name for of, name in RETRY_CLASSES.items() if isinstance(error, of)), OTHER)
        self._tallies.retries[scope, _side_of(error.side), kind] += 1

    def note_carried(self, before: Carried, now: Carried) -> Carried:
        """Count the bytes that a transfer has moved since `before`, and return what is counted."""
        if now == before:
            return before
        tallies = self._tallies
        if now.moved > before.moved:
            tallies.bytes[self.source, "source", "payload"] += now.moved - before.moved
            tallies.bytes[self.destination, "destination", "payload"] += now.moved - before.moved
        if now.copied > before.copied:
            tallies.server_copied_bytes[self.destination,] += now.copied - before.copied
        if now.resent > before.resent:
            tallies.bytes[self.destination, "destination", "resent"] += now.resent - before.resent
        if now.read_back > before.read_back:
            proved = now.read_back - before.read_back
            tallies.bytes[self.destination, "destination", "read_back"] += proved
        if now.moved >= before.moved and now.copied >= before.copied:
            return now
        # A failed upload in parts was dropped, so that less has moved than was counted.
        return Carried(*map(max, before, now))


def _side_of(side: str) -> str:
    """Return a side of an error; what concerns a request concerns relay."""
    return side if side in ("source", "destination") else "relay"
