"""Tokens, sessions and the audit log in both databases."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from relay.errors import ConfigError, TokenExists, TokenUnknown, TooManyRequests
from relay.ledger import audit_log, session_rows, tokens
from relay.ledger.access_tables import audit, sessions
from relay.ledger.access_tables import tokens as token_rows
from relay.ledger.audit_log import Actor
from relay.ledger.ledger import Ledger
from relay.ledger.schema import keys
from relay.ledger.states import MigrationVerb
from relay.ledger.token_format import hash_of, id_in, new_id, new_value
from relay.ledger.token_values import Scope, TokenHolder, TokenLimits
from tests.ledgers import OBJECT, TREE, tree, verified_end

NOW = 1_800_000_000.0


def make(ledger: Ledger, name: str = "ops", **more: Any) -> tuple[tokens.Token, str]:
    """Create a token of the tenant acme."""
    wanted = {"tenant": "acme", "scope": Scope.SUBMIT, "limits": TokenLimits()} | more
    return ledger.tokens.create(name, **wanted)


def live_at(ledger: Ledger, now: float) -> list[str]:
    """Return the names of the tokens that are valid at a time."""
    found = ledger.database.run(lambda c: tokens.live(c, now), write=False)
    return [token.name for token in found.tokens]


def test_a_token_has_its_form_and_its_checksum() -> None:
    value = new_value(new_id())
    assert re.fullmatch(r"relay_[0-9a-z]{8}_[A-Za-z0-9_-]{43}_[0-9A-Za-z]{6}", value)
    assert id_in(value) == value[6:14]
    changed = "x" if value[20] != "x" else "y"
    for wrong in (value[:-1], value + "x", value[:20] + changed + value[21:], value.upper(), ""):
        assert id_in(wrong) is None


def test_the_ledger_keeps_only_the_hash(ledger: Ledger) -> None:
    made, value = make(ledger, limits=TokenLimits(slots=3, remotes=("new:*",)))
    assert ledger.tokens.every() == [made]
    assert (made.name, made.tenant, made.scope) == ("ops", "acme", Scope.SUBMIT)
    assert made.limits == TokenLimits(slots=3, remotes=("new:*",))
    row = ledger.database.run(lambda c: c.execute(select(token_rows)).one(), write=False)
    secret = value.split("_", 2)[2][:43]
    assert row.hash == hash_of(value)
    assert not any(secret in str(column) for column in row)
    assert secret not in repr(made)


def test_only_one_valid_token_has_a_name(ledger: Ledger) -> None:
    make(ledger)
    with pytest.raises(TokenExists):
        make(ledger)
    ledger.tokens.revoke("ops")
    second, _ = make(ledger)
    assert len(ledger.tokens.every()) == 2
    assert ledger.tokens.revoke("ops").id == second.id
    for name in ("", "two words", "a" * 65, "-x", "x\n"):
        with pytest.raises(ConfigError):
            make(ledger, name)
    with pytest.raises(ConfigError):
        make(ledger, "other", tenant="a/b")
    for name in ("nosuch", "\0"):
        with pytest.raises(TokenUnknown):
            ledger.tokens.revoke(name)


def test_a_rotated_token_is_valid_for_the_overlap(ledger: Ledger) -> None:
    made, first = make(ledger)
    begun = time.time()
    rotated, second = ledger.tokens.rotate("ops", 100.0)
    assert rotated.id == made.id == id_in(second)
    assert rotated.hashes(begun + 50) == (hash_of(second), hash_of(first))
    assert rotated.hashes(begun + 200) == (hash_of(second),)
    again, third = ledger.tokens.rotate("ops", 100.0)
    assert again.hashes(begun + 50) == (hash_of(third), hash_of(second))
    ledger.tokens.revoke("ops")
    with pytest.raises(TokenUnknown):
        ledger.tokens.rotate("ops", 0.0)


def test_live_tokens_are_neither_revoked_nor_expired(ledger: Ledger) -> None:
    assert ledger.tokens.live() == tokens.LiveTokens(tokens=(), ever=False)
    make(ledger, "always")
    make(ledger, "until", expires=NOW)
    assert sorted(live_at(ledger, NOW - 1)) == ["always", "until"]
    assert live_at(ledger, NOW) == ["always"]
    ledger.tokens.revoke("always")
    assert live_at(ledger, NOW) == []
    assert ledger.tokens.live().ever
    for name in ("always", "until"):
        ledger.tokens.forget(name)
    assert not ledger.tokens.live().ever


def test_limits_of_a_token_change_one_by_one(ledger: Ledger) -> None:
    make(ledger, limits=TokenLimits(slots=3, migrations=5))
    changed = ledger.tokens.limit("ops", {"slots": None, "hosts": ("*.example.com",)})
    assert changed.limits == TokenLimits(migrations=5, hosts=("*.example.com",))
    assert TokenLimits.from_json({"slots": 1, "of a newer relay": 2}) == TokenLimits(slots=1)


def test_a_use_is_noted_and_never_set_back(ledger: Ledger) -> None:
    made, _ = make(ledger)
    for at in (NOW, NOW - 50, NOW + 50):
        ledger.tokens.note_use(made.id, at)
    assert ledger.tokens.every()[0].last_used == NOW + 50


def test_a_token_has_a_most_of_unfinished_migrations(ledger: Ledger) -> None:
    made, _ = make(ledger)
    holder = TokenHolder(token_id=made.id, migrations=2)
    first, _ = ledger.create(TREE, holder=holder)
    ledger.create(TREE, holder=holder)
    with pytest.raises(TooManyRequests) as caught:
        ledger.create(TREE, holder=holder)
    assert caught.value.status == 429
    assert caught.value.retry_after
    ledger.create(TREE, holder=TokenHolder(token_id="other000", migrations=1))
    ledger.create(TREE)
    ledger.act(first.id, MigrationVerb.CANCEL)
    ledger.finish()
    ledger.create(TREE, holder=holder)


def test_a_repeated_key_counts_once(ledger: Ledger) -> None:
    """A client that repeats its request gets its migration, though the limit is reached."""
    holder = TokenHolder(token_id="ops00000", migrations=1)
    first, _ = ledger.create(TREE, "key", holder=holder)
    assert ledger.create(TREE, "key", holder=holder)[0].id == first.id


def test_a_token_has_a_most_of_bytes_a_day(ledger: Ledger) -> None:
    holder = TokenHolder(token_id="ops00000", bytes_per_day=100)
    migration, _ = ledger.create(OBJECT, holder=holder)
    (claim,) = ledger.claims.claim(1)
    ledger.create(TREE, holder=holder)
    ledger.claims.settle([verified_end(claim, 100)])
    with pytest.raises(TooManyRequests):
        ledger.create(TREE, holder=holder)
    assert tree(ledger, 1)


def test_bytes_that_only_arrived_count_as_well(ledger: Ledger) -> None:
    """`"verify": "size"` proves nothing, and moves as much."""
    holder = TokenHolder(token_id="ops00000", bytes_per_day=100)
    ledger.create(OBJECT, holder=holder)
    (claim,) = ledger.claims.claim(1)
    ledger.claims.settle([replace(verified_end(claim, 100), verb="unverified", level="size")])
    with pytest.raises(TooManyRequests):
        ledger.create(TREE, holder=holder)


def test_a_retry_begins_a_migration_of_its_token(ledger: Ledger) -> None:
    """Over the API; a terminal may retry any migration."""
    made, _ = make(ledger, limits=TokenLimits(migrations=1))
    holder = TokenHolder(token_id=made.id, migrations=1)
    first, _ = ledger.create(OBJECT, holder=holder)
    ledger.act(first.id, MigrationVerb.CANCEL)
    second, _ = ledger.create(OBJECT, holder=holder)
    with pytest.raises(TooManyRequests):
        ledger.by(OPS).act(first.id, MigrationVerb.RETRY)
    assert ledger.by(OPS).act(second.id, MigrationVerb.PAUSE).state == "paused"
    ledger.act(second.id, MigrationVerb.CANCEL)
    assert ledger.by(OPS).act(first.id, MigrationVerb.RETRY).state == "running"
    assert ledger.by(OPS).act(first.id, MigrationVerb.RETRY).state == "running"  # it runs already
    assert ledger.act(second.id, MigrationVerb.RETRY).state == "running"


# -- sessions


def look_up(ledger: Ledger, hash: str) -> session_rows.SessionRow | None:
    """Return a session's row."""
    return ledger.sessions.look_up(hash)


