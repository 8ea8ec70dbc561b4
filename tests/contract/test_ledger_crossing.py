"""Transactions of PostgreSQL that cross: one commits while another one looks, or is about to
write. The steps are those of the connections, not of a clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event

from relay.errors import TokenExists
from relay.ledger.audit_log import Actor
from relay.ledger.ledger import Ledger
from relay.ledger.token_format import hash_of
from relay.ledger.token_values import Scope, TokenLimits
from tests.contract.test_ledger_turns import await_waiting
from tests.postgres import Postgres

OPS = Actor(name="ops")


@pytest.fixture
def pair(postgres: Postgres) -> Iterator[tuple[Ledger, Ledger, str]]:
    """Return a ledger as two processes see it, and the address for psycopg."""
    address = postgres.database()
    ledgers = Ledger.connect(address), Ledger.connect(address)
    yield *(ledger.by(OPS) for ledger in ledgers), postgres.dsn(address.rpartition("/")[2])
    for ledger in ledgers:
        ledger.close()


def make(ledger: Ledger) -> str:
    """Create a token with the name `ci`; return its value, or the error's name."""
    try:
        return ledger.tokens.create("ci", tenant="t", scope=Scope.READ, limits=TokenLimits())[1]
    except TokenExists as error:
        return error.code


def cross(pair: tuple[Ledger, Ledger, str], change: Callable[[Ledger], Any]) -> tuple[Any, Any]:
    """Make a change in both processes: the second one begins when the first one is about to
    commit. Return both results."""
    one, two, dsn = pair
    found: list[Any] = []
    second = threading.Thread(target=lambda: found.append(change(two)))

    def begin_second(_: Any) -> None:
        second.start()
        await_waiting(dsn)

    event.listen(one.database._engine, "commit", begin_second, once=True)
    first = change(one)
    second.join(30)
    return first, found[0]


def test_crossing_creations_make_one_token(pair: tuple[Ledger, Ledger, str]) -> None:
    first, second = cross(pair, make)
    assert second == TokenExists.code
    assert [token.hash for token in pair[0].tokens.every()] == [hash_of(first)]


def test_crossing_rotations_follow_each_other(pair: tuple[Ledger, Ledger, str]) -> None:
    make(pair[0])
    first, second = cross(pair, lambda ledger: ledger.tokens.rotate("ci", 60.0)[1])
    (token,) = pair[0].tokens.every()
    assert (token.hash, token.previous) == (hash_of(second), hash_of(first))


def test_crossing_limits_are_both_kept(pair: tuple[Ledger, Ledger, str]) -> None:
    make(pair[0])
    changes = iter(({"slots": 3}, {"migrations": 5}))
    cross(pair, lambda ledger: ledger.tokens.limit("ci", next(changes)))
    (token,) = pair[0].tokens.every()
    assert (token.limits.slots, token.limits.migrations) == (3, 5)
    rows = pair[0].audit.newest(2)
    assert rows[0].before == rows[1].after, "each change is recorded as it was made"


def test_a_log_that_grows_is_not_called_changed(pair: tuple[Ledger, Ledger, str]) -> None:
    """A row is added between the first statement of a check and the second one."""
    reader, writer, _ = pair
    reader.audit.note("migrate", "transfer 1")

    def grow(*_: Any) -> None:
        writer.audit.note("migrate", "transfer 2")

    engine = reader.database._engine
    event.listen(engine, "after_cursor_execute", grow, once=True)
    during = reader.audit.verify()
    assert (during.rows, during.fault) == (1, None)
    after = reader.audit.verify()
    assert (after.rows, after.fault) == (2, None)
