"""A bucket that is listed by several cursors has the keys that one cursor finds, for any keys, and
under each reading of `start-after`."""

from __future__ import annotations

import random
from base64 import b64decode, b64encode
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import cast

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import ProtocolViolation, StoreTimeout
from relay.location import Location
from relay.stores.listing_retries import ListingRetries
from relay.stores.s3 import listing
from relay.stores.s3.account import S3Account
from relay.stores.s3.key_ranges import CHARACTERS, KeySpace, Span
from relay.stores.s3.listed_pages import ListedPage, ListedRow, bytes_of, text_of
from relay.stores.s3.listing import S3Listing
from relay.stores.s3.parallel_listing import CURSORS, HELD, ParallelListing
from relay.stores.s3.sigv4 import Signer
from relay.transfer_limits import Limits
from relay.wire.watchdog import Watchdog

KEY = st.one_of(
    st.text(min_size=1, max_size=6),
    st.text("ab/", min_size=1, max_size=6),
    st.text("0123456789", min_size=1, max_size=6),
    st.binary(min_size=1, max_size=4).map(text_of),
    st.integers(0, 2000).map(lambda number: f"photos/IMG_{number:06}.jpg"),
    st.integers(0, 2000).map(lambda number: f"2024//{number}\x01"),
)


def is_key(text: str) -> bool:
    return text_of(bytes_of(text)) == text


KEYS = st.sets(KEY.filter(is_key), min_size=2, max_size=120)


@dataclass
class Bucket:
    """The pages of a bucket. `starts` returns the index at which a listing after a key begins."""

    keys: list[bytes]
    size: int = 3
    starts: Callable[[list[bytes], bytes], int] = bisect_right
    latency: Callable[[], None] = lambda: gevent.sleep(0)
    changes: Callable[[], None] = lambda: None
    requests: int = 0
    running: int = 0
    most: int = 0
    lows: list[str] = field(default_factory=list)

    def fetch(self, after: str | None, token: str | None) -> ListedPage:
        self.requests += 1
        self.running += 1
        self.most = max(self.most, self.running)
        self.latency()
        self.running -= 1
        self.changes()
        if token is not None:
            begin = bisect_right(self.keys, bytes.fromhex(token))
        else:
            assert after is not None
            self.lows.append(after)
            begin = self.starts(self.keys, bytes_of(after))
        return self.page(begin)

    def page(self, begin: int) -> ListedPage:
        keys = self.keys[begin : begin + self.size]
        more = begin + self.size < len(self.keys)
        return ListedPage(
            keys=tuple(map(text_of, keys)),
            rows=tuple(ListedRow(text_of(key), "1", "", "") for key in keys),
            truncated=more,
            token=keys[-1].hex() if more else None,
            after=None,
        )


def list_keys(bucket: Bucket, found: list[bytes] | None = None) -> list[bytes]:
    """Return the listed keys, by several cursors and, if these give up, by one. An error leaves
    those before it in `found`."""
    page = bucket.page(0)
    found = found if found is not None else []
    found += [bytes_of(key) for key in page.keys]
    if page.token is None:
        return found
    several = ParallelListing(bucket.fetch, page)
    several.start()
    pages = several.pages()
    try:
        while True:
            found += [bytes_of(key) for key in next(pages).keys]
            held = sum(len(one.pages) for one in several._ranges)
            assert held <= CURSORS * HELD
    except StopIteration as end:
        last = end.value
    several.stop()
    assert not any(one.job for one in several._ranges)
    while last is not None and (last.token or last.after):
        last = bucket.fetch(None if last.token else last.after, last.token)
        found += [bytes_of(key) for key in last.keys]
    return found


def sorted_keys(keys: set[str]) -> list[bytes]:
    return sorted(bytes_of(key) for key in keys)


@given(KEYS, st.integers(1, 7), st.integers(0, 1 << 30))
def test_several_cursors_find_the_keys_of_one(keys: set[str], size: int, seed: int) -> None:
    dice = random.Random(seed)

    def latency() -> None:
        for _ in range(dice.randrange(4)):
            gevent.sleep(0)

    bucket = Bucket(sorted_keys(keys), size, latency=latency)
    assert list_keys(bucket) == bucket.keys


def ignores(keys: list[bytes], after: bytes) -> int:
    """`start-after` is ignored."""
    return 0


def knows_keys_only(keys: list[bytes], after: bytes) -> int:
    """A key that does not exist ends the listing."""
    return bisect_right(keys, after) if after in keys else len(keys)


