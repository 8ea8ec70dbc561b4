"""List one flat bucket by several cursors: ranges of its keys are requested concurrently, and their
pages yielded in the order of the keys.

Theory of operation. The first range begins where the listing is. While fewer ranges than cursors
exist, the first one that still has many pages is divided: its end becomes an estimated key, and the
next range starts after that key (`start-after`). A range holds at most HELD pages, so a listing
that is used slowly takes little memory.

A server may misunderstand `start-after`, or have another order of keys, and then keys would be
missing. So each seam is proved before a page behind it is yielded: the next key that the range
before it was shown must be the first one that the range behind it was shown. If they differ,
perhaps since the bucket was changed, the range before continues without an end, and the others are
dropped. So the yielded keys are those that one cursor would have been shown.

A page that does not lead to the next one (no token, too many empty pages, keys in another order) is
not the end of the listing: one cursor continues from it.

Decided here: when a range is divided, and which pages are believed. Never here: where
(`key_ranges.py`), and what a page is (`listed_pages.py`)."""

from __future__ import annotations

from base64 import b64decode
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import gevent
from gevent.event import Event

from relay.stores.s3.key_ranges import KeySpace, Span
from relay.stores.s3.listed_pages import ListedPage, bytes_of, text_of

CURSORS: Final = 12
"""Maximum number of ranges, and of concurrent requests."""
RANGE_PAGES: Final = 4
"""Estimated number of pages of a new range."""
HELD: Final = RANGE_PAGES + 2
"""Maximum number of pages that a range holds."""
EMPTY_PAGES: Final = 100
"""Maximum number of empty pages of a range in a row; then one cursor continues, and counts them."""
END: Final = b""
"""In place of a key: the listing has ended."""

Fetch = Callable[[str | None, str | None], ListedPage]
"""Requests a page: the first one after a key, or the one of a continuation token."""


@dataclass(eq=False, kw_only=True)
class _Range:
    """A range of keys: those after `low`, up to `high`."""

    low: str
    high: str | None = None
    """The last key that it may have; None for the end of the listing."""
    newest: ListedPage | None = None
    """Its newest page, as it came; the first range begins with the page before it."""
    guess: ListedPage | None = None
    """The page after its estimated beginning; None for the first range."""
    pages: deque[ListedPage] = field(default_factory=deque)
    """Pages that were fetched and not yielded."""
    first: bytes | None = None
    """The first key that it was shown, perhaps beyond `high`; END if it was shown none. None if
    that is not known yet."""
    next: bytes | None = None
    """The first key beyond `high` that it was shown; END if the listing has ended. None while the
    range is not complete."""
    rest: ListedPage | None = None
    """The part of its last page that is beyond `high`."""
    last: ListedPage | None = None
    """Its newest page with keys."""
    opening: bytes | None = None
    """The first key that it has, ..."""
    filled: int = 0
    """... and the number of its pages with keys."""
    error: Exception | None = None
    is_unclear: bool = False
    """Only one cursor can say what follows its newest page."""
    empty: int = 0
    """Number of its newest pages that are empty."""
    job: gevent.Greenlet[..., None] | None = None
    fetched: int = 0
    """Number of its pages so far, ..."""
    undivided: int = 0
    """... and since it was divided."""

    @property
    def is_at_end(self) -> bool:
        """Return whether no further page of it is requested."""
        return self.next is not None or self.error is not None or self.is_unclear

    def add(self, page: ListedPage) -> None:
        """Add a page that has keys."""
        self.pages.append(page)
        self.note(page)

    def note(self, page: ListedPage) -> None:
        """Note a page that has keys as its newest one."""
        self.last, self.opening, self.filled = page, self.opening or page.first, self.filled + 1

    def last_key(self) -> bytes:
        """Return the last key that it was shown, or `low` before the first one."""
        if self.last is not None and self.last.last is not None:
            return self.last.last
        return bytes_of(self.low)


