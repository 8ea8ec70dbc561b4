"""The table of stores, one line for each type.

Decided here: which types there are. `stores/remotes.py` parses the locations and remotes of those
that share AWS's settings, local paths or http(s) URLs; any other type has parsers of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from relay.digest import empty_digest
from relay.errors import Side
from relay.stores.kinds import StoreType
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog


class _Opener:
    """A function of a module that is imported with the first call, such as the one that opens the
    stores of one type: a command between two folders does without the modules of S3."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name
        self._store: Callable[..., Any] | None = None

    def load(self) -> Callable[..., Any]:
        """Import the module, unless that is done, and return the function."""
        if self._store is None:
            self._store = getattr(import_module(self._module), self._name)
        return self._store

    def __call__(self, *arguments: Any) -> Any:
        return self.load()(*arguments)


_open_list = _Opener("relay.stores.url_lists", "ListStore")

KINDS: tuple[StoreType, ...] = (
    StoreType("http", _Opener("relay.stores.http", "HttpStore")),
    StoreType("webdav", _Opener("relay.stores.webdav.store", "WebDavStore")),
    StoreType("nextcloud", _Opener("relay.stores.nextcloud", "NextcloudStore")),
    StoreType("s3", _Opener("relay.stores.s3.store", "S3Store")),
    StoreType(
        "sftp",
        _Opener("relay.stores.sftp.store", "SftpStore"),
        schemes={"sftp": _Opener("relay.stores.sftp.account", "sftp_location")},
        types={"sftp": _Opener("relay.stores.sftp.account", "sftp_remote")},
    ),
    StoreType("local", _Opener("relay.stores.local", "LocalStore")),
    StoreType("list", lambda wire, side, meter: _open_list(wire, side, meter, STORES)),
)
"""Every type of store. All are both source and destination, except for a list of URLs."""

STORES: Mapping[str, Callable[[Wire, Side, Watchdog], Any]] = {
    kind.name: kind.opens for kind in KINDS
}
"""The constructor of each store, by the `store` of a Location."""


def load_all() -> None:
    """Import every store and AWS's checksums, for a server: an import later would delay its running
    transfers, and might find the modules of a newer version, installed meanwhile."""
    for kind in KINDS:
        if isinstance(kind.opens, _Opener):
            kind.opens.load()
    _open_list.load()
    empty_digest("crc64nvme")
