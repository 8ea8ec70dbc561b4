"""The credentials that resume a migration: both places again, or a list of fresh URLs; and the
lists that are refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.api.request_bodies import parse_fresh
from relay.config import Settings
from relay.engine import refresh
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.refresh import Refresh, apply_refresh, refresh_urls
from relay.engine.transfer_engine import TransferEngine
from relay.errors import (
    IllegalTransition,
    InvalidType,
    KeyReused,
    MissingMember,
    NamesUnknown,
    NotFound,
    RelayError,
    RequestError,
    UnknownMember,
)
from relay.filters.filter_set import Filters
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.migration_values import Migration
from relay.location import Location

PLACES = {
    "source": "list+https://a.example/urls.csv?X-Amz-Signature=secret",
    "destination": "https://b.example/to/",
}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger.connect(f"sqlite:///{tmp_path}/ledger.db")
    made.leases.renew()
    yield made
    made.close()


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[TransferEngine]:
    made = TransferEngine(Settings(local_folders=str(tmp_path)))
    yield made
    made.wire.pool.close()


def accept_three(
    ledger: Ledger,
    runner: TransferEngine,
    source: str = PLACES["source"],
    filters: Filters | None = None,
) -> Migration:
    """Accept a migration of three objects, the first of which has arrived and no longer has a
    URL."""
    places = Endpoint(source), Endpoint(PLACES["destination"])
    order = MigrationRequest(*places, recursive=True, filters=filters)
    id = ledger.create(order.spec(runner.remotes))[0].id
    listing = ledger.listings.claim()
    assert listing is not None
    urls = [None, "https://a.example/b?old", "https://a.example/c?old"]
    ledger.listings.add_page(
        listing, [ListedObject(name, url=url) for name, url in zip("abc", urls, strict=True)], None
    )
    ledger.listings.end(listing)
    return ledger.migration(id)


def urls_of(ledger: Ledger) -> dict[str, str | None]:
    rows = ledger.database.run(lambda c: c.exec_driver_sql("SELECT name, url FROM transfers").all())
    return {name: url for name, url in rows}


def place(runner: TransferEngine, file: Path, *lines: str) -> Location:
    """Write a list, and return its place."""
    file.write_text("\n".join(lines))
    return runner.remotes.locate(f"list+file://{file}", folder=True)


# -- the request


def test_a_list_comes_alone_or_with_both_places(ledger: Ledger, runner: TransferEngine) -> None:
    migration = accept_three(ledger, runner)
    for given in ("https://a.example/fresh.csv?secret", "list+https://a.example/fresh.csv?secret"):
        alone = parse_fresh({"list": given}, migration, runner.remotes)
        assert (alone.spec, str(alone.urls)) == (None, "list+https://a.example/fresh.csv?…")
        assert "secret" not in repr(alone)
    both = parse_fresh(
        {**PLACES, "list": {"url": given, "headers": {"X-Mine": "secret"}}},
        migration,
        runner.remotes,
    )
    assert both.spec is not None and both.urls is not None
    assert both.urls.headers == (("X-Mine", "secret"),)
    assert parse_fresh(PLACES, migration, runner.remotes).urls is None
    assert "secret" not in repr(both)


@pytest.mark.parametrize(
    ("members", "error", "pointer"),
    [
        ({"source": PLACES["source"]}, MissingMember, "/destination"),
        (
            {"destination": PLACES["destination"], "list": "https://a.example/x"},
            MissingMember,
            "/source",
        ),
        ({"list": 1}, InvalidType, "/list"),
        ({"list": {"url": "https://a.example/x", "method": "GET"}}, UnknownMember, "/list/method"),
        ({"list": ""}, RequestError, "/list"),
        ({"list": {"url": "https://user:secret@a.example/x"}}, RequestError, "/list/url"),
        ({"lists": "https://a.example/x"}, UnknownMember, "/lists"),
        ({**PLACES, "source": "list+https://a.example/other.csv"}, KeyReused, None),
    ],
)
def test_its_mistakes_are_reported(
    ledger: Ledger,
    runner: TransferEngine,
    members: dict[str, Any],
    error: type[RequestError],
    pointer: str | None,
) -> None:
    with pytest.raises(error) as caught:
        parse_fresh(members, accept_three(ledger, runner), runner.remotes)
    assert caught.value.pointer == pointer
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"


# -- the list


def test_urls_are_taken_by_their_names_and_others_stay(
    ledger: Ledger, runner: TransferEngine, tmp_path: Path
) -> None:
    migration = accept_three(ledger, runner)
    refresh_urls(
        ledger,
        runner,
        migration,
        place(runner, tmp_path / "l", "url,name", "https://a.example/1?new,a"),
    )
    assert urls_of(ledger) == {
        "a": None,
        "b": "https://a.example/b?old",
        "c": "https://a.example/c?old",
    }
    refresh_urls(
        ledger,
        runner,
        migration,
        place(runner, tmp_path / "l", "name,url", "c,https://a.example/2?new"),
    )
    assert urls_of(ledger) == {
        "a": None,
        "b": "https://a.example/b?old",
        "c": "https://a.example/2?new",
    }


REFUSED: dict[str, tuple[tuple[str, ...], type[RelayError], str]] = {
    "a name": (
        ("name,url", "b,https://a.example/b?new", "x,https://a.example/x?new"),
        NamesUnknown,
        "'x'",
    ),
    "many": (
        (
            "name,url",
            *(f"n{i},https://a.example/{i}?new" for i in range(2500)),
            "b,https://a.example/b?new",
        ),
        NamesUnknown,
        "'n0', 'n1', 'n2', and 2,497 more",
    ),
    "a text": (("https://a.example/b?X-Amz-Signature=new",), NamesUnknown, "'a.example/b'"),
    "a line": (
        ("name,url", "b,https://a.example/b?new", "c,nonsense-new"),
        NamesUnknown,
        "line 3 of the list",
    ),
    "twice": (
        ("name,url", "b,https://a.example/b?new", "b,https://a.example/c?new"),
        InvalidType,
        "'b' is in the list twice",
    ),
    "too long": (
        ("name,url", *(f"{n},https://a.example/{n}?new" for n in "abc")),
        InvalidType,
        "more than 2 names",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_list_that_is_refused_has_changed_nothing(
    ledger: Ledger,
    runner: TransferEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    lines, error, message = REFUSED[what]
    if what == "too long":
        monkeypatch.setattr(refresh, "MOST_NAMES", 2)
    migration = accept_three(ledger, runner)
    ledger.act(migration.id, "pause")
    before = urls_of(ledger)
    with pytest.raises(error) as caught:
        fresh = Refresh(urls=place(runner, tmp_path / "l", *lines))
        apply_refresh(ledger, runner, ledger.migration(migration.id), "resume", fresh)
    assert message in caught.value.message
    assert not re.search("[?=]new", f"{caught.value.message} {caught.value.hint}")
    assert isinstance(caught.value, RequestError) and caught.value.pointer == "/list"
    assert urls_of(ledger) == before
    assert ledger.migration(migration.id).state == "paused"


def test_a_list_may_name_what_the_filters_exclude(
    ledger: Ledger, runner: TransferEngine, tmp_path: Path
) -> None:
    migration = accept_three(ledger, runner, filters=Filters(include=("?",), max_size=5))
    rows = ("name,url,size", "c,https://a.example/c?new,9", "xx,https://a.example/x?new,1")
    refresh_urls(ledger, runner, migration, place(runner, tmp_path / "l", *rows))
    assert urls_of(ledger)["c"] == "https://a.example/c?new"
    for row, named in (("x,https://a.example/x?new,5", "'x'"), ("b,nonsense", "line 4")):
        with pytest.raises(NamesUnknown, match=named):
            refresh_urls(ledger, runner, migration, place(runner, tmp_path / "l", *rows, row))


def test_a_missing_list_is_a_failure_of_the_source(
    ledger: Ledger, runner: TransferEngine, tmp_path: Path
) -> None:
    with pytest.raises(NotFound) as caught:
        refresh_urls(
            ledger,
            runner,
            accept_three(ledger, runner),
            runner.remotes.locate(f"list+file://{tmp_path}/x", folder=True),
        )
    assert caught.value.side == "source"


def test_only_a_migration_of_a_list_takes_one(
    ledger: Ledger, runner: TransferEngine, tmp_path: Path
) -> None:
    migration = accept_three(ledger, runner, "https://a.example/folder/")
    urls = place(runner, tmp_path / "l", "name,url", "b,https://a.example/b")
    with pytest.raises(InvalidType, match="not made from a list"):
        refresh_urls(ledger, runner, migration, urls)


def test_not_before_its_own_list_is_read(
    ledger: Ledger, runner: TransferEngine, tmp_path: Path
) -> None:
    """The rest of it could match other URLs of the same names."""
    order = MigrationRequest(
        Endpoint(PLACES["source"]), Endpoint(PLACES["destination"]), recursive=True
    )
    migration = ledger.create(order.spec(runner.remotes))[0]
    urls = place(runner, tmp_path / "l", "name,url", "b,https://a.example/b")
    with pytest.raises(IllegalTransition, match="not been read completely"):
        refresh_urls(ledger, runner, migration, urls)


def test_not_after_its_urls_were_forgotten(
    ledger: Ledger, runner: TransferEngine, tmp_path: Path
) -> None:
    """Its own list, which is read again then, would replace the fresh URLs."""
    migration = accept_three(ledger, runner)
    ledger.act(migration.id, "cancel")
    ledger.finish()
    assert set(urls_of(ledger).values()) == {None}
    places = parse_fresh(PLACES, migration, runner.remotes)
    urls = place(runner, tmp_path / "l", "name,url", "b,https://a.example/b?new")
    both = Refresh(spec=places.spec, urls=urls)
    with pytest.raises(IllegalTransition, match="forgotten"):
        apply_refresh(ledger, runner, ledger.migration(migration.id), "retry", both)
    assert ledger.migration(migration.id).state == "cancelled"


def test_a_wrong_state_is_reported_before_the_list_is_read(
    ledger: Ledger, runner: TransferEngine, tmp_path: Path
) -> None:
    migration = accept_three(ledger, runner)
    ledger.act(migration.id, "cancel")
    nowhere = Refresh(urls=runner.remotes.locate(f"list+file://{tmp_path}/nowhere", folder=True))
    with pytest.raises(IllegalTransition, match="cancelled"):
        apply_refresh(ledger, runner, ledger.migration(migration.id), "resume", nowhere)
    paused = accept_three(ledger, runner)
    ledger.act(paused.id, "pause")
    with pytest.raises(IllegalTransition, match="can't be retried") as refused:
        apply_refresh(ledger, runner, ledger.migration(paused.id), "retry", nowhere)
    assert "relay resume" in str(refused.value.hint)
