"""None of the ledger's files contains a deleted secret while the ledger is open: a server keeps it
open for months."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from relay.ledger.ledger import Ledger
from tests.ledgers import OBJECT, verified_end

SECRET = "Bearer-of-a-secret-0123456789"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def first_ledger(file: Path) -> Iterator[Ledger]:
    made = Ledger.connect(f"sqlite:///{file}")
    yield made
    made.close()


def files_with(file: Path, text: str) -> list[str]:
    """Return the files of a ledger that contain a text."""
    return [
        path.name for path in sorted(file.parent.iterdir()) if text.encode() in path.read_bytes()
    ]


def move_object(ledger: Ledger) -> None:
    """Let a migration with a secret succeed."""
    ledger.create(replace(OBJECT, secret={"source": SECRET}))
    ledger.claims.settle([verified_end(ledger.claims.claim(1)[0])])


def test_the_secret_of_a_succeeded_migration_is_wiped(file: Path, first_ledger: Ledger) -> None:
    move_object(first_ledger)
    assert files_with(file, SECRET)  # it was needed until now
    assert first_ledger.finish()
    assert not files_with(file, SECRET)


def test_a_replaced_secret_is_wiped(file: Path, first_ledger: Ledger) -> None:
    migration, _ = first_ledger.create(replace(OBJECT, secret={"source": SECRET}))
    first_ledger.renew_secret(migration.id, {"source": "fresh"})
    first_ledger.finish()
    assert not files_with(file, SECRET)


def test_a_secret_is_wiped_once_other_readers_have_finished(
    file: Path, first_ledger: Ledger
) -> None:
    move_object(first_ledger)
    with closing(sqlite3.connect(file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM migrations").fetchone()  # holds this state of the log
        assert first_ledger.finish()
        assert files_with(file, SECRET)
    assert first_ledger.finish() == []
    assert not files_with(file, SECRET)