def test_a_session_ends_with_its_token_row(ledger: Ledger) -> None:
    made, value = make(ledger)
    ledger.sessions.start("a" * 64, made.id, hash_of(value), NOW)
    row = look_up(ledger, "a" * 64)
    assert row is not None
    assert (row.token_id, row.token_hash, row.seen) == (made.id, hash_of(value), NOW)
    ledger.sessions.note_request("a" * 64, NOW + 100)
    ledger.sessions.note_request("a" * 64, NOW + 50)
    row = look_up(ledger, "a" * 64)
    assert row is not None
    assert row.seen == NOW + 100
    ledger.tokens.forget("ops")
    assert look_up(ledger, "a" * 64) is None


def test_a_session_ends_idle_and_after_a_week(ledger: Ledger) -> None:
    row = session_rows.SessionRow(token_id=None, token_hash="", created=NOW, seen=NOW)
    assert not row.is_over(NOW + 12 * 3600 - 1)
    assert row.is_over(NOW + 12 * 3600)
    busy = session_rows.SessionRow(
        token_id=None, token_hash="", created=NOW, seen=NOW + 7 * 86400 - 1
    )
    assert not busy.is_over(NOW + 7 * 86400 - 1)
    assert busy.is_over(NOW + 7 * 86400)
    ledger.sessions.start("a" * 64, None, "b" * 64, NOW)
    ledger.sessions.start("c" * 64, None, "b" * 64, NOW + 12 * 3600)
    found = ledger.database.run(lambda c: c.execute(select(sessions.c.id)).all(), write=False)
    assert [row.id for row in found] == ["c" * 64]
    ledger.sessions.end("c" * 64)
    ledger.sessions.end("c" * 64)
    assert look_up(ledger, "c" * 64) is None


