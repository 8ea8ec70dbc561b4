"""Names of one tree that a destination treats as one: detected before the second is sent, and both
reported (B60)."""

from __future__ import annotations

import itertools
import json
import os
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, unquote

import gevent
import pytest

from relay import caseless
from relay.config import Settings
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.plan import IfExists, Plan
from relay.engine.transfer.folded_names import _looks_one, refuse_folded_names
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.conversions import hints_of_claim
from relay.engine.worker.worker import Worker
from relay.errors import KeyCollision, LedgerBusy
from relay.ledger.claim_values import Settlement
from relay.ledger.destination_ledger import DestinationLedger
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.location import Location, parse_location
from relay.name_folding import fold
from relay.receipt import Version
from relay.stores.http import HttpStore
from relay.stores.interfaces import Entry, ObjectInfo
from relay.stores.local import LocalStore
from relay.stores.local_locations import local_location, path_of
from relay.transfer_limits import Limits
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from tests.end_to_end.terminal import Terminal
from tests.faults.scripted_http import Shelf, empty_answer
from tests.faults.test_explosions import with_explosion
from tests.ledgers import TREE, verified_end
from tests.scripted import Peer, Talk, length_of

Folding = Callable[[bytes], bytes]
Case = tuple[Folding, str, str]
"""How a destination folds, and two names that are one there."""
Cases = dict[str, Case]
"""Cases by the beginnings of their names: the destination folds each folder in a way of its own, so
one command plays them all."""


def _fold_case(path: bytes) -> bytes:
    return path.lower()


def _compose_path(path: bytes) -> bytes:
    return quote(unicodedata.normalize("NFC", unquote(path.decode())), safe="/.").encode()


def _compose_compatibly(path: bytes) -> bytes:
    """Fold a name as ZFS does with `normalization=formKC`."""
    return quote(unicodedata.normalize("NFKC", unquote(path.decode())), safe="/.").encode()


def _capitalise(path: bytes) -> bytes:
    """Fold a name as ZFS does with `casesensitivity=insensitive`."""
    return quote(unquote(path.decode()).upper(), safe="/.").encode()


def _ignore(path: bytes) -> bytes:
    """Fold a name as ext4's casefold does (fs/unicode, NFDICF)."""
    kept = "".join(one for one in unquote(path.decode()) if one not in "\u00ad\u200d\ufe0f")
    return quote(unicodedata.normalize("NFD", kept).casefold(), safe="/.").encode()


def _trim_ends(path: bytes) -> bytes:
    return quote(
        "/".join(one.rstrip(". ") for one in unquote(path.decode()).split("/")), safe="/."
    ).encode()


def _trim_path(path: bytes) -> bytes:
    return quote(
        "/".join(one.strip(" ") for one in unquote(path.decode()).split("/")), safe="/."
    ).encode()


def _decode_path(path: bytes) -> bytes:
    return quote(unquote(unquote(path.decode())), safe="/.").encode()


def _decode_form(path: bytes) -> bytes:
    return quote(unquote(path.decode()).replace("+", " "), safe="/.").encode()


FOLDING: Cases = {
    "case": (_fold_case, "a/Photo.jpg", "a/photo.jpg"),
    "case of a folder": (_fold_case, "A/photo.jpg", "a/photo.jpg"),
    "form": (_compose_path, "caf\u00e9", "cafe\u0301"),
    "a digit": (_compose_compatibly, "m\u00b2.txt", "m2.txt"),
    "a no-break space": (_compose_compatibly, "a\u00a0b/c", "a b/c"),
    "a wide plus": (_compose_compatibly, "a\uff0bb", "a+b"),
    "a dotless i": (_capitalise, "s\u0131n\u0131r.pdf", "sinir.pdf"),
    "a dotless i, a folder's": (_capitalise, "Sinav/1", "S\u0131nav/1"),
    "a variation": (_ignore, "\u2764.png", "\u2764\ufe0f.png"),
    "a joiner, a folder's": (_ignore, "a/name", "a\u200d/name"),
    "a hyphen": (_ignore, "Name", "na\u00adme"),
    "dots": (_trim_ends, "name", "name."),
    "blanks": (_trim_ends, "name", "name "),
    "blanks before": (_trim_path, "name", " name"),
    "blanks before, a folder's": (_trim_path, "x/name/a", "x/ name/a"),
    "encoding": (_decode_path, "a b", "a%20b"),
    "a form": (_decode_form, "a b", "a+b"),
    "a form, a folder's": (_decode_form, "c+d/e", "c d/e"),
}


