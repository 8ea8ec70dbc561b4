"""The ledger's schema, and its tables of migrations and transfers. A change of any table needs a
new file in `versions/`, a new HEAD, and a new `new.sql`.

Theory of operation. While a transfer's state is `running`, its row belongs to the worker and claim
in `owner` and `fence`. Every change compares both, so that a worker that was thought lost changes
nothing. The end of a lease is stored once per worker (`runners.until`), not in every row: one write
renews thousands of claims. `tallies` and `counters` are updated in the transactions whose rows they
count, so that a million rows are never counted.

Times are seconds since 1970 (UTC), except `runners.until`, whose clock can't be set back
(`Database.clock`).

The tables of callers, of plans, of passes, of deletions and of live values are in
`access_tables.py`, `plan_tables.py`, `standing_tables.py`, `deletion_tables.py` and
`live_tables.py`."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    case,
    literal_column,
    text,
)

HEAD: Final = "0022"
"""The version of the schema that this code writes: the newest file in `versions/`."""
APPLICATION_ID: Final = 0x52454C59
"""SQLite's `application_id` of our files ("RELY")."""

MAX_SUM: Final = 2**62
"""Upper limit of a sum of bytes: no column holds the sum of the sizes that a listing may claim."""
LARGE_BYTES: Final = 64 << 20
"""Size from which an object counts as large when it is claimed. An index contains the number, so a
change needs a new version."""

metadata = MetaData()
ROW_ID: Final = BigInteger().with_variant(Integer, "sqlite")
"""The type of a number that counts rows: SQLite numbers rows by itself only with INTEGER."""


def migration_key() -> Column[str]:
    """Return the column, in the key of a table, of the migration with which a row is deleted."""
    owner = ForeignKey("migrations.id", ondelete="CASCADE")
    return Column("migration_id", String(36), owner, primary_key=True)


def transfer_key() -> Column[int]:
    """Return the column, in the key of a table, of the transfer with which a row is deleted."""
    owner = ForeignKey("transfers.id", ondelete="CASCADE")
    return Column("transfer_id", ROW_ID, owner, primary_key=True)


