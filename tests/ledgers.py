"""Ledgers as their tests fill and inspect them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import event, func, select, update

from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.claims import SUSPECT
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.migration_values import Efforts, Spec
from relay.ledger.pages import TransferRow
from relay.ledger.schema import migrations, parts, transfers, uploads
from relay.ledger.token_values import Scope, TokenLimits
from relay.ledger.viewer import Viewer
from tests.postgres import Postgres, run_deaf_proxy

OBJECT = Spec(
    "https://a/x",
    "https://b/x",
    options={"verify": "auto"},
    secret={"source": {"url": "https://a/x?secret"}},
)
TREE = Spec(
    "a:photos", "b:photos", options={"recursive": True}, secret={"source": {"url": "a:photos"}}
)

Opened = Callable[..., Ledger]
"""Opens the ledger for one more registered worker."""


def tree(ledger: Ledger, *sizes: int) -> str:
    """Accept a tree with objects of these sizes, listed to its end; return its id."""
    migration, _ = ledger.create(TREE)
    listing = ledger.listings.claim()
    assert listing is not None
    page = [
        ListedObject(f"{i:03}", size=size, etag=f'"{i}"', modified=1.5, url=None)
        for i, size in enumerate(sizes)
    ]
    assert ledger.listings.add_page(listing, page, page[-1].name if page else None)
    ledger.listings.end(listing)
    return migration.id


def verified_end(claim: Claim, size: int = 5) -> Settlement:
    """Return the good end of a claim."""
    return Settlement(
        claim,
        "verified",
        bytes=size,
        resent=0,
        seconds=0.5,
        level="whole_digest",
        receipt={"level": "whole_digest"},
    )


def tokens_of_tenants(ledger: Ledger, limits: TokenLimits) -> dict[str, str]:
    """Return a token of each scope for two tenants, by `acme read` and so on."""
    return {
        f"{tenant} {scope}": ledger.tokens.create(
            f"{tenant}-{scope}", tenant=tenant, scope=scope, limits=limits
        )[1]
        for tenant in ("acme", "other")
        for scope in Scope
    }


def learn_empty(ledger: Ledger, id: str, empty: bool = True) -> None:
    """Record that the destination was empty a moment ago."""
    values = {"looked": time.time(), "destination_empty": True} if empty else {"looked": None}
    ledger.database.run(
        lambda c: c.execute(update(migrations).where(migrations.c.id == id).values(**values))
    )


def hand_back_suspect(ledger: Ledger, claim: Claim) -> None:
    """Hand a claim back after enough lost workers to make it suspect."""
    lapsed = update(transfers).where(transfers.c.id == claim.id).values(lapses=SUSPECT)
    ledger.database.run(lambda c: c.execute(lapsed))
    ledger.claims.settle([Settlement(claim, "hand_back")])


def states(ledger: Ledger, id: str) -> list[str]:
    """Return the states of a migration's transfers, and assert that every count of them agrees."""
    found = [row.state for row in ledger.page(id)]
    tally = ledger.migration(id).tally
    assert {state: counted.objects for state, counted in tally.items()} == {
        s: found.count(s) for s in set(found)
    }
    sizes = {
        state: sum(
            (row.bytes if row.bytes is not None else row.size) or 0
            for row in ledger.page(id, [state])
        )
        for state in tally
    }
    assert {state: counted.bytes for state, counted in tally.items()} == sizes
    assert_counted(ledger, id)
    return found


def assert_counted(ledger: Ledger, id: str) -> None:
    """Assert that the counts of a migration's attempts and parts equal those of its rows."""
    rows, migration = ledger.page(id), ledger.migration(id)
    levels = Counter(row.level for row in rows if row.level is not None)
    retries = sum(max(0, row.attempts - 1) for row in rows)
    assert migration.efforts == Efforts(levels, sum(row.resent for row in rows), retries)
    there = (
        select(func.sum(parts.c.size))
        .join(uploads, uploads.c.transfer_id == parts.c.transfer_id)
        .where(parts.c.transfer_id.in_([row.id for row in rows]), parts.c.etag != "")
    )
    assert migration.in_parts == (
        ledger.database.run(lambda c: c.execute(there).scalar(), write=False) or 0
    )
    assert_reasons_counted(ledger, id)
    assert_stages_counted(ledger)


def assert_reasons_counted(ledger: Ledger, id: str) -> None:
    """Assert that the reasons of a migration's failures equal those of its rows."""
    rows = ledger.page(id)
    assert all((row.reason is not None) == (row.state == "failed") for row in rows)
    failed: dict[str | None, list[TransferRow]] = {}
    for row in rows:
        if row.reason is not None:
            failed.setdefault(row.reason, []).append(row)
    counted = {
        reason: (
            len(some),
            sum((row.bytes if row.bytes is not None else row.size) or 0 for row in some),
        )
        for reason, some in failed.items()
    }
    assert {one.reason: (one.objects, one.bytes) for one in ledger.reasons(id)} == counted


def assert_stages_counted(ledger: Ledger) -> None:
    """Assert that the numbers of migrations in each stage equal those of the rows."""
    stage = (migrations.c.tenant, migrations.c.state, migrations.c.needs_attention)
    query = select(*stage, func.count()).group_by(*stage)
    rows = ledger.database.run(lambda c: c.execute(query).all(), write=False)
    every: Counter[tuple[str, bool]] = Counter()
    for tenant in {row.tenant for row in rows}:
        stages = Counter({(row[1], bool(row[2])): row[3] for row in rows if row[0] == tenant})
        assert +ledger.stage_counts(Viewer(tenant=tenant)) == stages
        every += stages
    assert +ledger.stage_counts() == every


class Statement(NamedTuple):
    """A statement that a ledger runs, with its parameters."""

    sql: str
    values: Any


@contextmanager
def statements_of(ledger: Ledger) -> Iterator[list[Statement]]:
    """Give a list of the statements that a ledger runs during the block; it grows."""
    seen: list[Statement] = []

    def note(connection: object, cursor: object, sql: str, values: Any, *_: object) -> None:
        seen.append(Statement(sql, values))

    engine = ledger.database._engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


@contextmanager
def lossy_ledger(postgres: Postgres) -> Iterator[tuple[Ledger, Callable[[], None], Ledger]]:
    """Give a ledger, a function that loses the response to its next COMMIT, and the same ledger
    over a connection that loses none."""
    address = postgres.database()
    with run_deaf_proxy(postgres) as proxy:
        far = Ledger.connect(address.replace(f":{postgres.port}/", f":{proxy.port}/"))
        near = Ledger.connect(address)
        try:
            far.leases.renew()
            near.leases.renew()
            yield far, proxy.lose_next, near
        finally:
            far.close()
            near.close()