def plant(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d, and another %s" % (number, name.encode()))


def trees(cases: Cases) -> pytest.MarkDecorator:
    """Play the first case at the destination itself, and each in a folder of its own."""
    below = {f"{number:02}/": case for number, case in enumerate(cases.values())}
    first = {"": next(iter(cases.values()))}
    return pytest.mark.parametrize("cases", [first, below], ids=["itself", "folders"])


def folding_of(cases: Cases) -> Folding:
    """Return how a destination `/to/` folds the names of some cases."""

    def fold_path(path: bytes) -> bytes:
        for beginning, (folds, _, _) in cases.items():
            if path.startswith(b"/to/" + beginning.encode()):
                return folds(path)
        return path

    return fold_path


def plant_each(folder: Path, cases: Cases, *numbers: int, beside: str | None = None) -> None:
    """Write the first, the second or both objects of each case, and perhaps another one."""
    for beginning, case in cases.items():
        names = [case[number] for number in numbers] + ([beside] if beside else [])
        plant(folder, *(beginning + name for name in names))


def collisions(terminal: Terminal, cases: Cases) -> dict[str, str]:
    """Return the error of each failed object by the beginning of its case, and assert that there is
    one of each case, a collision."""
    text = terminal.query(
        "SELECT group_concat(name || ' ' || error, char(10)) FROM transfers WHERE state = 'failed'"
    )
    lines = text.splitlines()
    found = {
        beginning: [line for line in lines if line.startswith(beginning)] for beginning in cases
    }
    for beginning, errors in found.items():
        assert len(errors) == 1 and errors[0].count("key-collision") == 1, (beginning, errors)
    return {beginning: errors[0] for beginning, errors in found.items()}


@trees(FOLDING)
@pytest.mark.parametrize("if_exists", ["changed", "skip"])
def test_b60_two_names_that_fold_are_named_before_the_second(
    tmp_path: Path, cases: Cases, if_exists: str
) -> None:
    plant_each(tmp_path / "from", cases, 1, 2, beside="plain")
    shelf, terminal = Shelf(folds=folding_of(cases)), Terminal(tmp_path)
    with Peer(shelf) as there:
        for _ in range(2):  # and the same command repeats it
            code, printed = terminal.tree(
                tmp_path / "from", there.url("/to/"), "--if-exists", if_exists
            )
            assert (code, printed["objects"].get("failed")) == (1, len(cases))
    assert shelf.methods.count(b"PUT") == 2 * len(cases)
    assert len(shelf.objects) == 2 * len(cases)
    for beginning, error in collisions(terminal, cases).items():
        _, one, _ = cases[beginning]
        assert quote(one.split("/")[0][:2]) in error or one[:2] in error


class Balanced(Shelf):
    """Gives each answer another entity tag, as servers behind a balancer do that count in memory,
    each for itself."""

    numbers = itertools.count()

    @staticmethod
    def _tag(data: bytes) -> bytes:
        return b'ETag: "%d-%d"\r\n' % (next(Balanced.numbers), len(data))


class TwoNodes(Shelf):
    """Two servers with entity tags of their own, like Apache's from inodes, which a balancer asks
    in turn."""

    nodes = itertools.cycle((0, 1))

    @staticmethod
    def _tag(data: bytes) -> bytes:
        return b'ETag: "%d-%d"\r\n' % (next(TwoNodes.nodes), len(data))


@pytest.mark.parametrize("if_exists", ["changed", "overwrite"])
def test_b60_the_etags_of_two_nodes_distinguish_nothing(tmp_path: Path, if_exists: str) -> None:
    plant(tmp_path / "from", "name", "Name")
    shelf, terminal = TwoNodes(folds=_fold_case), Terminal(tmp_path)
    with Peer(shelf) as there:
        code, _ = terminal.tree(tmp_path / "from", there.url("/to/"), "--if-exists", if_exists)
    assert code == 1
    assert shelf.methods.count(b"PUT") == 1
    assert "key-collision" in terminal.query(
        "SELECT group_concat(error) FROM transfers WHERE state = 'failed'"
    )


@pytest.mark.parametrize("first", list(itertools.product((0, 1), repeat=4)))
def test_b60_two_nodes_steady_for_a_while_prove_nothing(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, first: tuple[int, ...]
) -> None:
    """A balancer that chooses at random may answer the first four requests in any order."""
    monkeypatch.setattr(TwoNodes, "nodes", itertools.chain(first, itertools.cycle((0, 1))))
    shelf = TwoNodes(folds=_fold_case, objects={b"/to/name": b"four"})
    with Peer([shelf] * 9) as there:
        store = HttpStore(wire, "destination", Watchdog(Limits()))
        place, twin = (
            parse_location(there.url(f"/to/{name}"), destination=True) for name in ("name", "Name")
        )
        with pytest.raises(KeyCollision):
            refuse_folded_names(store, place, (twin,))


@pytest.mark.parametrize("head", [403, 405])
@pytest.mark.parametrize("if_exists", ["changed", "overwrite"])
def test_b60_an_etag_that_always_changes_distinguishes_nothing(
    tmp_path: Path, head: int, if_exists: str
) -> None:
    plant(tmp_path / "from", "name", "Name")
    shelf, terminal = Balanced(folds=_fold_case), Terminal(tmp_path)
    shelf.refused = {b"HEAD": empty_answer(head)}
    with Peer(shelf) as there:
        code, printed = terminal.tree(
            tmp_path / "from", there.url("/to/"), "--if-exists", if_exists
        )
    assert (code, printed["objects"]) == (1, {"verified": 1, "failed": 1})
    assert "key-collision" in terminal.query("SELECT error FROM transfers WHERE state = 'failed'")
    assert shelf.methods.count(b"PUT") == 1


@trees(FOLDING)
@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_b60_a_prior_object_under_a_folded_name_is_kept(
    tmp_path: Path, cases: Cases, if_exists: str
) -> None:
    """Nothing in this ledger shows that it is another object: its store reports it as existing. A
    server that decodes a name twice shows itself."""
    plant_each(tmp_path / "before", cases, 1)
    plant_each(tmp_path / "from", cases, 2)
    shelf, terminal = Shelf(folds=folding_of(cases)), Terminal(tmp_path)
    (tmp_path / "other").mkdir()
    with Peer(shelf) as there:
        other = Terminal(tmp_path / "other")
        assert other.tree(tmp_path / "before", there.url("/to/"))[0] == 0
        before = dict(shelf.objects)
        code, _ = terminal.tree(tmp_path / "from", there.url("/to/"), "--if-exists", if_exists)
    states = {
        row["name"]: row["state"]
        for row in map(json.loads, terminal.run("report", "1", "--format", "jsonl")[1].splitlines())
    }
    wanted = {
        beginning + other: "skipped"
        if if_exists == "skip" and folds is not _decode_path
        else "failed"
        for beginning, (folds, _, other) in cases.items()
    }
    assert states == wanted
    assert code == ("failed" in wanted.values())
    assert shelf.objects == before


@trees(FOLDING)
def test_b60_commands_with_other_filters_replace_no_twin(tmp_path: Path, cases: Cases) -> None:
    """Each command lists one of the two names. The first one may go on as before."""
    plant_each(tmp_path / "from", cases, 1, 2)
    for beginning, (_, one, _) in cases.items():
        (tmp_path / "from" / (beginning + one)).write_bytes(b"one of more bytes" * 4)
    shelf, terminal = Shelf(folds=folding_of(cases)), Terminal(tmp_path)
    with Peer(shelf) as there:
        words = (tmp_path / "from", there.url("/to/"))
        assert terminal.tree(*words, "--min-size", "64B")[0] == 0
        before = dict(shelf.objects)
        assert terminal.tree(*words, "--max-size", "63B")[0] == 1
        assert shelf.objects == before and collisions(terminal, cases)
        assert terminal.tree(*words, "--min-size", "64B")[0] == 0
    assert shelf.objects == before


def _listing(shelf: Shelf, path: bytes) -> bytes | None:
    """Show a folder as nginx does: its links are relative, so a page does not show its folder's
    name."""
    if not path.endswith(b"/"):
        return shelf.objects.get(path)
    below = [key[len(path) :] for key in shelf.objects if key.startswith(path)]
    names = sorted({name.partition(b"/")[0] + b"/" * (b"/" in name) for name in below})
    links = b"".join(b'<a href="%s">x</a>\r\n' % name for name in names)
    return b"<html><title>Index of /</title>%s</html>" % links


FOLDERS: Cases = {
    "case": (_fold_case, "Photos/a.jpg", "photos/a.jpg"),
    "case, deep": (_fold_case, "x/Photos/2024/a.jpg", "x/photos/2024/a.jpg"),
    "form": (_compose_path, "caf\u00e9/a", "cafe\u0301/a"),
    "dots": (_trim_ends, "name/a", "name./a"),
    "a form": (_decode_form, "c d/a", "c+d/a"),
    "an object": (_fold_case, "A", "a"),
}


@trees(FOLDERS)
@pytest.mark.parametrize("if_exists", ["changed", "overwrite"])
def test_b60_an_echoed_folder_name_distinguishes_nothing(
    tmp_path: Path, cases: Cases, if_exists: str
) -> None:
    """Each of the two folders lists the object, since they are one: only the folder above them can
    distinguish them."""
    plant_each(tmp_path / "from", cases, 1, 2, beside="plain")
    shelf, terminal = Shelf(folds=folding_of(cases), shown=_listing), Terminal(tmp_path)
    with Peer(shelf) as there:
        code, printed = terminal.tree(
            tmp_path / "from", there.url("/to/"), "--if-exists", if_exists
        )
    assert (code, printed["objects"]) == (1, {"failed": len(cases), "verified": 2 * len(cases)})
    assert len(shelf.objects) == 2 * len(cases)
    assert collisions(terminal, cases)


@trees(FOLDERS)
def test_b60_two_equal_objects_are_two_if_both_are_listed(tmp_path: Path, cases: Cases) -> None:
    for beginning, (_, *names) in cases.items():
        for name in names:
            path = tmp_path / "from" / f"{beginning}{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"the same")
    shelf, terminal = Shelf(shown=_listing), Terminal(tmp_path)
    with Peer(shelf) as there:
        for options in ((), ("--if-exists", "overwrite")):
            code, printed = terminal.tree(tmp_path / "from", there.url("/to/"), *options)
            assert (code, printed["objects"].get("failed")) == (0, None)
    assert len(shelf.objects) == 2 * len(cases)


@trees({name: case for name, case in FOLDERS.items() if "/" in case[1]})
@pytest.mark.parametrize("if_exists", ["changed", "overwrite"])
def test_b60_two_folders_that_are_listed_prove_no_two_objects(
    tmp_path: Path, cases: Cases, if_exists: str
) -> None:
    """A store of flat keys may fold an object's key, and list the folders as they were spelled."""
    for beginning, (_, *names) in cases.items():
        folders = {name.rpartition("/")[0] for name in names}
        beside = (f"{beginning}{folder}/beside" for folder in folders)
        plant(tmp_path / "from", beginning + names[0], *beside)
    folding = _fold_unless_beside(folding_of(cases))
    shelf, terminal = Shelf(folds=folding, shown=_listing), Terminal(tmp_path)
    with Peer(shelf) as there:
        assert terminal.tree(tmp_path / "from", there.url("/to/"))[0] == 0
        plant_each(tmp_path / "from", cases, 2)
        code, printed = terminal.tree(
            tmp_path / "from", there.url("/to/"), "--if-exists", if_exists
        )
    assert (code, printed["objects"].get("failed")) == (1, len(cases))
    assert len(shelf.objects) == 3 * len(cases)


def _fold_unless_beside(folds: Folding) -> Folding:
    return lambda path: path if path.endswith((b"/", b"/beside")) else folds(path)


@pytest.mark.parametrize(
    "names", [("a%2Fb", "a/b/c"), ("x+", "x /y"), ("A", "a/b"), ("a%252Fb", "a/b/c", "a%2Fb")]
)
def test_b60_a_folder_of_another_name_is_not_a_lost_object(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    plant(tmp_path / "from", *names)
    for to in (tmp_path / "to", None):
        shelf, terminal = Shelf(shown=_listing), Terminal(tmp_path)
        with Peer(shelf) as there:
            code, printed = terminal.tree(tmp_path / "from", to or there.url("/to/"))
        assert (code, printed["objects"]) == (0, {"verified": len(names)})


@trees(FOLDING)
def test_b60_both_arrive_where_the_destination_distinguishes(tmp_path: Path, cases: Cases) -> None:
    plant_each(tmp_path / "from", cases, 1, 2)
    shelf, terminal, count = Shelf(), Terminal(tmp_path), 2 * len(cases)
    with Peer(shelf) as there:
        code, printed = terminal.tree(tmp_path / "from", there.url("/to/"))
        assert (code, printed["objects"]) == (0, {"verified": count})
    assert len(shelf.objects) == count
    for state in ("verified", "skipped"):
        code, printed = terminal.tree(tmp_path / "from", tmp_path / "to")
        assert (code, printed["objects"]) == (0, {state: count})


@pytest.mark.parametrize("if_exists", ["overwrite", "changed", "skip"])
@pytest.mark.parametrize("listed", [None, "LONGDO~1.TXT", "longdo~1.txt"])
def test_a_short_name_of_another_object_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str | None, if_exists: str
) -> None:
    """A link that no listing shows is like a short name on a FAT volume."""
    plant(tmp_path / "from", "LONGDO~1.TXT")
    plant(tmp_path / "to", "long document.txt")
    there = tmp_path / "to/LONGDO~1.TXT"
    os.link(tmp_path / "to/long document.txt", there)
    os.utime(there, (1, 1))
    before, lists = there.read_bytes(), LocalStore.list

    def list_as_fat(store: LocalStore, *options: object) -> Iterator[Entry]:
        for entry in lists(store, *options):  # type: ignore[arg-type]
            if entry.name != there.name:
                yield entry
            elif listed is not None:
                yield replace(entry, name=listed)

    monkeypatch.setattr(LocalStore, "list", list_as_fat)
    runner = TransferEngine(Settings(egress_allow="127.0.0.0/8"))
    source = local_location(tmp_path / "from" / there.name, destination=False)
    place = local_location(there, destination=True)
    transfer = runner.transfer(Plan(source, place, if_exists=IfExists(if_exists)))
    with pytest.raises(KeyCollision, match="short name") if listed is None else nullcontext():
        runner.run(transfer)
    assert (there.read_bytes() == before) == (listed is None or if_exists == "skip")


def test_folding_changes_only_names_that_stores_fold() -> None:
    for name in ("a/b.txt", "-x", "\u00e4/\u00f6", ".hidden", "a b", "..", "a/../b"):
        assert fold(name) == name
    for one, other in [pair[1:] for pair in FOLDING.values()] + [
        ("a//b", "a/b"),
        ("a\\b", "a/b"),
        ("STRASSE", "stra\u00dfe"),
        ("\u0131\u0301", "\u00cd"),
    ]:
        assert fold(one) == fold(other) == fold(fold(one))
    assert len({fold(name) for name in ("a", "b", "a/b", "ab", "\u00e4", "a.b", "a b")}) == 7


@pytest.mark.parametrize(
    "name", ["100%FFa", "%ed%a0%80", "x%25C0", "\u00e9%ff", "a%00b", "a\\b%80", "%F0%9F"]
)
def test_an_undecodable_name_folds_like_any_other(ledger: Ledger, name: str) -> None:
    _list_tree(ledger, (name, "b"), (name.lower() + " ",))
    assert {claim.name for claim in ledger.claims.claim(5) if claim.twins} == {
        name,
        name.lower() + " ",
    }


def test_undecodable_names_arrive(tmp_path: Path) -> None:
    plant(tmp_path / "from", "100%FFa", "100%FEa", "%ed%a0%80", "plain")
    code, printed = Terminal(tmp_path).tree(tmp_path / "from", tmp_path / "to")
    assert (code, printed["objects"]) == (0, {"verified": 4})


@pytest.mark.parametrize(
    "name", ["%" + "25" * 500_000 + "41", "a" + "\u0300\u0316" * 500_000, "%ff" * 300_000]
)
def test_the_form_of_a_hostile_name_is_made_at_once(name: str) -> None:
    began = time.process_time()
    fold(name)
    assert time.process_time() - began < 2


def _list_tree(ledger: Ledger, *pages: tuple[str, ...]) -> str:
    migration, _ = ledger.create(TREE)
    listing = ledger.listings.claim()
    assert listing is not None
    for page in pages:
        assert ledger.listings.add_page(
            listing, [ListedObject(name, size=1) for name in page], page[-1]
        )
    ledger.listings.end(listing)
    return migration.id


def test_only_names_that_may_fold_are_marked(ledger: Ledger) -> None:
    _list_tree(ledger, ("A", "b", "C"), ("a", "B!", "D"), ("c ", "e"))
    assert sorted(claim.name for claim in ledger.claims.claim(20) if claim.twins) == [
        "A",
        "C",
        "a",
        "c ",
    ]


def test_names_that_may_fold_together_never_run_concurrently(ledger: Ledger) -> None:
    _list_tree(ledger, ("A", "a"))
    one, other = ledger.claims.claim(2)
    assert ledger.destinations.enter_folded(one) == ()
    assert ledger.destinations.enter_folded(other) is None
    ledger.claims.settle([Settlement(other, "hand_back"), verified_end(one)])
    (again,) = ledger.claims.claim(1)
    assert ledger.destinations.enter_folded(again) == (one.name,)
    ledger.destinations.leave_folded(again)
    ledger.claims.settle(
        [
            Settlement(
                again,
                "failed",
                error={"code": "key-collision", "side": "destination", "detail": "no"},
            )
        ]
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("S\u0131n", "s\u0131n"), ()),
        (("s\u0131n",), ("S\u0131n",)),
        (("S\u0131n",), ("s\u0131n",)),
        (("S\u0131n",), ("s\u0131N",)),
        (("sin",), ("s\u0131n",)),
    ],
)
def test_rows_of_an_older_relay_fold_as_they_did(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, old: tuple[str, ...], new: tuple[str, ...]
) -> None:
    """A migration goes on after an upgrade. The older relay kept a dotless i."""
    ledger.create(TREE)
    listing = ledger.listings.claim()
    assert listing is not None
    with monkeypatch.context() as patch:
        patch.setattr(caseless, "DOTLESS_I", "\0")
        ledger.listings.add_page(listing, [ListedObject(name, size=1) for name in old], "1")
    ledger.listings.add_page(listing, [ListedObject(name, size=1) for name in (*new, "last")], "2")
    first, second = (claim for claim in ledger.claims.claim(3) if claim.twins)
    assert ledger.destinations.enter_folded(first) == ()
    assert ledger.destinations.enter_folded(second) is None
    ledger.claims.settle([verified_end(first)])
    assert ledger.destinations.enter_folded(second) == (first.name,)