def skips_folders(keys: list[bytes], after: bytes) -> int:
    """All keys that begin with the key are skipped, as if it were a folder."""
    begin = bisect_right(keys, after)
    while begin < len(keys) and keys[begin].startswith(after):
        begin += 1
    return begin


def includes(keys: list[bytes], after: bytes) -> int:
    """The listing begins one key too early."""
    return max(0, bisect_right(keys, after) - 1)


@given(
    KEYS,
    st.integers(1, 7),
    st.sampled_from([ignores, knows_keys_only, skips_folders, includes]),
)
def test_a_misunderstood_start_after_loses_no_key(
    keys: set[str], size: int, starts: Callable[[list[bytes], bytes], int]
) -> None:
    bucket = Bucket(sorted_keys(keys), size, starts)
    assert list_keys(bucket) == bucket.keys


class Skipping(Bucket):
    """The token of a page after a key that does not exist skips a key, as in some releases of
    MinIO."""

    def fetch(self, after: str | None, token: str | None) -> ListedPage:
        before = None if token is None else b64decode(token).partition(b"[")[0].decode()
        page = super().fetch(after, before)
        if page.token is None or page.last is None or after is None:
            return page
        if bytes_of(after) in self.keys:
            return page
        return replace(page, token=_token(self.keys[self.keys.index(page.last) + 1]))

    def page(self, begin: int) -> ListedPage:
        page = super().page(begin)
        return page if page.token is None else replace(page, token=_token(page.last or b""))


def _token(key: bytes) -> str:
    return b64encode(f"{key.hex()}[minio_cache:v2,return:]".encode()).decode()


@given(KEYS, st.integers(2, 7))
def test_a_token_after_an_estimated_key_loses_no_key(keys: set[str], size: int) -> None:
    bucket = Skipping(sorted_keys(keys), size)
    assert list_keys(bucket) == bucket.keys


@given(KEYS, st.integers(2, 7), st.integers(0, 1 << 30), st.sampled_from([Bucket, Skipping]))
def test_a_bucket_that_is_changed_loses_no_old_key(
    keys: set[str], size: int, seed: int, kind: type[Bucket]
) -> None:
    dice, old = random.Random(seed), sorted_keys(keys)
    bucket = kind(list(old), size)
    added: list[bytes] = []

    def changes() -> None:
        """Add a key, or delete an added one; not where a token may skip a key, see docs/proof.md."""
        if added and kind is Bucket and dice.random() < 0.4:
            bucket.keys.remove(added.pop())
        elif dice.random() < 0.5:
            key = dice.choice(old) + b"+%d" % dice.randrange(1000)
            if key not in bucket.keys:
                added.append(key)
                bucket.keys = sorted([*bucket.keys, key])

    bucket.changes = changes
    found = list_keys(bucket)
    assert set(old) <= set(found)
    assert len(found) == len(set(found))


@given(KEYS, st.integers(2, 7), st.integers(0, 1 << 30))
def test_a_refused_estimate_loses_no_key_behind_a_token(
    keys: set[str], size: int, seed: int
) -> None:
    """One cursor continues after the last key that was shown, not by a token that skips one."""
    dice, bucket = random.Random(seed), Skipping(sorted_keys(keys), size)
    fetch = bucket.fetch

    def refuse_some(after: str | None, token: str | None) -> ListedPage:
        if after is not None and bytes_of(after) not in bucket.keys and dice.random() < 0.3:
            raise StoreTimeout("no answer", side="source")
        return fetch(after, token)

    bucket.fetch = refuse_some  # type: ignore[method-assign]
    found: list[bytes] = []
    with suppress(StoreTimeout):
        list_keys(bucket, found)
        assert found == bucket.keys
    assert found == bucket.keys[: len(found)]


@given(KEYS, st.integers(2, 7), st.integers(0, 1 << 30))
def test_another_order_of_keys_loses_no_key(keys: set[str], size: int, seed: int) -> None:
    """The tokens of such a server lead through all of its keys."""
    shuffled = sorted_keys(keys)
    random.Random(seed).shuffle(shuffled)
    bucket = Bucket(shuffled, size)
    places = {key: index for index, key in enumerate(shuffled)}
    fetch = bucket.fetch

    def by_place(after: str | None, token: str | None) -> ListedPage:
        if token is None:
            return fetch(after, token)
        bucket.latency()
        return bucket.page(places[bytes.fromhex(token)] + 1)

    bucket.fetch = by_place  # type: ignore[method-assign]
    bucket.starts = lambda keys, after: next(
        (index for index, key in enumerate(keys) if key > after), len(keys)
    )
    assert set(list_keys(bucket)) == set(shuffled)


