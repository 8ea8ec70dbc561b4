"""The deletion of a known version, one suite over every store that has it and real servers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relay.errors import NotFound, PreconditionFailed, Rejected, RelayError
from relay.receipt import Version
from relay.stores.interfaces import DeletingSource, ObjectInfo
from relay.stores.provider import Stores
from relay.stores.version_checks import difference
from relay.transfer_limits import Limits
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from tests.conftest import Engine
from tests.contract.conftest import Place, place_of
from tests.contract.moves import content, put

KINDS = ("seaweed", "swift", "webdav+nginx", "webdav+wsgidav", "nextcloud", "local")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(wire: Wire, place: Place) -> DeletingSource:
    found = Stores(wire).source(place("a"), Watchdog(Limits()))
    assert isinstance(found, DeletingSource)
    return found


def version_at(source: DeletingSource, place: Place, name: str = "a") -> Version:
    found = source.head(place(name))
    assert isinstance(found, ObjectInfo)
    return found.version


def test_the_known_version_is_deleted_and_no_other(
    engine: Engine, source: DeletingSource, place: Place
) -> None:
    put(engine, place("a"), b"first")
    put(engine, place("b"), b"beside")
    old = version_at(source, place)
    put(engine, place("a"), b"the second one")
    with pytest.raises(PreconditionFailed):
        source.delete_version(place("a"), old)
    assert content(source, place("a")) == b"the second one"  # type: ignore[arg-type]
    done = source.delete_version(place("a"), version_at(source, place))
    assert done.window
    assert done.marker is None
    assert content(source, place("a")) is None  # type: ignore[arg-type]
    assert content(source, place("b")) == b"beside"  # type: ignore[arg-type]


def test_an_absent_object_is_not_found(
    engine: Engine, source: DeletingSource, place: Place
) -> None:
    put(engine, place("a"))
    known = version_at(source, place)
    with pytest.raises(NotFound):
        source.delete_version(place("none"), known)


def test_a_version_without_a_strong_tag_is_refused(
    engine: Engine, source: DeletingSource, place: Place
) -> None:
    put(engine, place("a"), b"bytes")
    for tag in (None, 'W/"weak"', "*"):
        with pytest.raises(Rejected):
            source.delete_version(place("a"), Version(5, tag))
    assert content(source, place("a")) == b"bytes"  # type: ignore[arg-type]


def test_a_folder_is_never_deleted(engine: Engine, source: DeletingSource, place: Place) -> None:
    put(engine, place("folder/a"), b"bytes")
    known = version_at(source, place, "folder/a")
    with pytest.raises(RelayError):
        source.delete_version(place("folder"), known)
    assert content(source, place("folder/a")) == b"bytes"  # type: ignore[arg-type]


def test_a_writable_folder_deletes(engine: Engine, source: DeletingSource, place: Place) -> None:
    put(engine, place("a"))
    folder = place("a").with_target(f"{place('a').path.rpartition('/')[0]}/")
    source.require_deletes(folder)


def test_names_that_a_server_may_cut(
    kind: str, engine: Engine, source: DeletingSource, place: Place
) -> None:
    if kind in ("webdav+wsgidav", "nextcloud"):
        pytest.skip("it moves nothing to such a name")
    put(engine, place("What"), b"another")
    folder = place("What").with_target(f"{place('What').path.rpartition('/')[0]}/")
    cut = folder.below("What?x", destination=True)
    put(engine, cut, b"bytes")
    source.delete_version(cut, version_at(source, lambda _: cut))
    assert content(source, place("What")) == b"another"  # type: ignore[arg-type]


# -- local files


@pytest.fixture
def folder(request: pytest.FixtureRequest, local: Path) -> tuple[Place, Path]:
    place = place_of("local", request)
    path = Path(place("x").path).parent
    path.mkdir()
    return place, path


@pytest.fixture
def local_source(wire: Wire, folder: tuple[Place, Path]) -> DeletingSource:
    found = Stores(wire).source(folder[0]("a"), Watchdog(Limits()))
    assert isinstance(found, DeletingSource)
    return found


def test_a_link_is_not_deleted(local_source: DeletingSource, folder: tuple[Place, Path]) -> None:
    place, path = folder
    (path / "target").write_bytes(b"bytes")
    (path / "link").symlink_to("target")
    with pytest.raises(Rejected, match="link"):
        local_source.delete_version(place("link"), version_at(local_source, place, "link"))
    assert (path / "link").is_symlink()
    assert (path / "target").read_bytes() == b"bytes"


def test_a_file_behind_a_linked_folder_is_kept(
    local_source: DeletingSource, folder: tuple[Place, Path]
) -> None:
    place, path = folder
    (path / "real").mkdir()
    (path / "real" / "a").write_bytes(b"bytes")
    (path / "linked").symlink_to("real")
    linked = place("x").with_target(f"{path}/").below("linked/a")
    known = version_at(local_source, lambda _: linked)
    with pytest.raises(Rejected, match="link"):
        local_source.delete_version(linked, known)
    assert (path / "real" / "a").read_bytes() == b"bytes"


def test_a_file_that_is_being_written_is_kept(
    local_source: DeletingSource, folder: tuple[Place, Path]
) -> None:
    place, path = folder
    with (path / "log").open("wb") as log:
        log.write(b"bytes")
        log.flush()
        with pytest.raises(Rejected, match="open for writing"):
            local_source.delete_version(place("log"), version_at(local_source, place, "log"))
    local_source.delete_version(place("log"), version_at(local_source, place, "log"))
    assert not (path / "log").exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may delete everywhere")
def test_a_read_only_folder_is_refused(
    local_source: DeletingSource, folder: tuple[Place, Path]
) -> None:
    place, path = folder
    path.chmod(0o500)
    with pytest.raises(RelayError):
        local_source.require_deletes(place("x").with_target(f"{path}/"))


@pytest.mark.parametrize(
    ("known", "there", "is_same"),
    [
        (Version(1, '"a"', "d"), Version(1, '"a"', "d"), True),
        (Version(1, '"a"', "d"), Version(None, '"a"', None), True),
        (Version(1, '"a"', "d"), Version(1, '"b"', "d"), False),
        (Version(1, '"a"', "d"), Version(1, '"a"', "e"), False),
        (Version(1, '"a"', "d"), Version(2, '"a"', "d"), False),
        (Version(1, '"a"', "d", id="1"), Version(1, '"a"', "d", id="2"), False),
        (Version(1, '"a"', "d", id="1"), Version(1, '"a"', "d"), False),
        (Version(1, None, "d"), Version(1, None, "d"), False),
        (Version(1, 'W/"a"', "d"), Version(1, 'W/"a"', "d"), False),
    ],
)
def test_two_versions_are_one_only_if_both_say_so(
    known: Version, there: Version, is_same: bool
) -> None:
    assert (difference(known, there) is None) is is_same