def test_an_arrived_object_stays_entered_after_a_collision(ledger: Ledger) -> None:
    """The same command restarts it, and a collision ends that: the first object is still there, and
    the other name must not claim it as its own."""
    id = _list_tree(ledger, ("A", "a"))
    one, other = ledger.claims.claim(2)
    assert ledger.destinations.enter_folded(one) == ()
    ledger.claims.settle([verified_end(one), Settlement(other, "hand_back")])
    ledger.begin_again(id, [one.id])

    claims = {claim.name: claim for claim in ledger.claims.claim(2)}
    assert ledger.destinations.enter_folded(claims[one.name]) == ()
    ledger.destinations.leave_folded(claims[one.name])

    assert ledger.destinations.enter_folded(claims[other.name]) == (one.name,)


@pytest.mark.parametrize("rounds", [1, 3])
def test_the_first_of_two_killed_names_goes_and_one_waits(ledger: Ledger, rounds: int) -> None:
    """Neither is under way: a past transfer of either only means that it may be there."""
    _list_tree(ledger, ("A", "a"))
    for _ in range(rounds):
        for number in range(2):
            claims = ledger.claims.claim(2)
            assert ledger.destinations.enter_folded(claims[number]) is not None
            ledger.claims.settle([Settlement(claim, "hand_back") for claim in claims])
    one, other = ledger.claims.claim(2)
    assert hints_of_claim(one).begun and hints_of_claim(other).begun
    for _ in range(3):
        assert ledger.destinations.enter_folded(one) == (other.name,), (
            "again too, as after an answer of the ledger that was lost"
        )
        assert ledger.destinations.enter_folded(other) is None
    ledger.claims.settle([Settlement(other, "hand_back")])
    (other,) = ledger.claims.claim(1)
    assert ledger.destinations.enter_folded(other) is None
    ledger.claims.settle([verified_end(one)])
    assert ledger.destinations.enter_folded(other) == (one.name,)


