"""The verdict about the objects of one name: what counts as the same, and on what that rests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.api.request_bodies import parse_order
from relay.engine.comparison import (
    Compare,
    PairVerdict,
    ReceiptVersions,
    has_one_md5,
    is_by_other,
    verdict_of_pair,
)
from relay.engine.migration_request import request_of_options
from relay.engine.plan import IfExists, existing_of
from relay.errors import InvalidType
from relay.ledger.planned_values import SeenVersion
from relay.receipt import Version

EARLY, LATE = "Sat, 28 Nov 2026 10:00:00 GMT", "Sat, 28 Nov 2026 11:00:00 GMT"
SECONDS = "1795860000"
"""EARLY, as a time of modification."""
ONE, TWO = bytes(7) + b"1", bytes(7) + b"2"
MD5, OTHER_MD5 = '"0123456789abcdef0123456789abcdef"', '"fedcba9876543210fedcba9876543210"'


def verdict(
    ours: Version,
    theirs: Version,
    compare: str | None,
    *,
    stores: str = "s3 s3",
    mtimes: tuple[str | None, str | None] = (None, None),
    receipt: ReceiptVersions | None = None,
) -> str:
    """Return the verdict in words."""
    found = _verdict(ours, theirs, compare, stores=stores, mtimes=mtimes, receipt=receipt)
    return f"{'skip' if found.is_same else 'replace'} {found.basis}"


def _verdict(
    ours: Version,
    theirs: Version,
    compare: str | None,
    *,
    stores: str,
    mtimes: tuple[str | None, str | None],
    receipt: ReceiptVersions | None,
) -> PairVerdict:
    here, there = stores.split()
    fields = [() if one is None else (("mtime", one),) for one in mtimes]
    return verdict_of_pair(
        ours,
        theirs,
        None if compare is None else Compare(compare),
        stores=(here, there),
        metadata=lambda: (fields[0], fields[1]),
        receipt=lambda: receipt,
    )


ALL = (None, *(one.value for one in Compare))


@pytest.mark.parametrize("compare", ALL)
@pytest.mark.parametrize("stores", ["s3 s3", "local local", "http webdav"])
def test_equal_sizes_alone_are_not_the_same(compare: str | None, stores: str) -> None:
    """Unless that is asked for by its name."""
    found = verdict(Version(7), Version(7), compare, stores=stores)
    expected = {"size": "skip size", "always": "replace asked"}
    assert found == expected.get(compare or "", "replace unknown")


@pytest.mark.parametrize("compare", ALL)
@given(data=st.data())
def test_what_is_known_to_differ_is_replaced(compare: str | None, data: st.DataObject) -> None:
    """Whatever else agrees: another size or digest is never skipped, nor one without a size."""
    size = data.draw(st.integers(0, 9) | st.none())
    dates = st.sampled_from([None, EARLY, LATE])
    tag = data.draw(st.sampled_from([None, MD5]))
    mtime = data.draw(st.sampled_from([None, SECONDS]))
    stores = data.draw(st.sampled_from(["s3 s3", "local local", "s3 local"]))
    by_size = size is None or data.draw(st.booleans())
    other = None if size is None else size + by_size
    digests = ({"md5": ONE}, {"md5": ONE if by_size else TWO})
    ours = Version(size, tag, data.draw(dates), digests=digests[0])
    theirs = Version(other, tag, data.draw(dates), digests=digests[1])
    receipt = ReceiptVersions(source=ours, destination=theirs)
    found = verdict(ours, theirs, compare, stores=stores, mtimes=(mtime, mtime), receipt=receipt)
    assert found.startswith("replace")


def test_the_table_of_auto() -> None:
    """Its first row that answers."""
    digested = Version(7, "x", EARLY, digests={"crc32c": b"1234"})
    assert verdict(digested, digested, "auto") == "skip digest"
    assert verdict(Version(7, MD5), Version(7, MD5), "auto") == "skip etag"
    assert verdict(Version(7, MD5), Version(7, OTHER_MD5), "auto") == "replace unknown"
    here, there = Version(7, '"a"'), Version(7, '"b"')
    receipt = ReceiptVersions(source=here, destination=there)
    assert verdict(here, there, "auto", receipt=receipt) == "skip receipt"
    assert verdict(Version(7, '"c"'), there, "auto", receipt=receipt) == "replace receipt"
    assert verdict(Version(7), there, "auto", receipt=receipt) == "replace unknown"
    for changed in (Version(7, '"c"'), Version(7)):
        assert verdict(here, changed, "auto", receipt=receipt) == "replace unknown"
    assert verdict(here, there, "digest", receipt=receipt) == "replace unknown"


@pytest.mark.parametrize(
    ("stores", "mtimes", "auto", "time"),
    [
        ("local local", ("5.123456", "5.123456"), "skip time", "skip time"),
        ("local local", ("5.123456", "5.223456"), "replace time", "replace time"),
        ("local local", ("5.123456", "5"), "skip time", "skip time"),
        ("local local", ("5.123456", "8"), "replace time", "replace time"),
        ("local local", ("5.123456", "6.5"), "replace time", "replace time"),
        ("local local", ("5.123456", "7"), "replace time", "replace time"),
        ("local sftp", ("5.999999", "5"), "skip time", "skip time"),
        ("local local", ("6", "5"), "replace time", "replace time"),
        ("local sftp", ("7", "5"), "replace time", "replace time"),
        ("local s3", ("5.123456", "5.123456"), "skip time", "skip time"),
        # The bucket's own date: it has kept none.
        ("local s3", (SECONDS, SECONDS), "replace unknown", "replace unknown"),
        # A source's own date counts if that is asked for, but the destination must have kept it.
        ("s3 local", (SECONDS, SECONDS), "replace unknown", "skip time"),
        ("http local", (SECONDS, SECONDS), "replace unknown", "skip time"),
        ("local webdav", (SECONDS, SECONDS), "replace unknown", "replace unknown"),
        ("local local", (None, "5"), "replace unknown", "replace unknown"),
        ("local local", ("nan", "nan"), "replace unknown", "replace unknown"),
    ],
)
def test_times_that_were_kept(
    stores: str, mtimes: tuple[str | None, str | None], auto: str, time: str
) -> None:
    """Within the coarser precision of the two."""
    version = Version(7, None, EARLY)
    if "nan" in mtimes:
        auto = time = "replace time"
    assert verdict(version, version, "auto", stores=stores, mtimes=mtimes) == auto
    assert verdict(version, version, "time", stores=stores, mtimes=mtimes) == time


def test_a_receipt_outweighs_equal_times() -> None:
    """The destination is as it was written, and the source is another file than was read."""
    here, there = Version(7, '"a"', EARLY), Version(7, '"b"', EARLY)
    receipt, kept = ReceiptVersions(source=here, destination=there), ("5.5", "5.5")
    now, stores = Version(7, '"c"', EARLY), "local local"
    assert verdict(now, there, "auto", stores=stores, mtimes=kept, receipt=receipt) == (
        "replace receipt"
    )
    other = Version(7, '"d"', EARLY)  # written by another program, which kept the time
    assert verdict(now, other, "auto", stores=stores, mtimes=kept, receipt=receipt) == "skip time"


@pytest.mark.parametrize("side", ["source", "destination"])
def test_one_etag_for_all_objects_proves_nothing(side: str) -> None:
    """For a receipt and for a plan: another date shows another version."""
    was, now = Version(7, '"all"', EARLY), Version(7, '"all"', LATE)
    receipt = ReceiptVersions(source=was, destination=was)
    assert verdict(was, was, "auto", receipt=receipt, stores="http s3") == "skip receipt"
    pair = (now, was) if side == "source" else (was, now)
    assert verdict(*pair, "auto", receipt=receipt, stores="http s3") == "replace unknown"
    seen = SeenVersion(size=7, etag='"all"', modified=float(SECONDS))
    assert seen.is_version(was, "s3")
    assert not seen.is_version(now, "s3")


@pytest.mark.parametrize(
    ("dates", "mtimes", "expected"),
    [
        ((EARLY, LATE), (None, None), "skip date"),
        ((LATE, EARLY), (None, None), "replace date"),
        ((EARLY, EARLY), (None, None), "skip date"),
        ((EARLY, EARLY), ("9.5", "5.5"), "replace time"),
        ((EARLY, LATE), ("9.5", "5.5"), "skip date"),
        ((None, LATE), (None, None), "replace unknown"),
    ],
)
def test_the_comparison_without_the_option(
    dates: tuple[str | None, str | None], mtimes: tuple[str | None, str | None], expected: str
) -> None:
    """As it always was: an object of the same size that is not older is unchanged."""
    ours, theirs = (Version(7, None, date) for date in dates)
    assert verdict(ours, theirs, None, mtimes=mtimes) == expected


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (MD5, MD5, True),
        (MD5, MD5.strip('"'), True),
        (MD5, OTHER_MD5, False),
        ('"0123456789abcdef0123456789abcdef-3"', '"0123456789abcdef0123456789abcdef-3"', False),
        ('"d41d8cd98f00b204e9800998ecf8427e"', '"d41d8cd98f00b204e9800998ecf8427e"', False),
        (f'"{"0" * 32}"', f'"{"0" * 32}"', False),
        (None, None, False),
    ],
)
def test_only_md5s_of_whole_objects_count(ours: str | None, theirs: str | None, same: bool) -> None:
    """That of an object in parts depends on their size, and some servers show one for all."""
    assert has_one_md5(ours, theirs) == same


def test_a_comparison_that_compares_nothing_is_refused() -> None:
    assert existing_of(None, None) is None
    assert existing_of(None, Compare.AUTO) is IfExists.CHANGED
    assert existing_of(IfExists.CHANGED, Compare.SIZE) is IfExists.CHANGED
    for exists in (IfExists.SKIP, IfExists.FAIL, IfExists.OVERWRITE):
        assert existing_of(exists, None) is exists
        with pytest.raises(InvalidType, match="compares none"):
            existing_of(exists, Compare.ALWAYS)


def request(**members: object) -> dict[str, object]:
    return {"source": "http://a.example/x", "destination": "http://b.example/y", **members}


def test_a_request_may_choose_how_to_compare() -> None:
    """It chooses `changed`, also for one object, and is a part of the migration's options."""
    order = parse_order(request(compare="digest"))
    assert (order.compare, order.existing) == (Compare.DIGEST, IfExists.CHANGED)
    assert order.options["compare"] == "digest"
    assert request_of_options(order.options, order.source, order.destination) == order
    assert "compare" not in parse_order(request()).options
    for wrong in (request(compare="size", if_exists="skip"), request(compare="guess")):
        with pytest.raises(InvalidType) as caught:
            parse_order(wrong)
        assert caught.value.pointer == "/compare"


def test_an_object_that_was_there_before_is_never_ours() -> None:
    assert is_by_other(Version(-1), Version(None))
    assert is_by_other(Version(-1), Version(5))
    assert not is_by_other(Version(5), Version(None))