class ParallelListing:
    """The pages of a listing after a first page. Call `start`, then `pages` once."""

    def __init__(self, fetch: Fetch, page: ListedPage, cursors: int = CURSORS) -> None:
        """`page` is the first page; it has keys, and the token of the next one."""
        assert page.last is not None and page.token is not None, "it is not the last page"
        self._fetch, self._cursors = fetch, cursors
        self._space = KeySpace()
        self._space.learn(page.keys)
        self._width = 2
        """Maximum number of ranges now: doubled by each range that has a second page, and halved by
        each that is empty."""
        self._note_order(page)
        head = _Range(low=text_of(page.last), newest=page, undivided=1)
        head.note(page)
        self._ranges = deque([head])
        self._changed = Event()
        self._is_single = False

    def start(self) -> None:
        """Send the first requests."""
        self._advance()
        # Let the requests go out before the caller uses the page that it has.
        gevent.sleep(0)

    def stop(self) -> None:
        """Cancel the requests that still run."""
        self._stop(self._ranges)

    def pages(self) -> Generator[ListedPage, None, ListedPage | None]:
        """Yield the pages in the order of the keys. Return None at the end of the listing, or the
        last page, if one cursor must continue after it, as after a range whose first page
        failed: the server may refuse `start-after`. Raises the other errors of `fetch`, once every
        page before the failed one was yielded."""
        while True:
            head = self._ranges[0]
            self._advance()
            if head.pages:
                self._note_order(head.pages[0])
                yield head.pages.popleft()
            elif head.error is not None:
                raise head.error
            elif self._is_single or head.is_unclear:
                return _page_to_continue(head)
            elif head.next is None:
                self._wait()
            elif len(self._ranges) == 1:
                return None
            else:
                self._pass_seam(head, self._ranges[1])

    def _note_order(self, page: ListedPage) -> None:
        if page.first is not None and page.last is not None:
            self._space.note_page(text_of(page.first), text_of(page.last))

    def _wait(self) -> None:
        self._changed.wait()
        self._changed.clear()

    # -- ranges

    def _advance(self) -> None:
        """Divide ranges while there are too few, and fetch the pages that there is room for."""
        if self._is_single:
            return
        while len(self._ranges) < self._width and self._divide_first():
            pass
        self._rebalance()
        for one in self._ranges:
            if one.job is None and not one.is_at_end and len(one.pages) < HELD:
                one.job = gevent.spawn(self._run, one)

    def _divide_first(self) -> bool:
        """Divide the first range that has many pages left. Return False if there is none."""
        return any(self._divide(index) for index in range(len(self._ranges)))

    def _divide(self, index: int) -> bool:
        """Divide a range, unless it has few pages left or nothing is known of it since it was
        divided. Return whether it was divided."""
        one = self._ranges[index]
        marks = self._marks(one)
        if not marks:
            return False
        ends = [*marks[1:], one.high]
        # The range keeps the keys up to the first mark; a new one begins after each mark.
        one.high, one.undivided = marks[0], 0
        for mark, end in zip(reversed(marks), reversed(ends), strict=True):
            self._ranges.insert(index + 1, _Range(low=mark, high=end))
        return True

    def _marks(self, one: _Range) -> list[str]:
        """Return the keys at which a range may be divided now, in ascending order."""
        page = one.last
        if one.is_at_end or not one.undivided or page is None or page.last is None:
            return []
        newest = Span(first=text_of(page.first or page.last), last=text_of(page.last))
        first = text_of(one.opening or page.last)
        pages = Span(first=first, last=newest.last, pages=max(1, one.filled))
        if self._space.pages_between(newest, pages, one.high) <= RANGE_PAGES + 1:
            return []
        count = max(1, self._width - len(self._ranges))
        found, before = [], page.last
        for mark in self._space.ahead(newest, pages, RANGE_PAGES, count):
            key = bytes_of(mark)
            if key > before and (one.high is None or key < bytes_of(one.high)):
                found.append(mark)
                before = key
        return found

    def _rebalance(self) -> None:
        """Divide the first range although there are enough, if it alone still has pages: its
        estimate was wrong. The last two ranges are joined and fetched again."""
        ranges = self._ranges
        if len(ranges) < max(3, self._width) or ranges[0].fetched <= 2 * RANGE_PAGES:
            return
        others = list(ranges)[1:]
        if any(not one.is_at_end and len(one.pages) < HELD for one in others):
            return
        if self._divide(0):
            self._stop([ranges[-2], ranges[-1]])
            high, low = ranges.pop().high, ranges.pop().low
            ranges.append(_Range(low=low, high=high))

    def _pass_seam(self, head: _Range, following: _Range) -> None:
        """Go to the next range, if its first key is the one that the first range was shown beyond
        its end. Else let the first range continue alone."""
        if following.first is None and not following.is_at_end:
            return self._wait()
        if following.first == head.next:
            self._ranges.popleft()
            if head.last is None:
                self._width = max(2, self._width // 2)
            return None
        self._stop(self._ranges)
        self._ranges = deque([head])
        self._is_single = True
        if head.rest is not None:
            head.pages.append(head.rest)
        return None

    @staticmethod
    def _stop(ranges: Iterable[_Range]) -> None:
        jobs = [one.job for one in ranges if one.job is not None]
        gevent.killall(jobs)

    # -- pages

    def _run(self, one: _Range) -> None:
        """Fetch pages of a range until it is complete or has no room."""
        try:
            while not one.is_at_end and len(one.pages) < HELD:
                if one.newest is None:
                    one.guess = self._fetch(one.low, None)
                    self._add(one, one.guess)
                elif one.newest is one.guess and may_skip_a_key(one.guess.token):
                    self._add_after_guess(one, one.guess)
                else:
                    self._add(one, self._fetch(None, one.newest.token))
        except Exception as error:  # noqa: BLE001 - raised again by `pages`
            one.error = error
        finally:
            one.job = None
            self._changed.set()

    def _add_after_guess(self, one: _Range, guess: ListedPage) -> None:
        """Add the second page of a range by a key, not by the first one's token. It starts after
        the last key but one, and so must begin with the last one again."""
        if len(guess.keys) < 2:
            one.is_unclear = True
            return
        page = self._fetch(guess.keys[-2], None)
        if page.first == guess.last:
            self._add(one, replace(page, keys=page.keys[1:], rows=page.rows[1:]))
        else:
            one.is_unclear = True

    def _add(self, one: _Range, page: ListedPage) -> None:
        """Add a page to a range, up to the range's end."""
        one.newest, one.fetched, one.undivided = page, one.fetched + 1, one.undivided + 1
        one.empty = 0 if page.keys else one.empty + 1
        if one.first is None:
            one.first = page.first or (END if page.is_last else None)
        if page.first is not None and not (page.ascending and page.first > one.last_key()):
            # The server showed this page in its place, so it is yielded; only what follows is
            # unclear.
            one.is_unclear = True
            one.pages.append(page)
            return
        inside, beyond = _cut(page, one.high)
        if one.fetched == 2:
            self._width = min(2 * self._width, self._cursors)
        if inside.keys:
            one.add(inside)
            self._space.learn(inside.keys)
        if beyond is not None:
            one.rest, one.next = beyond, beyond.first
        elif page.is_last:
            one.next = END
        else:
            one.is_unclear = page.token is None or one.empty > EMPTY_PAGES
        self._changed.set()


def _page_to_continue(head: _Range) -> ListedPage | None:
    """Return the page after which one cursor continues, if any: by its last key, if its token may
    skip one."""
    page = head.newest
    if page is None or page.is_last:
        return None
    if page is head.guess and page.keys and may_skip_a_key(page.token):
        return replace(page, token=None, after=page.keys[-1])
    return page


def may_skip_a_key(token: str | None) -> bool:
    """Return whether the token of a page after the key of `start-after` is one of MinIO's: some of
    its releases skip a key there if no object has that key (minio/minio#21463)."""
    try:
        return b"[minio_cache:" in b64decode(token or "")
    except ValueError:
        return False


def _cut(page: ListedPage, high: str | None) -> tuple[ListedPage, ListedPage | None]:
    """Return the parts of a page up to `high`, and beyond it if it has any."""
    if high is None or page.last is None or page.last <= bytes_of(high):
        return page, None
    count = bisect_right(page.keys, bytes_of(high), key=bytes_of)
    inside = replace(page, keys=page.keys[:count], rows=page.rows[:count])
    return inside, replace(page, keys=page.keys[count:], rows=page.rows[count:])
