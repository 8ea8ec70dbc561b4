"""Parse the JSON listings of a folder: Caddy's, nginx's (`autoindex_format json`).

Decided here: what a row of the list is. Never here: HTML pages (`index_html.py`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from relay.errors import Side, UnsafeKey, Unsupported
from relay.parsing import count, http_date, iso_date, whole_number
from relay.stores.index_refusals import (
    PENDING_CHARACTERS,
    IndexPage,
    redact_link,
    unclear_name_error,
)
from relay.stores.interfaces import Entry

CADDY_ROWS: Final = 10_000
"""Maximum number of rows of a listing of Caddy, unless its `file_limit` is set
(caddyserver.com, "file_server"). The list does not say that it is cut there."""
_FOLDERS: Final = ("directory", "dir", "folder")
"""Types of a folder in a JSON listing."""


def read_json(texts: Iterator[str], page: IndexPage) -> Iterator[Entry]:
    """Yield the entries of a JSON listing, row by row. Raises Unsupported, after the last row, for
    a list that Caddy may have cut."""
    buffer, begun, number = "", False, 0
    for text in texts:
        buffer = (buffer + text).lstrip()
        if not begun:
            buffer, begun = buffer[1:].lstrip(), True
            if buffer.startswith("]"):
                return _check_end(buffer[1:], texts, page)
        while True:
            row, rest = _row_of(buffer, page)
            if row is None:
                break
            number += 1
            entry = _entry_of_row(row, number, page)
            if entry is not None:
                yield entry
            if rest.startswith("]"):
                # `is_dir` is a member of Caddy's rows; nginx has `type`.
                if number == CADDY_ROWS and "is_dir" in row:
                    page.refuse_limited_list(CADDY_ROWS)
                return _check_end(rest[1:], texts, page)
            buffer = rest[1:].lstrip()
    page.refuse_cut_page()


def _check_end(rest: str, texts: Iterator[str], page: IndexPage) -> None:
    """Read the page to its end. Raises Unsupported if text follows the list."""
    for text in (rest, *texts):
        if text.strip():
            page.refuse()


def _row_of(buffer: str, page: IndexPage) -> tuple[dict[str, Any] | None, str]:
    """Return the first row in the buffer, and the rest from its ',' or ']' on; None if the row is
    not complete yet."""
    if not buffer:
        return None, buffer
    if not buffer.startswith("{"):
        page.refuse()
    try:
        row, end = _DECODER.raw_decode(buffer)
    except (ValueError, RecursionError):
        if len(buffer) > PENDING_CHARACTERS:
            page.refuse()
        return None, buffer
    rest = buffer[end : end + 64].lstrip()
    if not rest:
        return None, buffer
    if rest[0] not in ",]":
        page.refuse()
    return row, buffer[buffer.index(rest[0], end) :]


_DECODER: Final = json.JSONDecoder(parse_int=count)
"""With `count`, since int() raises ValueError for a number of thousands of digits, and the row
would look incomplete."""


def _entry_of_row(row: dict[str, Any], number: int, page: IndexPage) -> Entry | None:
    """Return the entry of a row; None for the folder itself and the one above it. Raises
    Unsupported if the first row has no name."""
    given = row.get("name")
    if not isinstance(given, str):
        if number == 1:
            page.refuse()
        return Entry(
            f"row {number} of the list",
            error=UnsafeKey("the row has no name", side=page.side),
            judged_as=("",),
        )
    folder = row.get("is_dir") is True or row.get("type") in _FOLDERS or given.endswith("/")
    name = given.removesuffix("/")
    if name in ("", ".", ".."):
        return None
    if "/" in name:
        return Entry(
            f"row {number} of the list",
            error=unclear_name_error(redact_link(given), page.side),
            judged_as=("",),
        )
    if row.get("type") == "other":  # nginx: a link without a target, a pipe, a device
        return Entry(name, error=_no_file_error(name, page.side), judged_as=(f"{name}/", name))
    # Caddy gives the link's own time, beside the size of its target.
    is_link = row.get("is_symlink") is True
    when = None if is_link else _when(row.get("mod_time") or row.get("mtime"))
    if folder:
        return Entry(f"{name}/", None, None, when)
    return Entry(name, whole_number(row.get("size")), None, when)


def _no_file_error(name: str, side: Side) -> Unsupported:
    return Unsupported(
        f"{name[:200]!a} is not a file, says the folder's page",
        side=side,
        hint="Only files can be moved. A link needs a target that the server can read.",
    )


def _when(text: Any) -> datetime | None:
    if not isinstance(text, str):
        return None
    return iso_date(text) if text[:1].isdigit() else http_date(text)
