"""Links of this machine: no link leads out of the folders that a server's operator allowed, even
one made later; and relay writes to the target of a link at the destination."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relay.config import Settings
from relay.egress import EgressPolicy
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.outcome import Outcome
from relay.engine.plan import IfExists, Plan
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.claim_journal import ClaimJournal
from relay.errors import KeyCollision, LocalDenied, RelayError, SameObject
from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.location import Location
from relay.receipt import State, Version
from relay.stores import local_folders
from relay.stores.interfaces import PutResult
from relay.stores.local import LocalStore
from relay.stores.local_folders import AllowedFolders
from relay.stores.local_locations import local_location
from relay.stores.provider import Stores
from relay.stores.remotes import Remotes
from relay.transfer_limits import Limits
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from tests.conftest import Engine
from tests.ledgers import TREE
from tests.values import claim_of, tree_job


@pytest.fixture(params=["openat2", "walk"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open by the one system call, and as on a kernel without it."""

    def absent(*_: object) -> int:
        raise OSError(errno.ENOSYS, "not there")

    if request.param == "walk":
        monkeypatch.setattr(local_folders, "_openat2", absent)


class House:
    """An allowed folder, another one, and the entries outside both."""

    def __init__(self, root: Path) -> None:
        self.open, self.other, self.outside = root / "open", root / "other", root / "outside"
        for folder in (self.open / "deep", self.other, self.outside / "deep"):
            folder.mkdir(parents=True)
        (self.outside / "key").write_bytes(b"PRIVATE")
        (self.open / "deep" / "fine").write_bytes(b"fine")
        (self.other / "fine").write_bytes(b"fine")
        self.folders = AllowedFolders((self.open, self.other))
        self.before = self.outside_content

    def make_link(self, name: str) -> Path:
        """Make a link in the allowed folder that leads out of it."""
        link(self.open / name, self.outside)
        return self.open / name

    @property
    def outside_content(self) -> dict[str, bytes]:
        """The content of the folders outside."""
        return {str(path): path.read_bytes() for path in self.outside.rglob("*") if path.is_file()}

    def allowed_place(self, name: str, *, destination: bool = False) -> Location:
        """Return a place that was allowed once, in any current state."""
        return self.root(destination=destination).below(name, destination=destination)

    def root(self, *, destination: bool = False) -> Location:
        """Return the allowed folder."""
        return local_location(self.open, destination=destination, folders=self.folders).folder()


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture
def store(wire: Wire) -> LocalStore:
    return LocalStore(wire, "source", Watchdog(Limits()))