SHAPES = {
    "counted": [f"photos/IMG_{number:07}.jpg" for number in range(60_000)],
    "not padded": [f"img-{number}.jpg" for number in range(60_000)],
    "hashed": [f"{random.Random(number).getrandbits(64):016x}" for number in range(60_000)],
    "days": [
        f"logs/{2000 + day // 336}/{day // 28 % 12 + 1:02}/{day % 28 + 1:02}/{hour:02}.gz"
        for day in range(2500)
        for hour in range(24)
    ],
    "a folder a page": [
        f"photos/{number // 1000:06}/IMG_{number % 1000:04} & more.jpg" for number in range(60_000)
    ],
    "three folders a page": [
        f"photos/{number // 300:06}/IMG_{number % 300:04}.jpg" for number in range(60_000)
    ],
    "a few folders": [f"{name}/{number:05}" for name in "abcxyz" for number in range(10_000)],
}


ROUNDS = {"not padded": 0.45, "days": 0.45, "a few folders": 0.55}
"""Maximum number of rounds of requests for a page; 0.25 for the other shapes."""


@pytest.mark.parametrize("shape", SHAPES)
def test_the_requests_are_concurrent_and_few(shape: str) -> None:
    """A round of requests takes one unit of time, as if all pages were equally slow."""
    clock = 0.0
    waiting: list[gevent.event.Event] = []

    def latency() -> None:
        done = gevent.event.Event()
        waiting.append(done)
        done.wait()

    bucket = Bucket(sorted_keys(set(SHAPES[shape])), 1000, latency=latency)

    def turn() -> None:
        nonlocal clock
        while True:
            for _ in range(50):  # until every greenlet waits for a request
                gevent.sleep(0)
            clock += 1
            some, waiting[:] = list(waiting), []
            for one in some:
                one.set()

    ticking = gevent.spawn(turn)
    try:
        assert list_keys(bucket) == bucket.keys
    finally:
        ticking.kill()
    pages = len(bucket.keys) / 1000
    assert bucket.requests <= 2 * pages
    assert clock <= pages * ROUNDS.get(shape, 0.25)


def test_an_error_follows_the_pages_before_it() -> None:
    bucket = Bucket(sorted_keys({f"{number:05}" for number in range(1000)}), 10)
    fetch = bucket.fetch

    def failing(after: str | None, token: str | None) -> ListedPage:
        page = fetch(after, token)
        if page.last is not None and page.last >= b"00500":
            raise StoreTimeout("no answer", side="source")
        return page

    bucket.fetch = failing  # type: ignore[method-assign]
    found: list[bytes] = []
    with pytest.raises(StoreTimeout):
        list_keys(bucket, found)
    assert found == bucket.keys[: len(found)]
    assert 450 <= len(found) <= 500


@given(KEYS)
def test_an_estimate_is_ahead_and_ascends(keys: set[str]) -> None:
    space, some = KeySpace(), sorted(keys)
    space.learn(some)
    page = Span(first=some[0], last=some[-1])
    marks = space.ahead(page, page, 2, 5)
    assert all(one < other for one, other in pairwise([some[-1], *marks]))
    assert space.pages_between(page, page, None) == float("inf")
    assert space.pages_between(page, page, some[-1]) == 0


def test_a_page_of_odd_keys_is_learned_in_bounded_space() -> None:
    dice, space = random.Random(1), KeySpace()
    space.learn(
        ["".join(chr(0x30 + dice.randrange(20_000)) for _ in range(64)) for _ in range(999)]
    )
    assert max(map(len, space._characters)) <= 2 * CHARACTERS