def test_attempts_to_sign_in_are_limited(ledger: Ledger) -> None:
    """Ten a minute of an address, a hundred in all."""
    for number in range(10):
        assert ledger.sessions.count_attempt("192.0.2.1", NOW + number) == 0
    assert ledger.sessions.count_attempt("192.0.2.1", NOW + 20) == pytest.approx(40)
    assert ledger.sessions.count_attempt("192.0.2.1", NOW + 60) == 0
    for number in range(91):
        assert ledger.sessions.count_attempt(f"198.51.100.{number}", NOW + 61) == 0
    assert ledger.sessions.count_attempt("203.0.113.1", NOW + 61) > 0
    assert ledger.sessions.count_attempt("203.0.113.1", NOW + 125) == 0


def test_a_clock_that_is_set_back_locks_out_no_address(ledger: Ledger) -> None:
    for _ in range(10):
        assert ledger.sessions.count_attempt("192.0.2.1", NOW) == 0
    assert ledger.sessions.count_attempt("192.0.2.1", NOW - 5) > 0, "the limit holds"
    assert ledger.sessions.count_attempt("192.0.2.1", NOW - 6 * 3600) == 0


# -- the audit log


OPS = Actor(name="ops", token_id="ops00000", tenant="acme", address="192.0.2.1")


def test_each_change_by_an_actor_is_recorded(ledger: Ledger) -> None:
    by_ops = ledger.by(OPS)
    migration, _ = by_ops.create(TREE)
    by_ops.limit(migration.id, {"slots": 3})
    by_ops.act(migration.id, MigrationVerb.PAUSE)
    make(by_ops)[0]
    by_ops.tokens.rotate("ops", 0.0)
    by_ops.tokens.revoke("ops")
    by_ops.sessions.start("a" * 64, None, "b" * 64, NOW)
    ledger.act(migration.id, MigrationVerb.CANCEL)  # by a worker or in a terminal
    rows = ledger.audit.newest(100)[::-1]
    assert [row.verb for row in rows] == [
        *("migrate", "limit", "pause", "token create", "token rotate", "token revoke", "sign in")
    ]
    assert {row.actor for row in rows} == {OPS}
    name = f"migration {migration.number} {migration.id}"
    assert {row.object for row in rows[:3]} == {name}
    assert (rows[1].before, rows[1].after) == (
        {"priority": 0, "slots": None, "bytes_per_second": None, "connections": None},
        {"priority": 0, "slots": 3, "bytes_per_second": None, "connections": None},
    )
    assert (rows[2].before, rows[2].after) == ({"state": "running"}, {"state": "paused"})
    checked = ledger.audit.verify()
    assert (checked.rows, checked.fault) == (7, None)
    assert checked.hash == rows[-1].hash


def test_a_change_that_fails_is_not_recorded(ledger: Ledger) -> None:
    migration, _ = ledger.create(TREE)
    by_ops = ledger.by(OPS)
    with pytest.raises(TokenUnknown):
        by_ops.tokens.revoke("nosuch")
    by_ops.act(migration.id, MigrationVerb.CANCEL)
    assert [row.verb for row in ledger.audit.newest(100)] == ["cancel"]


FORGERIES: dict[str, Any] = {
    "row 2 was changed": lambda: update(audit).where(audit.c.id == 2).values(actor="eve"),
    "row 1 is missing": lambda: delete(audit).where(audit.c.id == 1),
    "row 2 is missing": lambda: delete(audit).where(audit.c.id == 2),
    "row 3 is missing": lambda: delete(audit).where(audit.c.id == 3),
    "its ends are missing": lambda: delete(keys).where(keys.c.name == "audit"),
}


@pytest.mark.parametrize("fault", FORGERIES)
def test_a_change_of_the_log_is_found(ledger: Ledger, fault: str) -> None:
    by_ops = ledger.by(OPS)
    for number in range(3):
        by_ops.audit.note("migrate", f"transfer {number}")
    assert ledger.audit.verify().fault is None
    ledger.database.run(lambda c: c.execute(FORGERIES[fault]()))
    assert ledger.audit.verify().fault == fault


def test_old_rows_go_and_the_rest_is_still_proved(ledger: Ledger) -> None:
    day = 86400.0
    for at in (0, 1 * day, 399 * day, 400 * day, 401 * day):
        ledger.database.run(
            lambda c, at=at: audit_log.append(c, OPS, "migrate", f"day {at / day:g}", now=NOW + at)
        )
    assert [row.object for row in ledger.audit.newest(9)] == ["day 401", "day 400", "day 399"]
    checked = ledger.audit.verify()
    assert (checked.rows, checked.fault) == (3, None)
