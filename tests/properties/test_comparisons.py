"""Whatever two trees have, and however the destination treats names: a content that is not there is
never the same, and each name is found once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.engine.comparison_report import NameFinding, Reads
from relay.engine.migration_request import MigrationJob
from relay.engine.plan import IfExists, Verify
from relay.engine.sampling import NameSample
from relay.engine.tree_comparison import TreeComparison
from relay.errors import NotFound
from relay.location import Location
from relay.name_folding import fold
from relay.receipt import Version
from relay.sorting.spill import SpillSpace
from relay.stores.interfaces import Entry, ObjectInfo
from relay.stores.local_locations import local_location
from relay.transfer_limits import Limits

contents = st.sampled_from([b"", b"one", b"two", b"three"])
names = st.sampled_from(["a", "A", "b", "\u00e4", "a\u0308", "A\u0308", "c.", "c", "d"])


@dataclass
class Shelf:
    """A store of some objects; `folds` says that it takes all names of one form for one, and lists
    the form."""

    objects: dict[str, bytes]
    folds: bool = False
    lists_digests: bool = False
    tells_digests: bool = True
    kept: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, data in self.objects.items():
            self.kept[fold(name) if self.folds else name] = data

    def _version(self, data: bytes, tells: bool) -> Version:
        md5 = hashlib.md5(data, usedforsecurity=False).digest()
        return Version(len(data), digests={"md5": md5} if tells else {})

    def list(self, *_: Any, **__: Any) -> Iterator[Entry]:
        for name, data in self.kept.items():
            version = self._version(data, self.lists_digests)
            yield Entry(name, version.size, digests=version.digests)

    def head(self, location: Location) -> ObjectInfo:
        name = location.name
        data = self.kept.get(fold(name) if self.folds else name)
        if data is None:
            raise NotFound("it is not there")
        return ObjectInfo(self._version(data, self.tells_digests), location)

    def content(self, name: str) -> bytes | None:
        return self.kept.get(fold(name) if self.folds else name)

    def lists_all(self, _: Location) -> bool:
        return True


@dataclass
class Shelves:
    ours: Shelf
    theirs: Shelf

    def source(self, *_: Any) -> Any:
        return self.ours

    def destination(self, *_: Any) -> Any:
        return self.theirs


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ours=st.dictionaries(names, contents, max_size=6),
    theirs=st.dictionaries(names, contents, max_size=6),
    folds=st.booleans(),
    listed=st.booleans(),
    reports=st.booleans(),
    size=st.none() | st.integers(1, 4),
)
def test_a_content_that_is_not_there_is_never_the_same(
    tmp_path: Path,
    ours: dict[str, bytes],
    theirs: dict[str, bytes],
    folds: bool,
    listed: bool,
    reports: bool,
    size: int | None,
) -> None:
    shelves = Shelves(
        Shelf(ours, lists_digests=listed),
        Shelf(theirs, folds, lists_digests=listed, tells_digests=reports),
    )
    job = MigrationJob(
        id="verify",
        source=local_location(tmp_path / "a", destination=False).folder(),
        destination=local_location(tmp_path / "b", destination=True).folder(),
        recursive=True,
        verify=Verify.AUTO,
        if_exists=IfExists.CHANGED,
    )
    sample = None if size is None else NameSample(size, "seed")
    comparison = TreeComparison(
        job,
        shelves,
        limits=Limits(listing_seconds=0),
        space=SpillSpace(tmp_path, 1 << 20, held_rows=2),
        reads=Reads.NONE,
        sample=sample,
    )
    found = list(comparison.findings())
    by_name = {one.name: one for one in found}
    assert len(by_name) == len(found)
    for name, data in ours.items():
        content = shelves.theirs.content(name)
        if (
            folds
            and name not in shelves.theirs.kept
            and sum(fold(name) == fold(o) for o in ours) > 1
        ):
            # The one object is that of another name, or of an unknown one.
            assert by_name[name].verdict in ("missing", "unproved")
            continue
        _check(by_name.get(name), data, content, sample is not None)
    answered = {fold(name) if folds else name for name in ours}
    extra = {one.name for one in found if one.verdict == "extra"}
    assert extra == shelves.theirs.kept.keys() - answered
    good = all(shelves.theirs.content(name) == data for name, data in ours.items()) and not (
        shelves.theirs.kept.keys() - answered
    )
    if comparison.report.is_proved and sample is None:
        assert good and ours
    assert not list(tmp_path.glob(".relay*"))


def _check(found: NameFinding | None, ours: bytes, theirs: bytes | None, is_sampled: bool) -> None:
    """Check the finding of a name of the source."""
    if found is None:  # the sample does not have it
        assert is_sampled and theirs is not None
        return
    verdict = found.verdict.value
    if verdict == "same":
        assert theirs == ours
    elif verdict == "differs":
        assert theirs is not None and theirs != ours
    elif verdict == "missing":
        assert theirs is None
    else:
        assert verdict == "unproved" and theirs is not None
