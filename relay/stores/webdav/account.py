"""One WebDAV server as an account, and its locations.

Decided here: which URLs are locations of WebDAV, and which paths an object may have. Never here:
requests (`store.py`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from relay.errors import InvalidURL
from relay.location import Location, parse_location
from relay.stores.interfaces import check_segments
from relay.stores.kinds import Given

SCHEMES: Final[Mapping[str, str]] = {
    "webdav": "http",
    "webdav+http": "http",
    "webdav+https": "https",
}
DEEPEST: Final = 100
"""Maximum number of folders that are made for one object."""
NEXTCLOUD_FILES: Final = re.compile(r"(?P<root>.*/remote\.php/dav)/files/(?P<user>[^/]+)/.*")
"""A path below a user's files on a Nextcloud server."""


@dataclass(frozen=True)
class WebDavAccount:
    """One WebDAV server; its credentials are the location's headers."""

    shown_origin: str
    store: str = "webdav"
    owner: str = ""

    def printed_form(self, path: str) -> str:
        """Return `webdav+https://host/path`."""
        return f"{self.shown_origin}{path}"

    def check(self, path: str) -> None:
        """As Account.check: nearly every WebDAV server keeps its objects in a file system."""
        check_segments(path, DEEPEST)


@dataclass(frozen=True)
class NextcloudAccount(WebDavAccount):
    """One user's files on a Nextcloud server."""

    store: str = "nextcloud"


def is_nextcloud(path: str) -> bool:
    """Return whether a path is below a user's files on a Nextcloud server."""
    return NEXTCLOUD_FILES.fullmatch(path) is not None


def webdav_location(url: str, headers: Given = (), *, destination: bool = False) -> Location:
    """Return the WebDAV location of an http(s) URL. Raises as `parse_location`, UnsafeKey, and
    InvalidURL for a destination with a query: its folders and its temporary names have none."""
    location = parse_location(url, headers=headers, destination=destination)
    if destination and location.query:
        raise InvalidURL(
            "a WebDAV destination has no query",
            hint="Give a password or a token as a header field; write %3F for a '?' in a name.",
        )
    location = replace(location, account=WebDavAccount(f"webdav+{location.origin}"))
    return location.as_destination() if destination else location


def http_url(text: str) -> str | None:
    """Return the http(s) URL behind a `webdav://` or `webdav+https://` one, or None for another
    scheme."""
    scheme, colon, rest = text.partition("://")
    plain = SCHEMES.get(scheme.lower()) if colon else None
    return f"{plain}://{rest}" if plain else None