migrations = Table(
    "migrations",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("number", ROW_ID, nullable=False, unique=True),
    Column("tenant", String(64), nullable=False, server_default=text("'default'")),
    Column("ordinal", BigInteger),
    Column("state", String(12), nullable=False),
    Column("needs_attention", Boolean, nullable=False, server_default=text("false")),
    Column("source", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("options", Text, nullable=False),
    Column("spec", String(64), nullable=False),
    Column("places", String(64)),
    Column("place", Text),
    Column("owner", String(64)),
    Column("runner", String(12)),
    Column("token", String(8)),
    Column("key", String(255), unique=True),
    Column("priority", Integer, nullable=False, server_default=text("0")),
    Column("slots", Integer),
    Column("bytes_per_second", BigInteger),
    Column("connections", Integer),
    Column("renewed", Integer, nullable=False, server_default=text("0")),
    Column("listing", String(12), nullable=False),
    Column("listing_owner", String(36)),
    Column("listing_fence", Integer, nullable=False, server_default=text("0")),
    Column("listing_lapses", Integer, nullable=False, server_default=text("0")),
    Column("listings", Integer, nullable=False, server_default=text("0")),
    Column("entries", BigInteger),
    Column("excluded", BigInteger),
    Column("cursor", Text),
    Column("destination_empty", Boolean, nullable=False, server_default=text("false")),
    Column("looked", Float),
    Column("error", Text),
    Column("created", Float, nullable=False),
    Column("ended", Float),
    Column("phase", String(12)),
    Column("every", Float),
    Column("hours", String(16)),
    Column("due", Float),
)
"""`source` and `destination` are without secrets. `spec`, `places` and `owner` are keyed hashes
(`identity_hashes.py`) of the whole request, of both locations, and of their accounts. In a row of
an older relay the last two are null, and `spec` is that relay's digest. `place` is a keyed hash of
the destination's server, with the path there, by which destinations are compared; null in a row of
an older relay. `runner` is the kind of worker that it belongs to; null means every kind. `token` is
the id of the token whose request began it.

`number` is the order in which the ledger accepted its migrations. People use `ordinal`, which
counts those of one tenant; null means `number` (an older relay wrote the row, beside this one).
`key` is an idempotency key as `acceptance.stored_key` returns it. `needs_attention` marks a
migration that relay paused, or that ended with failures that no person has acknowledged.

`listing` is none, due, running, done or failed; `cursor` is the last listed name. `listing_lapses`
counts the workers lost with the listing, `listings` how often its user restarted it, `entries` the
objects of all listings (null: an older relay did not count). `excluded` counts the entries of the
newest listing that the filters left out, up to `cursor` while it runs, and once it is done also the
folders that were not listed for them; null without filters.
`slots` to `connections` are the bounds, null for unbounded. `renewed` counts the replacements of
its secrets, so that workers notice when theirs are old. `looked` is when the destination was found
empty, null if that is no longer known.

`phase` is that of a standing migration (`standing_tables.py`), null for any other. A pass begins
each `every` seconds, within the `hours` of a day, null for any hour. `due` is when the next one
begins, null while a pass is under way."""
# In PostgreSQL these two are hash indexes, which accept long URLs.
Index("migrations_by_destination", migrations.c.destination)
Index("migrations_by_place", migrations.c.place)
Index("migrations_without_place", migrations.c.id)  # where WITHOUT_PLACE
WITHOUT_PLACE: Final = migrations.c.place.is_(None)
"""Condition on a migration: an older relay accepted it."""
Index("migrations_by_places", migrations.c.places)
Index("migrations_by_token", migrations.c.token)
Index("migrations_numbered", migrations.c.tenant, migrations.c.ordinal, unique=True)
Index("migrations_by_state", migrations.c.tenant, migrations.c.state, migrations.c.ordinal)
Index("migrations_of_all_by_state", migrations.c.state, migrations.c.number)
NEEDY: Final[ColumnElement[bool]] = literal_column("migrations.needs_attention")
"""Condition on a migration: it needs a person. SQLAlchemy would compare the column with 1, for
which SQLite does not use the partial index."""
Index("migrations_needy", migrations.c.tenant, migrations.c.ordinal)  # where NEEDY

stage_counts = Table(
    "stage_counts",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("runner", String(12), primary_key=True),
    Column("state", String(12), primary_key=True),
    Column("needs_attention", Boolean, primary_key=True),
    Column("migrations", BigInteger, nullable=False),
)
"""The number of a tenant's migrations in each state, with and without those that need a person, by
the kind of worker (empty: every kind)."""

keys = Table(
    "keys",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", Text, nullable=False),
)
"""Random keys of this ledger; `identity` is the key of the keyed hashes. The row `transfers` is the
highest deleted transfer id (`gone_objects.py`), `storage` the storage in which a worker registered
last (`Database.storage`)."""

secrets = Table(
    "secrets",
    metadata,
    migration_key(),
    Column("locations", Text, nullable=False),
)
"""The locations of both sides with their credentials, as JSON: URLs with queries, and headers.
Deleted when they are no longer needed. Remotes are stored by name, without their settings."""

transfers = Table(
    "transfers",
    metadata,
    Column("id", ROW_ID, primary_key=True, autoincrement=True),
    Column(
        "migration_id", String(36), ForeignKey("migrations.id", ondelete="CASCADE"), nullable=False
    ),
    Column("name", Text, nullable=False),
    Column("url", Text),
    Column("identity", String(32)),
    Column("listings", Integer, nullable=False, server_default=text("0")),
    Column("size", BigInteger),
    Column("etag", Text),
    Column("modified", Float),
    Column("digests", Text),
    Column("folded", Text),
    Column("twins", Integer, nullable=False, server_default=text("0")),
    Column("before", Text),
    Column("state", String(12), nullable=False),
    Column("owner", String(36)),
    Column("fence", Integer, nullable=False, server_default=text("0")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("lapses", Integer, nullable=False, server_default=text("0")),
    Column("not_before", Float, nullable=False, server_default=text("0")),
    Column("bytes", BigInteger),
    Column("resent", BigInteger, nullable=False, server_default=text("0")),
    Column("seconds", Float),
    Column("level", String(16)),
    Column("error", Text),
    Column("reason", String(128)),
    Column("ended", Float),
    Column("written", Text),
    Column("planned", Text),
    UniqueConstraint("migration_id", "name"),
)
"""`name` is relative to the tree, and empty for a single object; PostgreSQL's index is on its MD5,
since an index entry has a maximum length. `url` is the source's URL if it is not below the tree;
`identity` is a keyed hash of it, which stays when the URL is deleted. `listings` is the migration's
number of listings when one last named the object. `size` to `digests` (in hex, as JSON) are from
the listing. `folded` is the MD5 of the name's folded form if that differs from the name. `twins` is
1 if another transfer has the same folded form, and more once this one was sent (`folded_names.py`).
`before`, as JSON, is the destination's state before the first byte was sent, with possible
leftovers of ours (`PriorState`). `resent` counts the bytes that were sent more than once, over
all attempts. `reason` is that of a failed transfer in `reasons`, else null. `written`, as JSON, is
the destination's version that a pass had written before another one found that the source has
changed; empty if it was not written, and null without such a change. `planned`, as JSON, has the
versions of both sides that a plan has seen (`PlannedPair`)."""
Index("transfers_by_state", transfers.c.migration_id, transfers.c.state, transfers.c.id)
# Partial indexes are declared in `versions/`, for both databases. Declared here, they would load
# both dialects at each start.
QUEUED: Final = transfers.c.state == literal_column("'queued'")
RUNNING: Final = transfers.c.state == literal_column("'running'")
"""Conditions on a transfer. With a bound parameter the database could not use the partial
indexes."""
LARGE: Final = QUEUED & (transfers.c.size >= literal_column(str(LARGE_BYTES)))
"""Condition on a transfer: queued and large."""
Index("transfers_large", transfers.c.migration_id, transfers.c.size)  # where LARGE
Index("transfers_running", transfers.c.owner)  # where RUNNING
LAPSED: Final = transfers.c.lapses > literal_column("0")
"""Condition on a transfer: workers were lost with it, or it has other leftovers to remove."""
TRUSTED: Final = case((LAPSED, literal_column("1")), else_=literal_column("0"))
"""The crash count of a transfer that a person has resumed or retried: 1 if there are leftovers of
lost workers, which must still be removed, else 0."""
Index("transfers_lapsed", transfers.c.id)  # where LAPSED
FOLDED: Final = transfers.c.folded.is_not(None)
"""Condition on a transfer: its name differs from its folded form."""
Index("transfers_folded", transfers.c.migration_id, transfers.c.folded)  # where FOLDED
FAILED: Final = transfers.c.state == literal_column("'failed'")
"""Condition on a transfer. With a bound parameter the database could not use the partial index."""
# where FAILED
Index("transfers_failed", transfers.c.migration_id, transfers.c.reason, transfers.c.id)

uploads = Table(
    "uploads",
    metadata,
    transfer_key(),
    Column("upload_id", Text, nullable=False),
    Column("checked", Boolean, nullable=False),
    Column("place", Text, nullable=False),
    Column("etag", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("part_bytes", BigInteger, nullable=False),
    Column("digest", Text),
    Column("begun", Float, nullable=False),
    Column("pinned", Text),
    Column("digested", Boolean, nullable=False, server_default=text("true")),
    Column("total", Integer, nullable=False, server_default=text("0")),
    Column("next", Integer, nullable=False, server_default=text("1")),
    Column("there", BigInteger, nullable=False, server_default=text("0")),
)
"""A multipart upload that was neither completed nor aborted. Until it is created its `upload_id` is
empty. `etag` and `size` are those of the source's version; `pinned`, as JSON, is the version if
helpers may move parts. Of its `total` parts every one before `next` was taken once; the destination
has `there` bytes of them. `digest` is that of the whole object, written just before the upload is
completed."""

parts = Table(
    "parts",
    metadata,
    transfer_key(),
    Column("number", Integer, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("etag", Text, nullable=False),
    Column("digest", String(16), nullable=False),
    Column("checked", Boolean, nullable=False),
    Column("owner", String(36)),
)
"""A part of an upload. With an `etag` the destination has acknowledged it; without one its `owner`
moves it, or any worker may take it if there is no owner."""
NOT_THERE: Final = parts.c.etag == literal_column("''")
"""Condition on a part: the destination has not acknowledged it. With a bound parameter the index
could not be used."""
Index("parts_taken", parts.c.transfer_id, parts.c.number)  # where NOT_THERE

receipts = Table(
    "receipts",
    metadata,
    transfer_key(),
    Column("receipt", Text, nullable=False),
)

tallies = Table(
    "tallies",
    metadata,
    migration_key(),
    Column("state", String(12), primary_key=True),
    Column("objects", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
)
"""The number of a migration's transfers in each state, and their bytes."""

counters = Table(
    "counters",
    metadata,
    migration_key(),
    Column("kind", String(12), primary_key=True),
    Column("name", String(16), primary_key=True),
    Column("amount", BigInteger, nullable=False),
)
"""Other counters of a migration's transfers: their number at each `level` of proof (by its name),
the `resent` bytes, and the `retries` beyond the first attempts."""

reasons = Table(
    "reasons",
    metadata,
    migration_key(),
    Column("reason", String(128), primary_key=True),
    Column("side", String(16), nullable=False),
    Column("code", String(64), nullable=False),
    Column("status", Integer),
    Column("objects", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sample", Text, nullable=False),
)
"""The number of a migration's failed transfers by the reason of their failure, and their bytes;
`sample` is the name of one of them. `status` is the HTTP status of the store's answer, null if the
reason is none."""

runners = Table(
    "runners",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("host", Text, nullable=False),
    Column("boot", String(64), nullable=False),
    Column("process", String(64), nullable=False),
    Column("until", Float, nullable=False),
    Column("slots", Integer),
)
"""The workers, and when their leases expire. `process` is the process id with its start time, so
that a killed worker is recognized at once on the same machine. `slots` is the present number of its
slots, null in a row of an older relay."""

links = Table(
    "links",
    metadata,
    migration_key(),
    Column("mark", String(32), primary_key=True),
    Column("path", Text, nullable=False),
    Column("target", Text, nullable=False),
)
"""A symbolic link in a local destination through which a tree's objects were written, or skipped,
elsewhere, and its target. `path` is the link's path in the tree; both are percent-encoded. `mark`
is the MD5 of `path`, with `s` in place of the first digit for a skip."""

events = Table(
    "events",
    metadata,
    Column("id", ROW_ID, primary_key=True, autoincrement=True),
    Column(
        "migration_id", String(36), ForeignKey("migrations.id", ondelete="CASCADE"), nullable=False
    ),
    Column("at", Float, nullable=False),
    Column("kind", String(24), nullable=False),
    Column("members", Text, nullable=False),
    Column("tx", BigInteger, nullable=False, server_default=text("0")),
)
"""Events of a migration as a whole, and its failed transfers. `tx` is the transaction that wrote
the event, which PostgreSQL fills in (`event_log.py`); with SQLite it is 0."""
Index("events_in_order", events.c.migration_id, events.c.tx, events.c.id)
