"""Unsafe entries of a listing: names that are unsafe elsewhere, and links that lead elsewhere.

Decided here: those names and links. Never here: their form in a listing (`plain.py`, `dav.py`,
`s3_listing.py`), and how relay should treat them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from simulators.liars.store_habits import StoreHabits

LONG: Final = "n" * 300
NAMES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "key-control": {
        "s3": ("bell\x07.txt", "line\nbreak.txt", "nul\x00.txt"),
        "http": ("bell\x07.txt", "line\nbreak.txt", "nul\x00.txt"),
        "webdav": ("bell\x07.txt", "line\nbreak.txt", "nul\x00.txt"),
        "local": ("bell\x07.txt", "line\nbreak.txt"),
    },
    "key-backslash": {
        kind: ("back\\slash.txt", "..\\up.txt") for kind in ("s3", "http", "webdav", "local")
    },
    "key-long": {"s3": (LONG, "/".join(["d" * 200] * 5)), "http": (LONG,), "webdav": (LONG,)},
    "key-dots": {"s3": ("../up.txt", "sub/../down.txt", "./same.txt", "..")},
    "key-slashes": {"s3": ("/lead.txt", "a//b.txt")},
    "key-marker": {"s3": ("sub/", "deep/")},
    "key-and-folder": {"s3": ("both", "both/inner.txt")},
}
"""Objects that really exist, by the habit and the kind of store."""
MARKER: Final = "sub/"
"""The empty one of them, a folder's marker: leaving it out loses nothing."""
LINKS: Final[Mapping[str, tuple[str, ...]]] = {
    "key-dots": ("..%2fup.txt", "%2e%2e/up.txt", "..%5cup.txt"),
    "link-host": ("http://{other}/d/evil.txt", "//{other}/d/evil-too.txt"),
    "link-above": ("../evil.txt", "/evil.txt", "../../evil-too.txt"),
    "link-beside": ("../beside/evil.txt", "/beside/", "/beside/evil-too.txt"),
    "link-password": ("http://somebody:{password}@{own}/d/evil.txt",),
}
"""Links of a folder's page, by the habit. Their targets do not belong to the folder."""
TRAP: Final = b"<what lies where a link leads, and nobody may read>"


def names(store_habits: StoreHabits, kind: str) -> list[str]:
    """Return the unsafe names that the objects of a source have."""
    return [
        name
        for habit, by_kind in NAMES.items()
        if store_habits.has(habit)
        for name in by_kind.get(kind, ())
    ]


def note(store_habits: StoreHabits, kind: str) -> None:
    """Record that a listing has shown them."""
    for habit, by_kind in NAMES.items():
        if kind in by_kind:
            store_habits.does(habit)


def links(store_habits: StoreHabits, own: str, other: str, password: str) -> Iterator[str]:
    """Yield the links to elsewhere: `own` and `other` are the host and port of this store, and of
    another."""
    for habit, hrefs in LINKS.items():
        if store_habits.does(habit):
            yield from (href.format(own=own, other=other, password=password) for href in hrefs)
