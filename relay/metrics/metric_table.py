"""The table of metrics: the name, the kind and the labels of each.

Values of labels come from small sets: names of configured remotes (at most MOST_REMOTES on a side,
then `other`), codes of errors, routes. No host, path, URL, migration, tenant or token is a label.

Decided here: the table. Never here: where the numbers come from (`readings.py`, `exposition.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from typing import Final

from relay.tallies import (
    FIRST_BYTE_BOUNDS,
    HTTP_BOUNDS,
    HUB_BOUNDS,
    LEDGER_BOUNDS,
    TRANSFER_BOUNDS,
)

PREFIX: Final = "relay_"


class Kind(StrEnum):
    """A kind of metric."""

    COUNTER = "counter"
    """Only rises while its process lives; the sum of all workers, those that ended too."""
    GAUGE = "gauge"
    """The sum of all workers that live."""
    HISTOGRAM = "histogram"
    """A distribution, of all workers, those that ended too."""
    READING = "reading"
    """A gauge that the worker that answers reads once for the whole server."""


@dataclass(frozen=True)
class Metric:
    """One metric."""

    name: str
    """Its name without PREFIX. The attribute of `Tallies` has it without `_total`."""
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    _: KW_ONLY
    bounds: tuple[float, ...] = ()
    """The upper bounds of a histogram's buckets."""
    most: int = 1
    """Maximum number of sets of labels in one process; further ones are counted under labels that
    are all `other`."""

    @property
    def most_series(self) -> int:
        """Maximum number of series of one process."""
        return self.most * (len(self.bounds) + 3 if self.bounds else 1)

    @property
    def full_name(self) -> str:
        """Its name in Prometheus."""
        return PREFIX + self.name

    @property
    def type(self) -> str:
        """Its type in Prometheus."""
        return "gauge" if self.kind is Kind.READING else self.kind.value

    @property
    def family(self) -> str:
        """Its name without the suffix of a counter."""
        return self.full_name.removesuffix("_total")


_REMOTE_SIDE: Final = ("remote", "side")

