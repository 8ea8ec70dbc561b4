"""What listings and HEADs prove about two trees, with stores whose answers are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import pytest

from relay.engine.comparison_report import NameFinding
from relay.engine.migration_request import MigrationJob
from relay.engine.pair_examination import MOST_FAILURES
from relay.engine.plan import IfExists, Verify
from relay.engine.tree_comparison import TreeComparison
from relay.errors import NotFound, PermissionDenied, ProtocolViolation, RelayError, Unavailable
from relay.filters.filter_set import Filters
from relay.location import Location, parse_location
from relay.receipt import Version
from relay.sorting.spill import SpillSpace
from relay.stores.interfaces import Entry, ObjectInfo, UnknownObject
from relay.stores.local_locations import local_location
from relay.stores.s3.aws_settings import S3Config, s3_location
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from relay.transfer_limits import Limits

ONE, TWO = bytes(7) + b"1", bytes(7) + b"2"
MD5 = '"0123456789abcdef0123456789abcdef"'


@dataclass
class Scripted:
    """A store that lists given entries, and answers HEAD with given versions."""

    entries: list[Entry | RelayError] = field(default_factory=list)
    heads: Mapping[str, Version | UnknownObject | RelayError] = field(default_factory=dict)
    is_complete: bool = True
    asked: list[str] = field(default_factory=list)

    def list(self, *_: Any, **__: Any) -> Iterator[Entry]:
        for entry in self.entries:
            if isinstance(entry, RelayError):
                raise entry
            yield entry

    def head(self, location: Location) -> ObjectInfo | UnknownObject:
        self.asked.append(location.name)
        name = f"p/{location.name}" if "/p/" in location.path else location.name
        found = self.heads.get(name)
        if found is None:
            raise NotFound("it is not there")
        if isinstance(found, RelayError):
            raise found
        return found if isinstance(found, UnknownObject) else ObjectInfo(found, location)

    def get(self, location: Location, *_: Any) -> Any:
        raise NotFound(f"{location} is not there")

    def lists_all(self, _: Location) -> bool:
        return self.is_complete


class Lasting(list[Entry | RelayError]):
    """Entries that can be listed once; then there is an error."""

    def __init__(self, entries: list[Entry], then: RelayError) -> None:
        super().__init__(entries)
        self.then = then

    def __iter__(self) -> Iterator[Entry | RelayError]:
        yield from list.__iter__(self)
        self[:] = [self.then]


@dataclass
class Trees:
    """Two stores, and their comparison."""

    home: Path
    ours: Scripted = field(default_factory=Scripted)
    theirs: Scripted = field(default_factory=Scripted)
    places: tuple[Location, Location] | None = None
    filters: Filters | None = None
    hides: str = ""
    """The kind of the stores whose listings leave names out."""

    def source(self, *_: Any) -> Any:
        return self.ours

    def destination(self, place: Location, *_: Any) -> Any:
        return Scripted(is_complete=False) if place.store == self.hides else self.theirs

    def compare(self, **options: Any) -> TreeComparison:
        source, destination = self.places or (
            local_location(self.home / "a", destination=False).folder(),
            local_location(self.home / "b", destination=True).folder(),
        )
        job = MigrationJob(
            id="verify",
            source=source,
            destination=destination,
            recursive=True,
            verify=Verify.AUTO,
            if_exists=IfExists.CHANGED,
            filters=self.filters,
        )
        space = SpillSpace(self.home, 1 << 20)
        limits = Limits(listing_seconds=0)
        return TreeComparison(job, self, limits=limits, space=space, **options)

    def verdicts(self, **options: Any) -> dict[str, str]:
        return {one.name: f"{one.verdict} {one.basis}" for one in self.rows(**options)}

    def rows(self, **options: Any) -> list[NameFinding]:
        return list(self.compare(**options).findings())


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    return Trees(tmp_path)


def buckets() -> tuple[Location, Location]:
    config = S3Config(Signer(lambda: AwsCredentials("K", "S"), "eu-central-1"))
    return s3_location(config, "here", "a/"), s3_location(config, "there", "a/")


def test_equal_sizes_prove_nothing(trees: Trees) -> None:
    trees.ours.entries = [Entry("a", 3), Entry("b", 3), Entry("c", 0), Entry("d", 1), Entry("e")]
    trees.theirs.entries = [Entry("a", 3), Entry("b", 4), Entry("c", 0), Entry("x", 1), Entry("e")]
    version = Version(3)
    trees.ours.heads = trees.theirs.heads = {"a": version, "e": version, "c": Version(0)}
    assert trees.verdicts() == {
        "a": "unproved nothing",
        "b": "differs size",
        "c": "same size",
        "d": "missing listing",
        "e": "unproved nothing",
        "x": "extra listing",
    }


def test_a_listed_size_of_0_proves_nothing(trees: Trees) -> None:
    """A listing shows 0 for a file of /proc, or for a document in a FUSE mount."""
    trees.ours.entries = [Entry(name, 0) for name in "abc"]
    trees.theirs.entries = [Entry("a", 0), Entry("b", 0), Entry("c", 5)]
    trees.ours.heads = {"a": Version(None), "b": Version(4), "c": Version(None)}
    trees.theirs.heads = {"a": Version(0), "b": Version(0), "c": Version(5)}
    assert trees.verdicts() == {
        "a": "unproved nothing",
        "b": "differs size",
        "c": "unproved nothing",
    }


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_two_objects_of_one_name_are_not_proved(trees: Trees, side: str) -> None:
    trees.ours.entries = trees.theirs.entries = [Entry("a", 3, digests={"crc64nvme": ONE})]
    assert trees.verdicts() == {"a": "same digest"}
    again = Entry("a", 3, digests={"crc64nvme": TWO})
    getattr(trees, side).entries = [again, *trees.ours.entries]
    assert trees.verdicts() == {"a": "unproved nothing"}


def test_a_digest_of_a_list_is_not_the_stores(trees: Trees) -> None:
    """A list of URLs declares digests; the source may have another object now."""
    url = "http://source.example/x"
    trees.ours.entries = [Entry(name, 3, url=url, digests={"md5": ONE}) for name in "abc"]
    trees.theirs.entries = [Entry(name, 3, digests={"md5": ONE}) for name in "abc"]
    trees.ours.heads = {"x": Version(3)}
    trees.theirs.heads = {name: Version(3, digests={"md5": ONE}) for name in "abc"}
    assert set(trees.verdicts().values()) == {"unproved nothing"}
    trees.ours.heads = {"x": Version(3, digests={"md5": TWO})}
    assert set(trees.verdicts().values()) == {"unproved nothing"}
    trees.ours.heads = {"x": Version(3, digests={"md5": ONE})}
    assert set(trees.verdicts().values()) == {"same digest"}


def test_a_digest_of_both_decides(trees: Trees) -> None:
    """Digests come from a listing or from HEAD; one of another algorithm decides nothing."""
    names = "abcd"
    trees.ours.entries = [Entry(name, 3, digests={"crc64nvme": ONE}) for name in names]
    trees.theirs.entries = [Entry(name, 3) for name in names]
    trees.ours.heads = {name: Version(3) for name in names}
    trees.theirs.heads = {
        "a": Version(3, digests={"crc64nvme": ONE}),
        "b": Version(3, digests={"crc64nvme": TWO}),
        "c": Version(3, digests={"md5": ONE + ONE}),
        "d": Version(4, digests={"crc64nvme": ONE}),
    }
    rows = {one.name: one for one in trees.rows()}
    assert {name: f"{one.verdict} {one.basis}" for name, one in rows.items()} == {
        "a": "same digest",
        "b": "differs digest",
        "c": "unproved nothing",
        "d": "differs size",
    }
    assert rows["c"].detail == "no digest in common: crc64nvme and md5"


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        (MD5, MD5, "same etag"),
        (MD5, MD5.replace("0", "1"), "unproved nothing"),  # SSE-KMS: no digest
        ('"0123456789abcdef0123456789abcdef-2"',) * 2 + ("unproved nothing",),  # unknown part sizes
        ('"d41d8cd98f00b204e9800998ecf8427e"',) * 2 + ("unproved nothing",),  # the MD5 of no bytes
        ('"00000000000000000000000000000000"',) * 2 + ("unproved nothing",),
        (None, None, "unproved nothing"),
    ],
)
def test_etags_of_buckets(trees: Trees, ours: str, theirs: str, verdict: str) -> None:
    trees.places = buckets()
    trees.ours.entries, trees.theirs.entries = [Entry("a", 3, ours)], [Entry("a", 3, theirs)]
    trees.ours.heads = trees.theirs.heads = {"a": Version(3)}
    assert trees.verdicts() == {"a": verdict}
    trees.places = None  # an ETag of another store may be made of anything
    assert trees.verdicts() == {"a": "unproved nothing"}


def test_a_bucket_in_another_order_is_refused(trees: Trees) -> None:
    trees.places = buckets()
    trees.ours.entries = [Entry("b", 3, MD5), Entry("a", 3, MD5)]
    trees.theirs.entries = [Entry("a", 3, MD5), Entry("b", 3, MD5)]
    with pytest.raises(ProtocolViolation, match="'a' comes after 'b'") as caught:
        trees.rows()
    assert caught.value.side == "source" and "--sort" in (caught.value.hint or "")
    assert set(trees.verdicts(sorts_all=True).values()) == {"same etag"}


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_folder_that_is_not_listed_proves_nothing(trees: Trees, side: str) -> None:
    """What the other side has below it is neither missing nor extra."""
    denied = PermissionDenied("refused")
    whole, part = ["a/f/x", "a/f-", "b"], [Entry("a/f/", error=denied), Entry("b", 0)]
    trees.ours.heads = trees.theirs.heads = {"b": Version(0)}
    trees.ours.entries = trees.theirs.entries = [Entry(name, 0) for name in whole]
    getattr(trees, side).entries = part
    comparison = trees.compare()
    found = {one.name: one.verdict.value for one in comparison.findings()}
    gone = "extra" if side == "ours" else "missing"
    assert found == {"a/f-": gone, "a/f/x": "unproved", "b": "same"}
    name = "source" if side == "ours" else "destination"
    assert comparison.report.folders == [(name, "a/f/", "refused")]
    trees.ours.entries = trees.theirs.entries = part
    report = trees.compare()
    assert [one.name for one in report.findings()] == ["b"]
    assert report.report.unlisted == 2 and not report.report.is_proved


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_name_that_may_be_a_folder_hides_names(trees: Trees, side: str) -> None:
    """A server does not show what it is, or a file system does not answer."""
    unclear = Entry("cam", error=PermissionDenied("refused"), judged_as=("cam/", "cam"))
    trees.ours.entries = trees.theirs.entries = [Entry("cam/p", 3), Entry("cam-2", 3)]
    getattr(trees, side).entries = [unclear]
    comparison = trees.compare()
    found = {one.name: one.verdict.value for one in comparison.findings()}
    itself, other = ("missing", "extra") if side == "ours" else ("extra", "missing")
    assert found == {"cam": itself, "cam-2": other, "cam/p": "unproved"}
    assert [folder[1] for folder in comparison.report.folders] == ["cam/"]


def test_a_listing_that_breaks_off_is_an_error(trees: Trees) -> None:
    trees.ours.entries = [Entry("a", 0), Unavailable("it is away", side="source")]
    trees.theirs.entries = [Entry("a", 0)]
    with pytest.raises(Unavailable):
        trees.rows()


def test_entries_with_errors_are_not_proved(trees: Trees) -> None:
    error = PermissionDenied("refused")
    trees.ours.entries = [Entry("a", 3, error=error), Entry("b", 3, error=error), Entry("c", 3)]
    trees.theirs.entries = [Entry("a", 3), Entry("c", 3, error=error), Entry("d", error=error)]
    rows = {one.name: (one.verdict.value, one.detail) for one in trees.rows()}
    assert rows == {
        "a": ("unproved", "refused"),
        "b": ("missing", "refused"),
        "c": ("unproved", "refused"),
        "d": ("extra", "refused"),
    }


def test_a_listing_that_lags_is_not_believed(trees: Trees) -> None:
    """Where the destination's listing may lack objects, HEAD says if one is missing."""
    trees.ours.entries = [Entry(name, 3, digests={"crc64nvme": ONE}) for name in "abcd"]
    trees.ours.heads = {name: Version(3) for name in "abcd"}
    trees.theirs.is_complete = False
    trees.theirs.heads = {
        "a": Version(3, digests={"crc64nvme": ONE}),
        "b": PermissionDenied("refused", side="destination"),
        "d": UnknownObject(PermissionDenied("no HEAD")),  # GET says that it is not there
    }
    assert trees.verdicts() == {
        "a": "same digest",
        "b": "unproved nothing",
        "c": "missing head",
        "d": "missing head",
    }


