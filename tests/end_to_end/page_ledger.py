"""A ledger as the page's tests need it, filled before its server starts."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from sqlalchemy import insert

from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.ledger.claim_values import Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.migration_values import Migration, Spec
from relay.ledger.plan_values import StoredPlan
from relay.ledger.schema import migrations, stage_counts, tallies
from relay.ledger.states import MigrationVerb
from relay.ledger.viewer import DEFAULT_TENANT
from relay.ledger.workers import SERVER
from relay.stores.remotes import Remotes
from tests.ledgers import verified_end

HOSTILE = (
    "<script>alert(1)</script>.jpg",
    "a\u202egpj.exe",
    "<img src=x onerror=alert(2)>",
    'it\'s "quoted" & {{7*7}}',
)
"""Names that are HTML, that reverse what follows them, and that break attributes and templates."""
DENIED = {
    "code": "store-permission-denied",
    "side": "source",
    "detail": "GET <b>denied</b> (403)",
    "hint": "Allow it.",
}
LONG = {
    "code": "key-too-long",
    "side": "destination",
    "detail": "the name is too long",
    "hint": "Choose a shorter one.",
}


def open_ledger(home: Path) -> Ledger:
    """Open the ledger of a server in `home`, as one more worker of it."""
    made = Ledger.connect(ledger_url(home), SERVER)
    made.leases.renew()
    return made


def ledger_url(home: Path) -> str:
    """Return the URL of that ledger."""
    return f"sqlite:///{home / 'ledger.db'}"


def accept_tree(ledger: Ledger, home: Path, name: str) -> Migration:
    """Accept the tree home/NAME/from, on its way to home/NAME/to."""
    return ledger.create(_spec_of_tree(home, name))[0]


def plan_tree(ledger: Ledger, home: Path, name: str) -> StoredPlan:
    """Accept a plan of that tree, which the server makes."""
    return ledger.plans.create(_spec_of_tree(home, name), None, tenant=DEFAULT_TENANT)


def _spec_of_tree(home: Path, name: str) -> Spec:
    source, destination = home / name / "from", home / name / "to"
    source.mkdir(parents=True, exist_ok=True)
    destination.mkdir(parents=True, exist_ok=True)
    order = MigrationRequest(
        Endpoint(f"file://{source}/"), Endpoint(f"file://{destination}/"), recursive=True
    )
    return order.spec(Remotes(folders=(home,)))


def end_partially(ledger: Ledger, home: Path, name: str, names: tuple[str, ...]) -> Migration:
    """Accept a tree with objects of these names and end it: the last one has arrived, the one
    before has a long name, all others were denied. All exist at the source."""
    made = accept_tree(ledger, home, name)
    for one in names:
        path = home / name / "from" / one
        if "/" not in one:
            path.write_bytes(b"12345")
    listing = ledger.listings.claim(made.id)
    assert listing is not None
    ledger.listings.add_page(listing, [ListedObject(one, size=5) for one in names], names[-1])
    ledger.listings.end(listing)
    claims = {claim.name: claim for claim in ledger.claims.claim(len(names), made.id)}
    ends = [
        verified_end(claims[one])
        if one == names[-1]
        else Settlement(claims[one], "failed", error=LONG if one == names[-2] else DENIED)
        for one in names
    ]
    ledger.claims.settle(ends)
    ledger.finish()
    return ledger.migration(made.id)


def pause_by_relay(ledger: Ledger, home: Path, name: str) -> Migration:
    """Accept a tree that relay has paused, since the source refuses the credentials."""
    made = accept_tree(ledger, home, name)
    return ledger.pause_for(made.id, {**DENIED, "code": "store-unauthenticated"})


def pause_tree(ledger: Ledger, home: Path, name: str, count: int = 40) -> Migration:
    """Accept a tree of `count` small files, which is paused."""
    made = accept_tree(ledger, home, name)
    for number in range(count):
        (home / name / "from" / f"{number:03}.bin").write_bytes(b"x" * 1000)
    return ledger.act(made.id, MigrationVerb.PAUSE)


def fill(ledger: Ledger, count: int) -> None:
    """Write `count` ended migrations, in one transaction."""
    rows = [
        {
            "id": str(uuid.uuid4()),
            "number": 1_000 + number,
            "ordinal": 1_000 + number,
            "state": "succeeded",
            "source": f"old:photos/{number}",
            "destination": f"new:backup/{number}",
            "options": json.dumps({"recursive": True, "verify": "auto", "if_exists": "changed"}),
            "spec": "",
            "runner": SERVER,
            "listing": "done",
            "created": 1_700_000_000.0 + number,
            "ended": 1_700_000_060.0 + number,
        }
        for number in range(count)
    ]
    counted = [
        {"migration_id": row["id"], "state": "verified", "objects": 5, "bytes": 10**9}
        for row in rows
    ]

    stage = {
        "tenant": DEFAULT_TENANT,
        "runner": SERVER,
        "state": "succeeded",
        "needs_attention": False,
        "migrations": count,
    }

    def write(connection: object) -> None:
        connection.execute(insert(migrations), rows)  # type: ignore[attr-defined]
        connection.execute(insert(tallies), counted)  # type: ignore[attr-defined]
        connection.execute(insert(stage_counts), stage)  # type: ignore[attr-defined]

    ledger.database.run(write)
