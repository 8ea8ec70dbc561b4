"""List a bucket page by page; a page is believed only if it is whole.

Theory of operation. A page is read to its end before anything of it is given away, since S3 has
pages of a thousand; while one is looked at the next is on its way. A listing can go on behind a key
after a crash, as long as the keys come in the order of their bytes.

Decided here: how pages follow each other. Never here: what one says (`s3_answers.py`), when one is
asked for again (`relisting.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Final, cast

import gevent

from relay.errors import ProtocolViolation, Rejected, RelayError
from relay.location import Location
from relay.stores.interfaces import Entry
from relay.stores.s3.client import S3Account, S3Client, key_of
from relay.stores.s3.quirks import PLAIN_KEYS
from relay.stores.s3.responses import ListedPage, in_query, read_page

PAGE: Final = 1000
"""The objects that a page has where nobody asks for another number (docs.aws.amazon.com,
"ListObjectsV2")."""
BARREN: Final = 10_000
"""So many pages in a row may tell of nothing: a page that passes over a thousand deleted objects
has none of them."""
TOKENS: Final = frozenset({"list-type", "start-after", "continuation-token"})
"""What only ListObjectsV2 knows (docs.aws.amazon.com, "ListObjectsV2"); its elder goes on behind a
`marker`."""


class S3Listing(S3Client):
    """One bucket that is listed."""

    def list(
        self, location: Location, recursive: bool = False, after: str | None = None
    ) -> Iterator[Entry]:
        """As Source.list, by ListObjectsV2, a thousand a page in the order of their names' bytes;
        where a server has no tokens, by the last name (ListObjects).

        What a later listing may go on behind is told as long as the keys come in that order: some
        servers have another, and one that goes on in it would leave out what comes later."""
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
        """Yield the pages; while one is looked at, the next is on its way already. Raises
        ProtocolViolation for a listing that goes on without end.

        S3 tells on each page if there is more. Of a page that does not tell it the next one is
        asked for all the same: it was the last one if nothing is behind it, or if the server knows
        no pages, gives the same again, and that is less than a page has."""
        tokens, pages, barren = _Rounds(), _Rounds(), 0
        before: list[str] | None = None
        ahead = _Ahead(partial(self._first_page, location, dict(asked), prefix))
        try:
            while True:
                page = ahead.result()
                untold = page.truncated is None and not page.token
                names = [entry.name for entry in page.entries]
                if untold and names == before and len(names) < PAGE:
                    return
                if (untold and not page.entries) or (page.truncated is False and not page.token):
                    yield page
                    return
                before = names if untold else None
                asked = _next_page_query(asked, page)
                goes_on = asked.get("continuation-token") or asked.get("marker")
                shown = (
                    (page.first, page.last, page.entries[0].name, page.entries[-1].name)
                    if page.entries
                    else None
                )
                if (
                    not goes_on
                    or tokens.comes_again(goes_on)
                    or (shown and pages.comes_again(shown))
                ):
                    message = (
                        f"{location}: the listing goes on and does not say where, or goes round in"
                        " a circle"
                    )
                    raise ProtocolViolation(message, side=self._side)
                barren = 0 if page.entries else barren + 1
                if barren > BARREN:
                    message = (
                        f"{location}: {BARREN} pages in a row tell of nothing, and the listing"
                        " goes on"
                    )
                    raise ProtocolViolation(message, side=self._side)
                ahead = _Ahead(partial(self._page_of, location, dict(asked), prefix))
                yield page
        finally:
            ahead.stop()

    def _first_page(self, location: Location, asked: Mapping[str, str], prefix: str) -> ListedPage:
        """Return the first page; a server may not know how it is asked for tokens."""
        try:
            return self._page_of(location, asked, prefix)
        except Rejected as error:
            if error.store_status not in (400, 405, 501):
                raise
            older = {name: value for name, value in asked.items() if name not in TOKENS}
            try:
                return self._page_of(location, older, prefix)
            except RelayError:
                raise error from None

    def _page_of(self, location: Location, asked: Mapping[str, str], prefix: str) -> ListedPage:
        """Return one page, asked for as often as it takes."""
        return self._patience().retry(partial(self._page, location, asked, prefix))

    def _page(self, location: Location, asked: Mapping[str, str], prefix: str) -> ListedPage:
        """Ask for one page, once. Raises as `_told`."""
        account = cast(S3Account, location.account)
        query = "&".join(f"{name}={in_query(asked[name])}" for name in sorted(asked))
        response = self._send("GET", replace(location, target=f"{account.prefix}/?{query}"), ())
        with closing(self._document_rows(response, "GET", location, "ListBucketResult")) as rows:
            page = read_page(
                rows, prefix, location, self._side, plain=self._endpoint(location).has(PLAIN_KEYS)
            )
        if page.plain:
            self._endpoint(location).learn(PLAIN_KEYS)
        return page


def _next_page_query(asked: Mapping[str, str], page: ListedPage) -> dict[str, str]:
    """Return how the next page is asked for: by its token, or behind the last name."""
    if page.token:
        return {**asked, "continuation-token": page.token}
    return {
        **{name: value for name, value in asked.items() if name not in TOKENS},
        "marker": page.after or "",
    }


class _Rounds:
    """Notices what comes again and again, keeping one of all that came (Brent 1980, "An improved
    Monte Carlo factorization algorithm")."""

    def __init__(self) -> None:
        self._kept: object = None
        self._steps, self._power = 0, 1

    def comes_again(self, one: object) -> bool:
        """Say if this came before: at the latest when it comes for the third time."""
        if one == self._kept:
            return True
        self._steps += 1
        if self._steps == self._power:
            self._kept, self._steps, self._power = one, 0, 2 * self._power
        return False


class _Ahead:
    """Something that is being done while its caller does something else."""

    def __init__(self, do: Callable[[], ListedPage]) -> None:
        self._job = gevent.spawn(self._caught, do)
        gevent.sleep(0)  # it sends its request now

    @staticmethod
    def _caught(do: Callable[[], ListedPage]) -> tuple[ListedPage | None, BaseException | None]:
        try:
            return do(), None
        except BaseException as error:  # noqa: BLE001 - raised again by `result`
            return None, error

    def result(self) -> ListedPage:
        """Wait for it, and return what it gave or raise what it raised."""
        page, error = self._job.get()
        if error is not None:
            raise error
        return cast(ListedPage, page)

    def stop(self) -> None:
        """Break it off if it is still under way."""
        self._job.kill()
