"""The table of stores, one line for each type.

Decided here: which types there are. `stores/remotes.py` parses the locations and remotes of those
that share AWS's settings, local paths or http(s) URLs; any other type has parsers of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from relay.errors import Side
from relay.stores.http import HttpStore
from relay.stores.kinds import StoreType
from relay.stores.local import LocalStore
from relay.stores.nextcloud import NextcloudStore
from relay.stores.s3.store import S3Store
from relay.stores.url_lists import ListStore
from relay.stores.webdav.store import WebDavStore
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog

KINDS: tuple[StoreType, ...] = (
    StoreType("http", HttpStore),
    StoreType("webdav", WebDavStore),
    StoreType("nextcloud", NextcloudStore),
    StoreType("s3", S3Store),
    StoreType("local", LocalStore),
    StoreType("list", lambda wire, side, meter: ListStore(wire, side, meter, STORES)),
)
"""Every type of store. All are both source and destination, except for a list of URLs."""

STORES: Mapping[str, Callable[[Wire, Side, Watchdog], Any]] = {
    kind.name: kind.opens for kind in KINDS
}
"""The constructor of each store, by the `store` of a Location."""