def test_a_source_that_hides_names_is_asked(trees: Trees, tmp_path: Path) -> None:
    """nginx lists no name that begins with a dot, and serves it."""
    there = local_location(tmp_path / "b", destination=True).folder()
    trees.places = parse_location("http://127.0.0.1/a/"), there
    trees.hides = "http"
    trees.ours.entries = [Entry("a", 3)]
    trees.theirs.entries = [Entry(".hid", 3, digests={"md5": ONE}), Entry("a", 3), Entry("b", 3)]
    trees.ours.heads = {"a": Version(3), ".hid": Version(3, digests={"md5": ONE})}
    trees.theirs.heads = {name: Version(3) for name in ("a", ".hid")}
    assert trees.verdicts() == {
        ".hid": "same digest",
        "a": "unproved nothing",
        "b": "extra head",
    }


def test_the_source_row_is_what_filters_choose_by(trees: Trees) -> None:
    """An object that is excluded at the source is not extra, whatever its size is now."""
    trees.filters = Filters.from_json({"max_size": 10, "exclude": ["*.tmp"]})
    trees.ours.entries = [Entry("a", 11), Entry("b", 0), Entry("c", 5), Entry("x.tmp", 1)]
    trees.theirs.entries = [Entry("a", 9), Entry("b", 0), Entry("c", 12), Entry("y.tmp", 1)]
    trees.ours.heads = trees.theirs.heads = {"b": Version(0)}
    comparison = trees.compare()
    found = {one.name: one.verdict.value for one in comparison.findings()}
    assert found == {"b": "same", "c": "differs"}
    assert comparison.report.excluded == 3


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_the_source_has_the_markers(trees: Trees, side: str) -> None:
    """A migration leaves the same names out."""
    trees.filters = Filters.from_json({"exclude_if_present": [".skip"]})
    trees.ours.entries = trees.theirs.entries = [Entry("a", 3), Entry("p/x", 3)]
    trees.ours.heads = trees.theirs.heads = {"a": Version(3), "p/x": Version(3)}
    marked = getattr(trees, side)
    marked.entries = [*marked.entries, Entry("p/.skip", 0)]
    marked.heads = {**marked.heads, "p/.skip": Version(0)}
    found = {one.name: one.verdict.value for one in trees.rows()}
    everything = {"a": "unproved", "p/x": "unproved", "p/.skip": "extra"}
    assert found == ({"a": "unproved"} if side == "ours" else everything)


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        # The destination has it under the name that it lists.
        ({"A\u0308": Version(3, digests={"md5": ONE})}, {"A\u0308": "same digest"}),
        ({"A\u0308": Version(4)}, {"A\u0308": "differs size"}),
        # It keeps both names apart.
        ({}, {"A\u0308": "missing head", "\u00e4": "extra listing"}),
    ],
)
def test_a_name_that_the_destination_changes(
    trees: Trees, heads: dict[str, Version], expected: dict[str, str]
) -> None:
    trees.ours.entries = [Entry(name, 3, digests={"md5": ONE}) for name in ("A\u0308", "b")]
    trees.theirs.entries = [Entry("b", 3, digests={"md5": ONE}), Entry("\u00e4", 3)]
    trees.ours.heads = {"A\u0308": Version(3, digests={"md5": ONE})}
    trees.theirs.heads = heads
    rows = trees.rows()
    found = {one.name: f"{one.verdict} {one.basis}" for one in rows}
    assert found == {"b": "same digest", **expected}
    assert ("lists it as '\\xe4'" in rows[1].detail) is bool(heads)


