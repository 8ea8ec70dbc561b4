"""The ledger's tables. A change needs a new file in `versions/`, and a new HEAD.

Theory of operation. A row of `transfers` belongs to whoever's `owner` and `fence` stand in it while
its state is `running`; every change of it compares both, so that a runner that was thought dead
changes nothing any more. How long a claim holds stands once for each runner (`runners.until`), not
in every row: one write keeps thousands of claims. `tallies` and `counters` are kept in the same
transactions as what they count: nobody ever counts a million rows.

Times are seconds since 1970 (UTC), but for `runners.until`, which is of a clock that nobody can set
back."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
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

HEAD: Final = "0009"
"""The version of the schema that this code writes: the newest file in `versions/`."""
APPLICATION_ID: Final = 0x52454C59
"""SQLite's `application_id` of our files ("RELY")."""

LARGE_BYTES: Final = 64 << 20
"""From this length on an object is large to those who claim. It stands in an index: a change wants
a version."""

metadata = MetaData()
_ID = BigInteger().with_variant(Integer, "sqlite")

migrations = Table(
    "migrations",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("number", _ID, nullable=False, unique=True),
    Column("state", String(12), nullable=False),
    Column("source", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("options", Text, nullable=False),
    Column("spec", String(64), nullable=False),
    Column("places", String(64)),
    Column("owner", String(64)),
    Column("runner", String(12)),
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
    Column("cursor", Text),
    Column("destination_empty", Boolean, nullable=False, server_default=text("false")),
    Column("looked", Float),
    Column("error", Text),
    Column("created", Float, nullable=False),
    Column("ended", Float),
)
"""`source` and `destination` as they print; `spec`, `places` and `owner` are keyed hashes
(`marks.py`) of all that was asked for, of both places, and of the accounts that they are spoken to
with: the last two are null, and `spec` is an older relay's, where that accepted it. `runner` is the
kind of runner that it belongs to; null is every kind.

`listing` is none, due, running, done or failed; `cursor` the last name that it told.
`listing_lapses` counts the runners that were lost with it, `listings` how often it was begun again
by its user, `entries` the objects that all of them told of (null: an older relay did not count).
`slots` to `connections` are what it may use, null what nobody bounds. `renewed` counts how often
its secrets were replaced, so that whoever holds the old ones knows. `looked` is when nothing was
found at the destination, null where that says nothing of today."""
Index(
    "migrations_by_destination", migrations.c.destination
)  # PostgreSQL's is a hash index, which takes long URLs
Index("migrations_by_places", migrations.c.places)

keys = Table(
    "keys",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", Text, nullable=False),
)
"""Random keys of this ledger; `identity` is that of the keyed hashes."""

secrets = Table(
    "secrets",
    metadata,
    Column(
        "migration_id",
        String(36),
        ForeignKey("migrations.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("locations", Text, nullable=False),
)
"""What is needed to speak to both stores, as JSON: URLs with their queries, headers. Removed when
nothing is left to do; remotes are named here and not copied."""

transfers = Table(
    "transfers",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
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
    Column("ended", Float),
    UniqueConstraint("migration_id", "name"),
)
"""`name` is relative to the tree, and empty for a single object; PostgreSQL's index is of its MD5,
since it takes no long ones. `url` is where it is if not below the tree, `identity` a keyed hash of
that, which stays when the URL goes. `listings` is the migration's as it was when a listing last
told of it. `size` to `digests` (in hex, as JSON) as the listing told them. `folded` is the MD5 of
the form of its name in which some stores take two names for one, where that is another; `twins` is
1 where another transfer has the same, and more once it went there (`twins.py`). `before`, as JSON,
is what was at the destination before the first byte went there (`notes.py`), and what of ours may
be left there. `resent` counts the bytes that were sent more than once, in all attempts."""
Index("transfers_by_state", transfers.c.migration_id, transfers.c.state, transfers.c.id)
# Indexes of some rows alone are so in `versions/`, for both databases: said here too, they would
# load the dialects of both at each start.
QUEUED: Final = transfers.c.state == literal_column("'queued'")
RUNNING: Final = transfers.c.state == literal_column("'running'")
"""Of a transfer. A value that is bound would keep the indexes of some states from being used."""
LARGE: Final = QUEUED & (transfers.c.size >= literal_column(str(LARGE_BYTES)))
"""Of a transfer: it is queued, and large."""
Index("transfers_large", transfers.c.migration_id, transfers.c.size)  # where LARGE
Index("transfers_running", transfers.c.owner)  # where RUNNING
LAPSED: Final = transfers.c.lapses > literal_column("0")
"""Of a transfer: runners were lost with it, or it has left something else that is to be removed."""
TRUSTED: Final = case((LAPSED, literal_column("1")), else_=literal_column("0"))
"""The lapses of a transfer that somebody looked at, and said go on: of those that were lost with it
what is left is still to be removed."""
Index("transfers_lapsed", transfers.c.id)  # where LAPSED
FOLDED: Final = transfers.c.folded.is_not(None)
"""Of a transfer: some stores have another form of its name."""
Index("transfers_folded", transfers.c.migration_id, transfers.c.folded)  # where FOLDED

uploads = Table(
    "uploads",
    metadata,
    Column("transfer_id", _ID, ForeignKey("transfers.id", ondelete="CASCADE"), primary_key=True),
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
"""An upload in parts that was begun and not thrown away: of which version of the source (`etag`,
`size`; `pinned`, as JSON, where other runners may move parts of it), in which cut. Of its `total`
parts all before `next` were somebody's once; the destination has `there` bytes of them. `digest` is
that of the whole, and stands here from just before the upload is completed."""

parts = Table(
    "parts",
    metadata,
    Column("transfer_id", _ID, ForeignKey("transfers.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("etag", Text, nullable=False),
    Column("digest", String(16), nullable=False),
    Column("checked", Boolean, nullable=False),
    Column("owner", String(36)),
)
"""A part that the destination has acknowledged; one without an `etag` is the `owner`'s to move, or,
if there is none, anybody's."""
NOT_THERE: Final = parts.c.etag == literal_column("''")
"""Of a part: the destination has not acknowledged it. A value that is bound would keep the index
from being used."""
Index("parts_taken", parts.c.transfer_id, parts.c.number)  # where NOT_THERE

receipts = Table(
    "receipts",
    metadata,
    Column("transfer_id", _ID, ForeignKey("transfers.id", ondelete="CASCADE"), primary_key=True),
    Column("receipt", Text, nullable=False),
)

tallies = Table(
    "tallies",
    metadata,
    Column(
        "migration_id",
        String(36),
        ForeignKey("migrations.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("state", String(12), primary_key=True),
    Column("objects", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
)
"""How many transfers of a migration are in each state, and how many bytes those have."""

counters = Table(
    "counters",
    metadata,
    Column(
        "migration_id",
        String(36),
        ForeignKey("migrations.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("kind", String(12), primary_key=True),
    Column("name", String(16), primary_key=True),
    Column("amount", BigInteger, nullable=False),
)
"""What else is counted of a migration's transfers: how many have each `level` (by its name), the
bytes that were `resent`, and the `retries` beyond each first attempt."""

runners = Table(
    "runners",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("host", Text, nullable=False),
    Column("boot", String(64), nullable=False),
    Column("process", String(64), nullable=False),
    Column("until", Float, nullable=False),
)
"""Who claims, and until when its claims hold. `process` is its number and its start, so that one
that was killed is known to be gone at once on the same machine."""

links = Table(
    "links",
    metadata,
    Column(
        "migration_id",
        String(36),
        ForeignKey("migrations.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("mark", String(32), primary_key=True),
    Column("path", Text, nullable=False),
    Column("target", Text, nullable=False),
)
"""A link of a destination on this machine, and where it leads, by which a tree was written
elsewhere; `path` is that of the link in the tree, both are percent-encoded, and `mark` is the MD5
of `path`."""

events = Table(
    "events",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column(
        "migration_id", String(36), ForeignKey("migrations.id", ondelete="CASCADE"), nullable=False
    ),
    Column("at", Float, nullable=False),
    Column("kind", String(24), nullable=False),
    Column("members", Text, nullable=False),
)
"""What happened to a migration as a whole, and which of its transfers failed."""
Index("events_of", events.c.migration_id, events.c.id)
