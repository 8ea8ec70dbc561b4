"""List a bucket page by page; a page is believed only if it is complete.

Theory of operation. A page is read to its end before its entries are yielded, since S3 has pages of
a thousand. The next page is requested while the entries of one are used. After a crash, a listing
can be resumed after a key, if the keys come in the order of their bytes.

Decided here: how pages follow each other. Never here: what a page says (`listed_pages.py`), when it
is requested again (`listing_retries.py`)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from time import monotonic, thread_time
from typing import Final, cast

import gevent

from relay.errors import ProtocolViolation, Rejected, RelayError, Side
from relay.location import Location
from relay.stores.interfaces import Entry
from relay.stores.s3.account import at_bucket, in_query, key_of
from relay.stores.s3.client import S3Client
from relay.stores.s3.listed_pages import ListedPage, PageDocument, read_document
from relay.stores.s3.parallel_listing import ParallelListing, may_skip_a_key
from relay.stores.s3.quirks import LISTS_LATER, PLAIN_KEYS

PAGE: Final = 1000
"""Default number of objects on a page (docs.aws.amazon.com, "ListObjectsV2")."""
BARREN: Final = 10_000
"""Maximum number of empty pages in a row: a page that skips a thousand deleted objects is empty."""
SLOW_SECONDS: Final = 0.05
"""Time that a page is waited for, from which several cursors list the rest: less than the parsing
of a page and the ledger take together."""
TRIES: Final = 3
"""How often one listing is divided: a bucket that is changed all the time is listed by one
cursor."""
CONTINUATION: Final = frozenset({"start-after", "continuation-token"})
MARKERS: Final = ("continuation-token", "marker", "start-after")
"""Parameters that say where a page begins; the first one counts."""
TOKENS: Final = frozenset({"list-type", "start-after", "continuation-token"})
"""Parameters that only ListObjectsV2 has (docs.aws.amazon.com, "ListObjectsV2"); ListObjects uses
`marker` instead."""
SWIFT: Final = "x-openstack-request-id"
"""Field of every answer of OpenStack Swift."""


class S3Listing:
    """The listing of a bucket."""

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self._seconds = 0.0
        """Time that the last page was waited for, from the request to its last byte."""

    def entries(
        self, location: Location, recursive: bool = False, after: str | None = None
    ) -> Iterator[Entry]:
        """As Source.list, by ListObjectsV2, with a thousand keys on a page in the order of their
        bytes; by ListObjects if a server has no continuation tokens.

        Entries have resume tokens (`after`) only as long as the keys come in that order. Some
        servers have another order: a listing that resumed there would omit keys."""
        prefix = key_of(location)
        prefix += "/" if prefix and not prefix.endswith("/") else ""
        asked = {"encoding-type": "url", "list-type": "2", "prefix": prefix}
        if not recursive:
            asked["delimiter"] = "/"
        if after:
            asked["start-after"] = prefix + after
        ordered, last = True, b""
        for page in self._pages(location, asked, prefix):
            ordered = ordered and page.ascending and (page.first is None or page.first > last)
            last = page.last or last
            yield from (
                page.entries if ordered else (replace(entry, after="") for entry in page.entries)
            )

    def _pages(
        self, location: Location, asked: dict[str, str], prefix: str
    ) -> Iterator[ListedPage]:
        """Yield the pages; the next one is requested while one is decoded and used. Raises
        ProtocolViolation for an endless listing.

        On each page S3 says if there are more. If a page does not say, the next one is requested
        all the same. The page was the last one if the next is empty, or if the next is the same and
        shorter than a full page: then the server does not support pages."""
        history = _PageHistory(location, self._client.side)
        ahead = _Ahead(partial(self._first_document, location, dict(asked)))
        tries, is_first = TRIES, True
        try:
            while True:
                document = ahead.result()
                # A fast server gets the next request now, and works while this page is decoded and
                # used. For a slow one, the decoded page decides first whether several cursors are
                # worth it.
                is_slow = self._seconds >= SLOW_SECONDS
                # The listing may be resumed after a key that was deleted meanwhile.
                is_doubtful = is_first and "start-after" in asked and may_skip_a_key(document.token)
                is_first = False
                token = None if is_slow or is_doubtful else document.token
                if token:
                    following = _next_page_query(asked, token)
                    ahead = _Ahead(partial(self._document, location, following))
                page = self._decode(document, location, prefix)
                if history.is_repetition(page):
                    return
                if page.is_last:
                    yield page
                    return
                if is_doubtful and page.keys:
                    asked = {**asked, "start-after": page.keys[-1]}
                else:
                    asked = _next_page_query(asked, page.token, page.after)
                history.check(page, asked)
                if token:
                    yield page
                    continue
                if tries and page.token and not is_doubtful and _is_worth_dividing(page, asked):
                    tries -= 1
                    # The cursors yield `page` themselves, once their first requests are on the way.
                    last = yield from self._pages_in_parallel(location, asked, prefix, page)
                    if last is None:
                        return
                    asked = _next_page_query(asked, last.token, last.after)
                    history.check(last, asked)
                    ahead = _Ahead(partial(self._document, location, dict(asked)))
                    continue
                ahead = _Ahead(partial(self._document, location, dict(asked)))
                yield page
        finally:
            ahead.stop()

    def _pages_in_parallel(
        self, location: Location, asked: Mapping[str, str], prefix: str, page: ListedPage
    ) -> Generator[ListedPage, None, ListedPage | None]:
        """Yield `page`, and those after it by several cursors. Return as
        `ParallelListing.pages`."""
        plain = {name: value for name, value in asked.items() if name not in CONTINUATION}

        def fetch(after: str | None, token: str | None) -> ListedPage:
            place = {"continuation-token": token} if token else {"start-after": after or ""}
            client = self._client.for_concurrent_use()
            return S3Listing(client).page(location, {**plain, **place}, prefix)

        listing = ParallelListing(fetch, page)
        try:
            listing.start()
            yield page
            return (yield from listing.pages())
        finally:
            listing.stop()

    def _first_document(self, location: Location, asked: Mapping[str, str]) -> PageDocument:
        """Return the first page; by ListObjects if the server does not support ListObjectsV2."""
        try:
            return self._document(location, asked)
        except Rejected as error:
            if error.store_status not in (400, 405, 501):
                raise
            older = {name: value for name, value in asked.items() if name not in TOKENS}
            try:
                return self._document(location, older)
            except RelayError:
                # The first refusal is about the request that most servers support.
                raise error from None

    def page(self, location: Location, asked: Mapping[str, str], prefix: str) -> ListedPage:
        """Return one page, with retries. Raises as `document_rows`, `read_document` and
        `PageDocument.decode`."""
        return self._decode(self._document(location, asked), location, prefix)

    def _document(self, location: Location, asked: Mapping[str, str]) -> PageDocument:
        """Return one page, not decoded, with retries."""
        retries = self._client.http.listing_retries()
        return retries.retry(partial(self._fetch_document, location, asked))

    def _fetch_document(self, location: Location, asked: Mapping[str, str]) -> PageDocument:
        """Request one page, once."""
        client = self._client
        query = "&".join(f"{name}={in_query(asked[name])}" for name in sorted(asked))
        began, used = monotonic(), thread_time()
        response = client.send("GET", at_bucket(location, query), ())
        if SWIFT in response.head.by_name:
            client.quirks(location).learn(LISTS_LATER)
        with closing(client.document_rows(response, "GET", location, "ListBucketResult")) as rows:
            document = read_document(rows, location, client.side)
        # Where this thread computes all the while, other cursors would only wait for it.
        self._seconds = monotonic() - began - (thread_time() - used)
        return document

    def _decode(self, document: PageDocument, location: Location, prefix: str) -> ListedPage:
        quirks = self._client.quirks(location)
        side, plain = self._client.side, quirks.has(PLAIN_KEYS)
        page = document.decode(prefix, location, side, plain=plain)
        if page.plain:
            quirks.learn(PLAIN_KEYS)
        return page


def _is_worth_dividing(page: ListedPage, asked: Mapping[str, str]) -> bool:
    """Return whether several cursors may list the rest of a slow folder sooner: it is flat, and its
    pages are full and in order."""
    return (
        "delimiter" not in asked and len(page.keys) >= PAGE and not page.folders and page.ascending
    )


def _next_page_query(
    asked: Mapping[str, str], token: str | None, after: str | None = None
) -> dict[str, str]:
    """Return the query of the next page: with the token of the page before, or with its last name
    `after` as marker."""
    if token:
        return {**asked, "continuation-token": token}
    return {
        **{name: value for name, value in asked.items() if name not in TOKENS},
        "marker": after or "",
    }


class _PageHistory:
    """The pages of one listing so far: whether it would never end."""

    def __init__(self, location: Location, side: Side) -> None:
        self._location, self._side = location, side
        self._markers, self._pages = _Rounds(), _Rounds()
        self._empty = 0
        self._before: list[str] | None = None
        """The names on the last page, if it did not say whether there are more."""

    def is_repetition(self, page: ListedPage) -> bool:
        """Return whether the page is the one before again, from a server that does not support
        pages."""
        if not page.is_undecided:
            self._before = None
            return False
        names = [entry.name for entry in page.entries]
        again = names == self._before and len(names) < PAGE
        self._before = names
        return again

    def check(self, page: ListedPage, following: Mapping[str, str]) -> None:
        """Add a page, and the query of the page after it. Raises ProtocolViolation for an endless
        listing."""
        marker = next(filter(None, map(following.get, MARKERS)), None)
        if not marker or self._markers.comes_again(marker) or self._has_come_before(page):
            message = (
                f"{self._location}: the listing has no marker of the next page, or repeats its"
                " pages"
            )
            raise ProtocolViolation(message, side=self._side)
        self._empty = 0 if page.folders or page.keys else self._empty + 1
        if self._empty > BARREN:
            message = (
                f"{self._location}: {BARREN} pages in a row are empty, and the listing continues"
            )
            raise ProtocolViolation(message, side=self._side)

    def _has_come_before(self, page: ListedPage) -> bool:
        if not (page.folders or page.keys):
            return False
        ends = (page.first, page.last, page.folders[:1], page.folders[-1:])
        return self._pages.comes_again(ends)


class _Rounds:
    """Detects a cycle in a sequence, with one value in memory (Brent 1980, "An improved Monte Carlo
    factorization algorithm")."""

    def __init__(self) -> None:
        self._kept: object = None
        self._steps, self._power = 0, 1

    def comes_again(self, one: object) -> bool:
        """Add a value; return whether it came before, at the latest when it comes for the third
        time."""
        if one == self._kept:
            return True
        self._steps += 1
        if self._steps == self._power:
            self._kept, self._steps, self._power = one, 0, 2 * self._power
        return False


class _Ahead:
    """A request for a page that runs in the background."""

    def __init__(self, do: Callable[[], PageDocument]) -> None:
        self._job = gevent.spawn(self._catch, do)
        gevent.sleep(0)  # let it send its request now

    @staticmethod
    def _catch(do: Callable[[], PageDocument]) -> tuple[PageDocument | None, BaseException | None]:
        try:
            return do(), None
        except BaseException as error:  # noqa: BLE001 - raised again by `result`
            return None, error

    def result(self) -> PageDocument:
        """Wait for the page and return it. Raises the errors of the request."""
        document, error = self._job.get()
        if error is not None:
            raise error
        return cast(PageDocument, document)

    def stop(self) -> None:
        """Cancel the request if it still runs."""
        self._job.kill()