def test_one_object_for_several_names_proves_none(trees: Trees) -> None:
    """Of two names the destination has kept one object, perhaps the second one's."""
    names = ("A.txt", "a.TXT")
    trees.ours.entries = [Entry(name, 3, digests={"md5": ONE}) for name in names]
    trees.theirs.entries = [Entry("a.txt", 3, digests={"md5": ONE})]
    trees.ours.heads = trees.theirs.heads = dict.fromkeys(names, Version(3, digests={"md5": ONE}))
    rows = trees.rows()
    assert [one.verdict.value for one in rows] == ["unproved", "unproved"]
    assert "one object for several names: it lists 'a.txt'" in rows[0].detail
    trees.places = buckets()  # buckets keep all names apart
    assert sorted(trees.verdicts().values()) == ["extra listing", *["missing listing"] * 2]


def test_names_of_one_side_fit_into_few_rows(trees: Trees) -> None:
    """They are sorted on the disk, which has nothing of them in the end."""
    trees.ours.entries = [Entry(f"{number:03}") for number in range(100)]
    trees.theirs.entries = [Entry(f"X{number:03}") for number in range(100)]
    comparison = trees.compare()
    comparison.space.held_rows = 3
    found = list(comparison.findings())
    assert comparison.report.counts["missing"] == comparison.report.counts["extra"] == 100
    assert len({one.name for one in found}) == 200 and comparison.space.used_bytes == 0
    assert not list(trees.home.glob(".relay-spill*"))