def link(path: Path, target: Path | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


OUT: dict[str, Callable[[House], None]] = {
    "by a whole path": lambda house: link(house.open / "x" / "key", house.outside / "key"),
    "by dots": lambda house: link(house.open / "x" / "key", "../../outside/key"),
    "by its folder": lambda house: link(house.open / "x", house.outside),
    "by two links": lambda house: link(house.open / "x" / "key", house.make_link("y") / "key"),
    "to nothing yet": lambda house: link(house.open / "x" / "key", house.outside / "new"),
    "to a folder that is not there": lambda house: link(
        house.open / "x" / "key", house.outside / "new" / "deep" / "x"
    ),
    "by the system's own": lambda house: link(house.open / "x", f"/proc/self/root/{house.outside}"),
}


def put(engine: Engine, source: Path, place: Location, **options: object) -> Outcome:
    source.write_bytes(b"written")
    return engine.migrate(local_location(source, destination=False), place, **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", OUT)
def test_no_link_leads_out(
    name: str, house: House, store: LocalStore, engine: Engine, tmp_path: Path
) -> None:
    OUT[name](house)
    place = house.allowed_place("x/key")
    found = Version(size=7)
    tries: list[Callable[[], object]] = [
        lambda: store.head(place),
        lambda: store.get(place),
        lambda: store.delete(place, Version()),
        lambda: store.head([*store.staged_locations(place, "token"), place][0]),
        lambda: store.publish(
            PutResult(found, house.allowed_place("x/.relay-t.part"), {}, place=place)
        ),
        lambda: store.publish(
            PutResult(found, house.allowed_place("x/.relay-t.part"), {}, place=place),
            if_absent=True,
        ),
        lambda: put(engine, tmp_path / "a", house.allowed_place("x/key", destination=True)),
        lambda: put(
            engine, tmp_path / "a", house.allowed_place("x/key", destination=True), if_exists="fail"
        ),
    ]
    for go in tries:
        with pytest.raises(LocalDenied):
            go()
    assert house.outside_content == house.before
    assert (house.open / "deep" / "fine").read_bytes() == b"fine"


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", OUT)
def test_a_listing_names_a_link_outside_and_nothing_behind_it(
    name: str, house: House, store: LocalStore
) -> None:
    OUT[name](house)
    printed = {entry.name: entry for entry in store.list(house.root(), recursive=True)}
    assert printed.pop("deep/fine").error is None
    assert printed
    for entry in printed.values():
        assert isinstance(entry.error, LocalDenied), entry
        assert (entry.size, entry.etag, entry.modified) == (None, None, None)


@pytest.mark.usefixtures("way")
def test_a_folder_replaced_by_a_link_is_not_entered(house: House, store: LocalStore) -> None:
    (house.open / "a").write_bytes(b"")
    entries = store.list(house.root(), recursive=True)
    assert next(entries).name == "a"  # and `deep` was seen as a folder
    (house.open / "deep").rename(house.open / "old")
    house.make_link("deep")
    assert [(entry.name, type(entry.error)) for entry in entries] == [("deep/", LocalDenied)]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "target",
    ["deep/fine", "../open/deep/fine", "{root}/open/deep/fine", "{root}/other/fine", "second"],
)
def test_links_that_stay_inside_are_followed(
    target: str, house: House, store: LocalStore, engine: Engine, tmp_path: Path
) -> None:
    link(house.open / "second", house.open / "deep" / "fine")
    link(house.open / "link", target.format(root=tmp_path))
    found = store.head(house.allowed_place("link"))
    assert found is not None and found.version.size == 4
    back = engine.migrate(
        house.allowed_place("link"), local_location(tmp_path / "back", destination=True)
    )
    assert back.state is State.VERIFIED and (tmp_path / "back").read_bytes() == b"fine"
    put(engine, tmp_path / "a", house.allowed_place("link", destination=True))
    assert (house.open / "link").is_symlink() and (house.open / "link").read_bytes() == b"written"


@pytest.mark.usefixtures("way")
def test_a_folder_replaced_before_publication_is_noticed(
    house: House, wire: Wire, tmp_path: Path
) -> None:
    store = LocalStore(wire, "destination", Watchdog(Limits()))
    (house.outside / "deep" / "fine").write_bytes(b"theirs")
    (house.outside / "deep" / ".relay-x.part").write_bytes(b"theirs")
    stored = PutResult(
        Version(),
        house.allowed_place("deep/.relay-x.part"),
        {},
        place=house.allowed_place("deep/fine"),
    )
    (house.open / "deep").rename(house.open / "old")
    link(house.open / "deep", house.outside / "deep")
    before = house.outside_content
    for if_absent in (False, True):
        with pytest.raises(LocalDenied):
            store.publish(stored, if_absent=if_absent)
    assert house.outside_content == before


@pytest.mark.usefixtures("way")
def test_a_link_made_after_the_resolution_is_refused(
    house: House, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a rival won the race: the resolved path is a link when it is opened."""
    link(house.open / "link", house.open / "deep" / "fine")
    resolve = os.path.realpath

    def resolve_slowly(path: Path) -> str:
        found = resolve(path)
        (house.open / "deep").rename(house.open / "aside")
        link(house.open / "deep", house.outside)
        (house.outside / "fine").write_bytes(b"PRIVATE")
        return found

    place = house.allowed_place("link")
    monkeypatch.setattr(os.path, "realpath", resolve_slowly)
    with pytest.raises(RelayError, match="symbolic links"):
        store.get(place)


@pytest.mark.parametrize("name", OUT)
def test_a_link_that_leads_out_is_refused_on_request(
    name: str, house: House, tmp_path: Path
) -> None:
    OUT[name](house)
    remotes = TransferEngine(
        Settings(local_folders=f"{house.open}:{house.other}"), EgressPolicy()
    ).remotes
    for asked in ({"destination": True}, {}):
        with pytest.raises(LocalDenied):
            remotes.locate(f"file://{house.open}/x/key", **asked)  # type: ignore[arg-type]


def test_a_later_open_stays_below_the_first_folders(house: House, tmp_path: Path) -> None:
    remotes = TransferEngine(Settings(local_folders=str(house.open)), EgressPolicy()).remotes
    place = remotes.locate(f"file://{house.open}/deep/fine")
    (house.open / "deep").rename(house.open / "old")
    link(house.open / "deep", house.other)
    store = Stores(TransferEngine(Settings(), EgressPolicy()).wire).source(
        place, Watchdog(Limits())
    )
    with pytest.raises(LocalDenied):
        store.get(place)


# -- a link as destination


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("if_exists", ["overwrite", "fail", "skip", "changed"])
def test_a_link_is_written_through(
    engine: Engine, tmp_path: Path, exists: bool, if_exists: str
) -> None:
    real, named = tmp_path / "far" / "real", tmp_path / "link"
    link(named, real)
    real.parent.mkdir()
    if exists:
        real.write_bytes(b"old")
        if if_exists in ("fail", "skip"):
            return
    outcome = put(
        engine, tmp_path / "a", local_location(named, destination=True), if_exists=if_exists
    )
    assert outcome.state is State.VERIFIED
    assert named.is_symlink() and real.read_bytes() == b"written"
    assert [path.name for path in real.parent.iterdir()] == ["real"]


def test_a_link_to_an_absent_folder_creates_it(engine: Engine, tmp_path: Path) -> None:
    link(tmp_path / "link", tmp_path / "far" / "away" / "real")
    put(
        engine,
        tmp_path / "a",
        local_location(tmp_path / "link", destination=True),
        if_exists="skip",
    )
    assert (tmp_path / "far" / "away" / "real").read_bytes() == b"written"


def test_a_loop_of_links_is_reported(engine: Engine, tmp_path: Path) -> None:
    link(tmp_path / "one", tmp_path / "two")
    link(tmp_path / "two", tmp_path / "one")
    with pytest.raises(RelayError, match="links"):
        put(engine, tmp_path / "a", local_location(tmp_path / "one", destination=True))
    assert (tmp_path / "one").is_symlink() and (tmp_path / "two").is_symlink()


@pytest.mark.parametrize("by", ["a link", "a hard link", "a link to its folder", "itself"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_file_is_not_moved_onto_itself(tmp_path: Path, by: str, turned: bool) -> None:
    (tmp_path / "folder").mkdir()
    one = tmp_path / "folder" / "a"
    one.write_bytes(b"x")
    other = {"itself": one, "a link to its folder": tmp_path / "way" / "a"}.get(by, tmp_path / "b")
    if by == "a link":
        link(other, one)
    elif by == "a hard link":
        other.hardlink_to(one)
    elif by != "itself":
        link(tmp_path / "way", tmp_path / "folder")
    source, destination = (other, one) if turned else (one, other)
    with pytest.raises(SameObject):
        MigrationRequest(Endpoint(str(source)), Endpoint(str(destination))).locate(
            Remotes(folders=None)
        )
    (tmp_path / "c").write_bytes(b"x")
    MigrationRequest(Endpoint(str(source)), Endpoint(str(tmp_path / "c"))).locate(
        Remotes(folders=None)
    )


# -- a link in a tree that is the destination


def plan_of(folder: Path, claim: Claim, if_exists: str) -> Plan:
    """Return the plan of an object of the tree in `from`, which goes to the one in `to`."""
    source, destination = (
        local_location(folder / name, destination=name == "to").folder() for name in ("from", "to")
    )
    job = tree_job(source, destination, id=claim.migration_id, if_exists=IfExists(if_exists))
    return job.plan(claim)


def arrive(engine: Engine, folder: Path, name: str, if_exists: str) -> Outcome:
    """Move one object of the tree in `from` to the one in `to`."""
    plan = plan_of(folder, claim_of(name), if_exists)
    return engine.runner.run(engine.runner.transfer(plan))


@pytest.fixture
def trees(tmp_path: Path) -> Path:
    """Return the paths of two trees; each link is named after its target."""
    for name in ("from/a", "from/sub/a", "from/b", "to/b", "apart/a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "to" / "real").mkdir()
    return tmp_path


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("if_exists", ["overwrite", "changed", "skip", "fail"])
@pytest.mark.parametrize(
    ("linked", "target", "name"), [("a", "../from/b", "a"), ("sub", "../from/sub", "sub/a")]
)
def test_no_link_leads_an_object_of_a_tree_back_to_its_source(
    engine: Engine, trees: Path, linked: str, target: str, name: str, if_exists: str
) -> None:
    """It is not overwritten, and a file with its own content does not count as the arrived
    object."""
    link(trees / "to" / linked, target)
    before = files_below(trees)
    with pytest.raises(SameObject, match="into the source"):
        arrive(engine, trees, name, if_exists)
    assert files_below(trees) == before


@pytest.mark.parametrize("if_exists", ["overwrite", "skip"])
def test_no_link_leads_an_object_back_to_its_own_name(
    engine: Engine, trees: Path, if_exists: str
) -> None:
    link(trees / "to" / "a", "../from/a")
    into = local_location(trees / "to", destination=True)
    with pytest.raises(SameObject, match="into the source"):
        engine.migrate(
            local_location(trees / "from" / "a", destination=False), into, if_exists=if_exists
        )


@pytest.mark.parametrize("if_exists", ["overwrite", "changed"])
@pytest.mark.parametrize(
    ("linked", "target", "name"),
    [("a", "b", "a"), ("a", "new", "a"), ("sub", "real", "sub/a"), ("sub", ".", "sub/a")],
)
def test_no_link_makes_two_objects_of_a_tree_one(
    engine: Engine, trees: Path, linked: str, target: str, name: str, if_exists: str
) -> None:
    link(trees / "to" / linked, target)
    before = files_below(trees)
    with pytest.raises(KeyCollision, match="another place of the same tree"):
        arrive(engine, trees, name, if_exists)
    assert files_below(trees) == before


def test_a_link_that_leads_out_of_a_tree_is_written_through(engine: Engine, trees: Path) -> None:
    """Also where the tree itself is named by a link."""
    (trees / "to").rename(trees / "there")
    link(trees / "to", "there")
    link(trees / "there" / "sub", "../apart")
    assert arrive(engine, trees, "sub/a", "overwrite").state is State.VERIFIED
    assert arrive(engine, trees, "b", "overwrite").state is State.VERIFIED
    assert (trees / "apart" / "a").read_bytes() == b"from/sub/a"
    assert (trees / "there" / "b").read_bytes() == b"from/b"


# -- two links of a destination that lead to one place outside of it

PAIRS = {
    "two files": {"a": "../apart/f", "b": "../apart/f"},
    "two folders": {"p": "../apart", "q": "../apart"},
    "one in the other": {"p": "../apart/deep", "q": "../apart"},
    "a link of a link": {"p": "../apart/way", "q": "../apart/deep"},
}
NAMED = {
    "two files": ("a", "b"),
    "two folders": ("p/f", "q/f"),
    "one in the other": ("p/f", "q/deep/f"),
    "a link of a link": ("p/f", "q/f"),
}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger.connect(f"sqlite:///{tmp_path / 'relay.db'}")
    ledger.leases.renew()
    yield ledger
    ledger.close()


def claims(ledger: Ledger, *names: str) -> dict[str, Claim]:
    """List a tree of these objects, and claim them."""
    ledger.create(TREE)
    listing = ledger.listings.claim()
    assert listing is not None
    ledger.listings.add_page(listing, [ListedObject(name) for name in names], None)
    ledger.listings.end(listing)
    return {claim.name: claim for claim in ledger.claims.claim(10)}


@pytest.mark.parametrize("if_exists", ["overwrite", "changed", "skip"])
@pytest.mark.parametrize("pair", PAIRS)
def test_the_second_object_of_one_linked_place_fails(
    engine: Engine, ledger: Ledger, tmp_path: Path, pair: str, if_exists: str
) -> None:
    """Also where another process moved the first one. Without the link it arrives."""
    names = NAMED[pair]
    (tmp_path / "apart" / "deep").mkdir(parents=True)
    link(tmp_path / "apart" / "way", "deep")
    for name in names:
        (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / name).write_bytes(name.encode())
    for name, target in PAIRS[pair].items():
        link(tmp_path / "to" / name, target)
    held = claims(ledger, *names)
    assert move(engine, ledger, tmp_path, held[names[0]], if_exists).state is State.VERIFIED
    ledger.claims.settle([Settlement(held[names[0]], "verified", bytes=1)])
    before = [(tmp_path / "to" / name).read_bytes() for name in names]
    with pytest.raises(KeyCollision, match=names[0]):
        move(engine, ledger, tmp_path, held[names[1]], if_exists)
    assert (
        [(tmp_path / "to" / name).read_bytes() for name in names]
        == before
        == [names[0].encode()] * 2
    )
    (tmp_path / "to" / names[1].partition("/")[0]).unlink()
    assert move(engine, ledger, tmp_path, held[names[1]], if_exists).state is State.VERIFIED
    assert [(tmp_path / "to" / name).read_bytes() for name in names] == [
        name.encode() for name in names
    ]


@pytest.mark.parametrize("pair", PAIRS)
def test_an_object_does_not_replace_a_skipped_one_through_a_link(
    engine: Engine, ledger: Ledger, tmp_path: Path, pair: str
) -> None:
    """The first one is unchanged. Without the link the second one arrives."""
    names = NAMED[pair]
    (tmp_path / "apart" / "deep").mkdir(parents=True)
    link(tmp_path / "apart" / "way", "deep")
    for number, name in enumerate(names):
        (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / name).write_bytes(name.encode() * (number + 1))
        os.utime(tmp_path / "from" / name, (1e9, 1e9))
    for name, target in PAIRS[pair].items():
        link(tmp_path / "to" / name, target)
    (tmp_path / "to" / names[0]).write_bytes(names[0].encode())
    held = claims(ledger, *names)
    assert move(engine, ledger, tmp_path, held[names[0]], "changed").state is State.SKIPPED
    ledger.claims.settle([Settlement(held[names[0]], "skipped")])
    with pytest.raises(KeyCollision, match=names[0]):
        move(engine, ledger, tmp_path, held[names[1]], "changed")
    assert (tmp_path / "to" / names[0]).read_bytes() == names[0].encode()
    (tmp_path / "to" / names[1].partition("/")[0]).unlink()
    assert move(engine, ledger, tmp_path, held[names[1]], "changed").state is State.VERIFIED
    assert (tmp_path / "to" / names[0]).read_bytes() == names[0].encode()


@pytest.mark.parametrize("if_exists", ["overwrite", "changed", "skip"])
def test_two_links_to_one_folder_part_objects_of_other_names(
    engine: Engine, ledger: Ledger, tmp_path: Path, if_exists: str
) -> None:
    (tmp_path / "apart").mkdir()
    for name in ("p/a", "q/b"):
        (tmp_path / "from" / name).parent.mkdir(parents=True)
        (tmp_path / "from" / name).write_bytes(name.encode())
        link(tmp_path / "to" / name[0], "../apart")
    for claim in claims(ledger, "p/a", "q/b").values():
        assert move(engine, ledger, tmp_path, claim, if_exists).state is State.VERIFIED
    assert (tmp_path / "apart" / "a").read_bytes() == b"p/a"
    assert (tmp_path / "apart" / "b").read_bytes() == b"q/b"


def test_a_prior_object_is_left_there_for_both(engine: Engine, ledger: Ledger, trees: Path) -> None:
    """Neither of them was sent, as `skip` requires."""
    for name in ("a", "b"):
        (trees / "to" / name).unlink(missing_ok=True)
        link(trees / "to" / name, "../apart/a")
    for claim in claims(ledger, "a", "b").values():
        assert move(engine, ledger, trees, claim, "skip").state is State.SKIPPED
    assert (trees / "apart" / "a").read_bytes() == b"apart/a"


def move(engine: Engine, ledger: Ledger, folder: Path, claim: Claim, if_exists: str) -> Outcome:
    """Move an object that is claimed from a ledger."""
    transfer = engine.runner.transfer(plan_of(folder, claim, if_exists))
    transfer.journal = ClaimJournal(ledger, claim, sure=lambda: True)
    return engine.runner.run(transfer)