@pytest.mark.parametrize("first", ["a", "A", "b "])
def test_an_earlier_claim_counts_as_under_way(ledger: Ledger, first: str) -> None:
    """Transfers start while the listing still runs: the other name waits, and learns of the first,
    in any state."""
    other = {"a": "A", "A": "a", "b ": "b"}[first]
    ledger.create(TREE)
    listing = ledger.listings.claim()
    assert listing is not None
    ledger.listings.add_page(
        listing, [ListedObject(first, size=1), ListedObject("later", size=1)], "1"
    )
    before = next(claim for claim in ledger.claims.claim(2) if claim.name == first)
    assert not before.twins
    ledger.listings.add_page(listing, [ListedObject(other, size=1)], "2")
    (claim,) = ledger.claims.claim(1)
    assert ledger.destinations.enter_folded(claim) is None
    ledger.claims.settle([Settlement(before, "hand_back")])
    (again,) = ledger.claims.claim(1)
    assert hints_of_claim(again).begun, "something of it may be there"
    ledger.claims.settle([Settlement(again, "failed", error={"code": "not-found"})])
    assert ledger.destinations.enter_folded(claim) == (first,)


def test_a_busy_ledger_fails_no_object(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path / "from", "a", "A")
    runner = TransferEngine(Settings(local_folders=str(tmp_path)))
    order = MigrationRequest(
        Endpoint(f"file://{tmp_path}/from"), Endpoint(f"file://{tmp_path}/to"), recursive=True
    )
    id = ledger.create(order.spec(runner.remotes))[0].id
    monkeypatch.setattr(
        DestinationLedger,
        "enter_folded",
        with_explosion(DestinationLedger.enter_folded, LedgerBusy("it is locked"), 2, after=False),
    )
    with gevent.Timeout(30):
        Worker(ledger, runner, 1, id).run()
    assert {row.name: (row.state, row.error) for row in ledger.page(id)} == dict.fromkeys(
        "aA", ("verified", None)
    )