def test_a_store_that_is_away_ends_the_comparison(trees: Trees) -> None:
    """A refusal is about one object; an outage is about all, if nothing can be listed either."""
    trees.ours.entries = trees.theirs.entries = [Entry("a", 3), Entry("b", 3)]
    trees.ours.heads = {"a": Version(3), "b": Version(3)}
    trees.theirs.heads = {"a": PermissionDenied("refused"), "b": Version(3)}
    assert set(trees.verdicts().values()) == {"unproved nothing"}
    away = Unavailable("it is away", side="destination")
    trees.theirs.heads = {"a": away, "b": Version(3)}
    assert [one.detail for one in trees.rows()][0] == "destination: it is away"
    findings = trees.compare().findings()
    trees.theirs.entries = Lasting([Entry("a", 3), Entry("b", 3)], away)
    with pytest.raises(Unavailable):
        next(findings)


def test_many_failures_in_a_row_end_the_comparison(trees: Trees) -> None:
    """A list of URLs can be listed while their server is away."""
    names = [f"{i:03}" for i in range(MOST_FAILURES + 1)]
    trees.ours.entries = trees.theirs.entries = [Entry(name, 3) for name in names]
    trees.theirs.heads = {name: Version(3) for name in names}
    heads: dict[str, Any] = dict.fromkeys(names, Unavailable("it is away", side="source"))
    trees.ours.heads = {**heads, names[5]: Version(3)}
    assert len(trees.rows()) == len(names)
    trees.ours.heads = heads
    found = trees.compare().findings()
    with pytest.raises(Unavailable):
        list(found)


def test_listings_outlast_a_transfer(trees: Trees) -> None:
    """The bucket of a large tree is listed as long as its objects are read."""
    trees.ours.entries = trees.theirs.entries = [Entry("a", 3)]
    meters = trees.compare().listings.values()
    assert {meter.limits.total_seconds for meter in meters} == {inf}