METRICS: Final = (
    # -- the server
    Metric(
        "build_info",
        Kind.READING,
        "Always 1: the versions of relay, of Python and of the ledger's schema.",
        ("version", "python", "schema"),
    ),
    Metric("workers", Kind.GAUGE, "Number of workers that run."),
    Metric("draining", Kind.GAUGE, "Number of workers that take no new transfer and will stop."),
    Metric(
        "memory_ceiling_bytes",
        Kind.READING,
        "Maximum memory of the payload in all workers, besides about 60 MiB a worker.",
    ),
    Metric("worker_cpu_seconds_total", Kind.COUNTER, "CPU time of all workers."),
    Metric("worker_resident_bytes", Kind.GAUGE, "Resident memory of all workers."),
    Metric("worker_open_fds", Kind.GAUGE, "Open file descriptors of all workers."),
    Metric(
        "hub_late_seconds",
        Kind.HISTOGRAM,
        "How late a timer of 0.1 s fires in a worker: the time for which something blocked it.",
        bounds=HUB_BOUNDS,
    ),
    # -- migrations, from the ledger
    Metric("migrations", Kind.READING, "Number of migrations in each state.", ("state",), most=10),
    Metric(
        "migrations_needing_attention",
        Kind.READING,
        "Number of migrations that need a person: paused by relay (`credentials`, `full`,"
        " `settings`, `other`), or ended `partial` or `failed` and not acknowledged.",
        ("reason",),
        most=10,
    ),
    # -- objects
    Metric(
        "transfers_total",
        Kind.COUNTER,
        "Objects that were settled, by state (`verified`, `unverified`, `skipped`, `failed`) and"
        " level of proof (`none` if they have no receipt).",
        ("state", "level"),
        most=25,
    ),
    Metric(
        "transfer_seconds",
        Kind.HISTOGRAM,
        "Seconds from the start of an object's transfer to its proof, by the object's size.",
        ("size_class",),
        bounds=TRANSFER_BOUNDS,
        most=5,
    ),
    Metric(
        "transfer_failures_total",
        Kind.COUNTER,
        "Objects that failed, by the side and the code of the error.",
        ("side", "code"),
        most=150,
    ),
    Metric(
        "retries_total",
        Kind.COUNTER,
        "Failures that are tried again: of a whole object (`transfer`), or of one request or part"
        " of a multipart upload (`part`).",
        ("scope", "side", "class"),
        most=40,
    ),
    Metric(
        "integrity_mismatches_total",
        Kind.COUNTER,
        "Times that bytes or a length differed from what a digest or a store had promised. relay"
        " never counts such an object as moved.",
        _REMOTE_SIDE,
        most=62,
    ),
    Metric(
        "stalls_total",
        Kind.COUNTER,
        "Times that a store stopped moving bytes until relay gave up that attempt.",
        _REMOTE_SIDE,
        most=62,
    ),
    # -- bytes
    Metric(
        "bytes_total",
        Kind.COUNTER,
        "Bytes of objects: read at a source or sent to a destination (`payload`), read again to"
        " prove them (`read_back`), and those of the payload that were sent more than once"
        " (`resent`, which `payload` has too).",
        ("remote", "side", "use"),
        most=150,
    ),
    Metric(
        "server_copied_bytes_total",
        Kind.COUNTER,
        "Bytes that a store copied itself, without passing through relay.",
        ("remote",),
        most=31,
    ),
    # -- requests to stores
    Metric(
        "store_requests_total",
        Kind.COUNTER,
        "Requests to a store, by the method (`list` is PROPFIND) and the class of the answer's"
        " status (`none`: no answer).",
        ("remote", "side", "op", "status"),
        most=600,
    ),
    Metric(
        "store_first_byte_seconds",
        Kind.HISTOGRAM,
        "Seconds from a request without a body to the head of its answer, a new connection"
        " included.",
        _REMOTE_SIDE,
        bounds=FIRST_BYTE_BOUNDS,
        most=62,
    ),
    Metric(
        "store_throttled_total",
        Kind.COUNTER,
        "Answers by which a store asked for fewer requests (429, 503).",
        _REMOTE_SIDE,
        most=62,
    ),
    Metric(
        "store_connections",
        Kind.GAUGE,
        "Connections: `in_use` by requests, `idle`, and `allowed` (+Inf unless the store has asked"
        " for fewer requests).",
        ("remote", "side", "kind"),
        most=200,
    ),
    Metric(
        "slots",
        Kind.GAUGE,
        "Slots: `held` by transfers, `free`; and transfers that are `waiting` for one.",
        ("kind",),
        most=3,
    ),
    # -- the ledger
    Metric(
        "lapses_total",
        Kind.COUNTER,
        "Claimed objects whose worker was lost; another one took them.",
    ),
    Metric(
        "quarantined_total",
        Kind.COUNTER,
        "Objects and listings that failed because several workers were lost with them.",
    ),
    Metric(
        "ledger_seconds",
        Kind.HISTOGRAM,
        "Seconds of a transaction with the wait for its turn: a worker's poll (`turn`), its look at"
        " migrations that may have ended (`look`), an answer (`page`), a followed migration"
        " (`watch`), and `other`.",
        ("op",),
        bounds=LEDGER_BOUNDS,
        most=6,
    ),
    Metric(
        "ledger_errors_total",
        Kind.COUNTER,
        "Transactions that the ledger did not do, by the error's code.",
        ("code",),
        most=10,
    ),
    Metric("ledger_bytes", Kind.READING, "Size of the ledger's database."),
    Metric(
        "ledger_free_bytes",
        Kind.READING,
        "Free bytes of the disk that holds the ledger; only of SQLite.",
    ),
    # -- requests to relay
    Metric("streams", Kind.GAUGE, "Answers that are being streamed now."),
    Metric(
        "http_requests_total",
        Kind.COUNTER,
        "Requests to relay, by route and class of status.",
        ("route", "status"),
        most=120,
    ),
    Metric(
        "http_request_seconds",
        Kind.HISTOGRAM,
        "Seconds until the head of an answer of relay was ready.",
        ("route",),
        bounds=HTTP_BOUNDS,
        most=40,
    ),
    Metric(
        "auth_failures_total",
        Kind.COUNTER,
        "Requests that were refused because of their sender, by the error's code.",
        ("reason",),
        most=12,
    ),
)

BY_NAME: Final[Mapping[str, Metric]] = {metric.full_name: metric for metric in METRICS}
MOST_SERIES: Final = 3000
"""Maximum number of series in an answer."""