def test_versions_of_one_tag_look_alike_at_any_date() -> None:
    one = Version(size=9, etag='"a"', last_modified="Sun, 29 Nov 2026 01:35:21 GMT")
    assert _looks_one(
        one, Version(size=9, etag='"a"', last_modified="Sun, 29 Nov 2026 01:37:11 GMT")
    )
    assert not _looks_one(
        one, Version(size=9, etag='"b"', last_modified="Sun, 29 Nov 2026 01:37:11 GMT")
    )
    assert not _looks_one(one, Version(size=8, etag='"a"', last_modified=one.last_modified))


class Unsteady(Shelf):
    """Refuses every inspection until the second object arrives, and stores the first upload without
    an answer."""

    refuses = True
    answers = False

    def _other(self, talk: Talk, method: bytes, path: bytes, request: bytes) -> bool:
        self.refuses &= b"/to/name" not in request
        if not self.refuses:
            return super()._other(talk, method, path, request)
        talk.send(empty_answer(403))
        return True

    def _put(self, talk: Talk, path: bytes, request: bytes) -> bool:
        if self.answers:
            return super()._put(talk, path, request)
        self.answers = True
        if b"100-continue" in request:
            talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.objects[path] = talk.body(length_of(request))
        talk.reset()
        return False


def test_b60_an_object_of_the_other_name_is_not_a_prior_object(tmp_path: Path) -> None:
    """The second object was sent, and its answer lost, before the collision of both names was
    detected."""
    plant(tmp_path / "from", "Name", "name")
    shelf, terminal = Unsteady(folds=_fold_case), Terminal(tmp_path, RELAY_RETRY_BUDGET="3")
    with Peer(shelf) as there:
        for ends in ({"failed": 2}, {"failed": 1, "verified": 1}):
            code, printed = terminal.tree(
                tmp_path / "from", there.url("/to/"), "--if-exists", "skip", "--slots", "1"
            )
            assert (code, printed["objects"]) == (1, ends)
    assert terminal.query("SELECT name FROM transfers WHERE state = 'verified'") == "name"
    assert shelf.objects == {b"/to/name": (tmp_path / "from" / "name").read_bytes()}


class Numbering(LocalStore):
    """A file system that folds case, and numbers a file by each name, as FUSE itself does
    (exfat-fuse)."""

    folds = True

    def head(self, location: Location) -> ObjectInfo:
        """Stat a name in any case; each spelling has another inode number."""
        path = path_of(location)
        there = [one for one in path.parent.iterdir() if one.name.lower() == path.name.lower()]
        real = there[0] if self.folds else path
        found = super().head(local_location(real, destination=False))
        return replace(found, version=replace(found.version, etag=f'"{path.name}"'))


@pytest.mark.parametrize("folds", [True, False])
def test_b60_a_file_with_an_inode_for_each_name_is_one_file(
    wire: Wire, tmp_path: Path, folds: bool
) -> None:
    store = Numbering(wire, "destination", Watchdog(Limits()))
    store.folds = folds
    for name in ["Name"] if folds else ["Name", "name"]:
        (tmp_path / name).write_bytes(b"four")
        os.utime(tmp_path / name, (1e9, 1e9))
    twin, place = (
        local_location(tmp_path, destination=True).below(name) for name in ("Name", "name")
    )
    with pytest.raises(KeyCollision) if folds else nullcontext():
        refuse_folded_names(store, place, (twin,))
