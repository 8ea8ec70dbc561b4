"""One answer that should be a folder's index, and the errors that refuse it.

Decided here: the words and the hint of each refusal. Never here: which page is refused
(`index_html.py`, `index_json.py`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, NoReturn

from relay.errors import ConnectionLost, Side, UnsafeKey, Unsupported

PENDING_CHARACTERS: Final = 128 << 10
"""Maximum length of one element of a page, of one row of a JSON listing, and of the text before the
title."""


@dataclass(frozen=True, kw_only=True)
class IndexPage:
    """One answer that should be a folder's index. `paths` are the percent-encoded paths that its
    links may begin with, the page's own first; `shown` names the page in a message. `framed`: its
    framing proves its end."""

    shown: str
    side: Side
    paths: tuple[str, ...]
    host: str = ""
    framed: bool = True

    def refuse(self) -> NoReturn:
        """Raise Unsupported: the page is not an index."""
        raise Unsupported(
            f"{self.shown} is a web page, not an index of a folder that relay can read",
            side=self.side,
            hint="Name the object itself, or let the server list the folder (nginx: autoindex on).",
        )

    def refuse_stored_page(self) -> NoReturn:
        """Raise Unsupported: the page is a file, such as a saved copy of an index."""
        raise Unsupported(
            f"{self.shown} is a stored page (index.html), not an index of a folder that the server"
            " made: it may not list what the folder has",
            side=self.side,
            hint="Rename that file at the source, or turn off its use as the folder's page.",
        )

    def refuse_partial_page(self) -> NoReturn:
        """Raise Unsupported: the page links to further pages, or says that it is cut."""
        raise Unsupported(
            f"{self.shown} lists only a part of the folder",
            side=self.side,
            hint="Let the server list the folder on one page, or move a list of URLs.",
        )

    def refuse_hidden_entry(self, href: str) -> NoReturn:
        """Raise Unsupported: the entries have no path below the folder."""
        path = href.partition("?")[0][:200]
        raise Unsupported(
            f"{self.shown} names the folder's entries by queries (to {path!a}), which relay can't"
            " follow",
            side=self.side,
            hint=(
                "Let the server list the folder with a path for each file, or move a list of URLs."
            ),
        )

    def refuse_limited_list(self, rows: int) -> NoReturn:
        """Raise Unsupported: the list has as many rows as Caddy shows at most."""
        raise Unsupported(
            f"{self.shown} lists {rows} entries, where Caddy cuts a listing without a sign",
            side=self.side,
            hint=(
                "Set file_limit in Caddy's browse to more than the folder has, or move a list of"
                " URLs."
            ),
        )

    def refuse_cut_page(self) -> NoReturn:
        """Raise ConnectionLost: the page has no end."""
        raise ConnectionLost(
            f"{self.shown} is cut off: the list of the folder has no end", side=self.side
        )


def redact_link(href: str) -> str:
    """Return a link without its query, which may be a signature, and without the user and password
    before its host (RFC 3986 section 3.2.1). Both are replaced by a hash, so that different links
    stay different."""
    path, mark, query = href.partition("?")
    before, at, after = path.rpartition("@")
    if at and (":" in before or "//" in before):
        path = f"~{_hash_of(before)}@{after}"
    return f"{path}?~{_hash_of(query)}" if mark else path


def _hash_of(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8]


def unclear_name_error(name: str, side: Side) -> UnsafeKey:
    return UnsafeKey(
        f"the link {name[:200]!a} on the folder's page is ambiguous",
        side=side,
        hint="Move it by its own URL, under a name that you choose.",
    )