class Client:
    """The part of an S3Client that a listing needs when its pages are a Bucket's."""

    side = "source"

    def for_concurrent_use(self) -> Client:
        return self


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return a function that lists a bucket as a store does, its pages all being slow, and that
    calls `decoded` before each page is decoded."""

    def names(
        bucket: Bucket,
        slow_seconds: float = 0.0,
        decoded: Callable[[], None] = lambda: None,
        after: str | None = None,
    ) -> list[str]:
        def document(_: S3Listing, __: Location, asked: dict[str, str]) -> ListedPage:
            token = asked.get("continuation-token")
            if token is None and not asked.keys() & {"start-after", "marker"}:
                return bucket.page(0)
            place = None if token else asked.get("start-after", asked.get("marker"))
            return bucket.fetch(place, token)

        def decode(_: S3Listing, page: ListedPage, *__: object) -> ListedPage:
            decoded()
            return page

        monkeypatch.setattr(S3Listing, "_document", document)
        monkeypatch.setattr(S3Listing, "_decode", decode)
        monkeypatch.setattr(listing, "SLOW_SECONDS", slow_seconds)
        monkeypatch.setattr(listing, "PAGE", bucket.size)
        found = S3Listing(Client())  # type: ignore[arg-type]
        account = S3Account("bucket", "/bucket", cast(Signer, None))
        location = Location("https", "s3.example.com", 443, "/bucket/", account=account)
        with gevent.Timeout(60):
            return [entry.name for entry in found.entries(location, True, after)]

    return names


def change_beyond(bucket: Bucket, key: bytes, change: Callable[[ListedPage], ListedPage]) -> None:
    """Let the bucket change its pages beyond a key."""
    fetch = bucket.fetch

    def fetch_changed(after: str | None, token: str | None) -> ListedPage:
        page = fetch(after, token)
        return change(page) if page.last is None or page.last > key else page

    bucket.fetch = fetch_changed  # type: ignore[method-assign]


@pytest.mark.parametrize("truncated", [True, None])
def test_a_page_without_a_token_is_not_the_last_one(
    entries: Callable[..., list[str]], truncated: bool | None
) -> None:
    bucket = Bucket(sorted_keys({f"{number:05}" for number in range(300)}), 10)

    def without_token(page: ListedPage) -> ListedPage:
        if not page.keys and truncated is None:
            return replace(page, token=None, truncated=None)
        if page.truncated is False:
            return page
        assert page.last is not None
        return replace(page, token=None, truncated=truncated, after=text_of(page.last))

    change_beyond(bucket, b"00150", without_token)
    assert entries(bucket) == [text_of(key) for key in bucket.keys]


@pytest.mark.parametrize("slow_seconds", [0.0, 60.0])
def test_a_resume_after_a_deleted_key_loses_no_key(
    entries: Callable[..., list[str]], slow_seconds: float
) -> None:
    bucket = Skipping(sorted_keys({f"{number:05}" for number in range(300)}), 10)
    names = entries(bucket, slow_seconds, after="00099-deleted")
    assert names == [f"{number:05}" for number in range(100, 300)]


def test_empty_pages_without_an_end_are_an_error(
    entries: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "BARREN", 300)
    bucket = Bucket(sorted_keys({f"{number:05}" for number in range(300)}), 10)

    def empty(page: ListedPage) -> ListedPage:
        number = bucket.requests
        return replace(page, keys=(), rows=(), token=f"{number:08x}ff")

    change_beyond(bucket, b"00150", empty)
    with pytest.raises(ProtocolViolation):
        entries(bucket)


def test_a_bug_in_a_request_ends_the_listing(entries: Callable[..., list[str]]) -> None:
    bucket = Bucket(sorted_keys({f"{number:05}" for number in range(300)}), 10)

    def broken(page: ListedPage) -> ListedPage:
        raise ZeroDivisionError

    change_beyond(bucket, b"00150", broken)
    with pytest.raises(ZeroDivisionError):
        entries(bucket)
    assert bucket.requests < 100


def test_a_page_is_decoded_after_the_next_one_is_requested(
    entries: Callable[..., list[str]],
) -> None:
    """The server works on the next page while relay decodes this one."""
    bucket = Bucket(sorted_keys({f"{number:05}" for number in range(30)}), 10)
    requested: list[int] = []
    names = entries(bucket, 60.0, lambda: requested.append(bucket.requests))
    assert names == [text_of(key) for key in bucket.keys]
    assert requested == [1, 2, 2]


def test_a_retry_of_one_cursor_is_a_retry_of_the_listing() -> None:
    whole = Watchdog(Limits())
    one, other = Watchdog(Limits(), whole=whole), Watchdog(Limits(), whole=whole)
    borne: list[object] = []
    answers = [StoreTimeout("no answer", side="source"), None]

    def once() -> None:
        error = answers.pop(0)
        if error is not None:
            raise error

    def sleep(_: float) -> None:
        other.bear(None)
        borne.append(whole.borne and whole.borne[0].message)
        clock[0] += 100

    clock = [0.0]
    one.clock = lambda: clock[0]
    answers.insert(0, StoreTimeout("no answer", side="source"))
    ListingRetries(1000, one, lambda: 1.0, sleep).retry(once)
    assert set(borne) == {"no answer"}
    assert whole.borne is None
