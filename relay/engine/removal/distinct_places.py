"""Prove that two folders are two places, before anything is deleted in one of them.

Theory of operation. Two names of one store (an alias of a host, another gateway, a mount) give one
object two locations; a deletion at one then deletes the only copy. Names do not show that, and the
absence of an object shows little: a server may answer from a list of its own, or hide names. So a
pair of probes makes the deletion first. Both sides get a probe of one name with bytes of their own.
The side that loses objects has to show its own bytes after the other one's were written; then its
probe is deleted as objects are, and the other side has to show its own bytes still. That is asked
in each folder in which something is deleted, since a link or a mount may lead away from any.

One place may also lie inside the other one. For that a watcher stays in each root during the run,
and is looked for at the other side: at the end of its URL, and in all folders on the way to one in
which something is deleted. One of the two directions is seen even if a server keeps its list.

Decided here: whether two folders are two places. Never here: what follows (`source_removal.py`,
`mirror_removal.py`), and how probes are written (`probes.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from itertools import islice
from typing import Final
from urllib.parse import unquote

from gevent.lock import BoundedSemaphore

from relay.engine.removal.probes import (
    Probe,
    delete_as_objects,
    probe_name,
    read_probe,
    remove_probe,
    shows,
    write_probe,
)
from relay.errors import RelayError, SameObject
from relay.location import Location
from relay.stores.interfaces import StoreProvider
from relay.stores.s3.account import S3Account, aws_host
from relay.wire.watchdog import Watchdog

DEEPEST: Final = 8
"""Number of the last folders of one side that are looked for below the other one."""
FOLDERS: Final = 4096
"""Number of folders whose answers are kept."""
TOPS: Final = 256
"""Number of folders of a root that are asked for a watcher."""
ENTRIES: Final = 4096
"""Number of entries of a root among which they are."""
ONE_FOLDER: Final = "a probe shows that source and destination are one folder"
NOT_SHOWN: Final = "nothing shows that source and destination are two places"


@dataclass(eq=False)
class _Folder:
    lock: BoundedSemaphore = field(default_factory=BoundedSemaphore)
    is_asked: bool = False
    doubt: str | None = None


@dataclass(eq=False)
class DistinctPlaces:
    """Questions about two folders in one run: objects are deleted `here`, and must stay `there`.
    Every error that is not retryable is a doubt."""

    stores: StoreProvider
    here: Location
    there: Location
    meter: Callable[[], Watchdog]
    _: KW_ONLY
    deletes_at_source: bool
    """Whether `here` is the source; else it is the destination."""
    purge: bool = False
    """As DeletingSource.delete_version."""
    deepest: int = DEEPEST
    there_refuses: str | None = field(default=None, init=False)
    """Why `there` takes no probe, once `begin` has returned; None: it took one."""
    here_refuses: str | None = field(default=None, init=False)
    _ours: Probe | None = field(default=None, init=False)
    _theirs: Probe | None = field(default=None, init=False)
    _folders: dict[str, _Folder] = field(default_factory=dict, init=False)
    _outside: set[tuple[bool, str]] = field(default_factory=set, init=False)
    """Folders that have shown that they are not the other side's root."""

    def begin(self, like: str) -> str | None:
        """Write the watchers, named `like` an object, and compare the two roots; return a doubt, or
        None. Raises SameObject if they are one, or if `there` is inside `here`; and retryable
        errors. The caller calls `close` in the end."""
        self.close()
        self._theirs, self.there_refuses = self._watch(self.there, probe_name(like))
        self._ours, self.here_refuses = self._watch(self.here, probe_name(like))
        for probe, root, other in (
            (self._theirs, self.there, self.here),
            (self._ours, self.here, self.there),
        ):
            if probe is None:
                continue
            for folder in ("", *names_within(root, "", deepest=self.deepest)):
                place = _beside(probe, other, folder)
                seen = shows(self.stores, place, self.meter())
                if seen and (root is self.there or not folder):
                    raise _same_object(place)
                if seen is not False:
                    return f"{NOT_SHOWN}: a probe may be at {place}"
        return None

    def close(self) -> None:
        """Remove the watchers. Raises nothing."""
        for probe in (self._ours, self._theirs):
            if probe is not None:
                with suppress(RelayError):
                    remove_probe(self.stores, probe, self.meter())
        self._ours = self._theirs = None

    def doubt_of(self, folder: str, like: str, *, pairs: bool = True) -> str | None:
        """Return why a folder of the tree ('a/b/', or '') may be one place with something at the
        other side, or None. `like` is the name of an object there. Without `pairs` only the probe
        `here` is written, and looked for. Raises retryable errors."""
        if len(self._folders) > FOLDERS:
            self._folders.clear()
            self._outside.clear()
        asked = self._folders.setdefault(folder, _Folder())
        with asked.lock:
            if not asked.is_asked:
                asked.doubt = self._ask(folder, like, pairs)
                asked.is_asked = True
        return asked.doubt

    def doubt_of_tops(self) -> str | None:
        """Return a doubt if a folder in the root of `there` may be the root of `here`. Raises
        retryable errors."""
        try:
            listed = self.stores.source(self.there, self.meter()).list(self.there, False)
            folders = [entry.name for entry in islice(listed, ENTRIES) if entry.folder]
            doubts = (self._ask_watchers(folder) for folder in folders[:TOPS])
            return next((doubt for doubt in doubts if doubt is not None), None)
        except RelayError as error:
            if error.retryable:
                raise
            return f"{NOT_SHOWN}: {error.message}"

    def has_asked(self, folder: str) -> bool:
        """Return whether the doubt of a folder is known."""
        asked = self._folders.get(folder)
        return asked is not None and asked.is_asked

    # -- the watchers

    def _watch(self, root: Location, name: str) -> tuple[Probe | None, str | None]:
        try:
            place = root.below(name, destination=True)
            return write_probe(self.stores, place, self.meter()), None
        except RelayError as error:
            if error.retryable:
                raise
            return None, f"{root} takes no probe: {error.message}"

    def _ask(self, folder: str, like: str, pairs: bool) -> str | None:
        try:
            doubt = self._ask_watchers(folder)
            if doubt is not None or self.here_refuses is not None:
                return doubt
            if folder and _have_no_mounts(self.here, self.there):
                return self.doubt_of("", like)
            return self._ask_probes(folder, like, pairs)
        except RelayError as error:
            if error.retryable:
                raise
            return f"{NOT_SHOWN}: {error.message}"

    def _ask_watchers(self, folder: str) -> str | None:
        """Return a doubt if a folder, or one on the way to it, may be the other side's root."""
        for root, probe in ((self.here, self._theirs), (self.there, self._ours)):
            for above in _ways_to(folder):
                asked = (root is self.here, above)
                if probe is None or asked in self._outside:
                    continue
                place = _beside(probe, root, above)
                if shows(self.stores, place, self.meter()) is not False:
                    return f"{NOT_SHOWN}: a probe may be at {place}"
                self._outside.add(asked)
        return None

    # -- the probes of a folder

    def _ask_probes(self, folder: str, like: str, pairs: bool) -> str | None:
        name = folder + probe_name(like)
        ours = self.here.below(name, destination=True)
        theirs = self.there.below(name, destination=True)
        written: list[Probe] = []
        try:
            written.append(write_probe(self.stores, ours, self.meter()))
            doubt = None if self.deletes_at_source else self._look_for(written[0], name)
            if doubt is not None or not pairs or self.there_refuses is not None:
                return doubt
            written.append(write_probe(self.stores, theirs, self.meter()))
            return self._try_deletion(*written)
        finally:
            for probe in written:
                with suppress(RelayError):
                    remove_probe(self.stores, probe, self.meter())

    def _try_deletion(self, ours: Probe, theirs: Probe) -> str | None:
        """Delete one probe of a pair, and return a doubt unless each side showed its own."""
        found = read_probe(self.stores, ours.place, self.meter())
        if found is None or found.data != ours.data:
            is_one = found is not None and found.data == theirs.data
            return ONE_FOLDER if is_one else f"{NOT_SHOWN}: {ours.place} does not show a probe"
        ours = Probe(ours.place, found.version, ours.data)
        meter = self.meter()
        open_store = self.stores.source if self.deletes_at_source else self.stores.destination
        store = open_store(ours.place, meter)
        delete_as_objects(self.stores, ours, store, meter, purge=self.purge)
        left = read_probe(self.stores, theirs.place, self.meter())
        if left is None:
            return ONE_FOLDER
        if left.data != theirs.data:
            return f"{NOT_SHOWN}: {theirs.place} does not show a probe"
        return None

    def _look_for(self, probe: Probe, name: str) -> str | None:
        """Return a doubt if the other side may show a probe, at any end of its path."""
        for other in (*ends_of(name), *names_within(self.here, name)):
            place = self.there.below(other)
            if shows(self.stores, place, self.meter()) is not False:
                return f"{NOT_SHOWN}: a probe may be at {place}"
        return None


def names_within(inner: Location, name: str, *, deepest: int = DEEPEST) -> list[str]:
    """Return the names that an object `name` of a folder has in a folder that may contain that one,
    under any name of the store. Without a name, those of the folder itself ('a/b/')."""
    segments = [unquote(one) for one in inner.path.split("/") if one]
    depths = range(1, min(len(segments), deepest) + 1)
    return ["/".join((*segments[-depth:], name)) for depth in depths]


def names_below(inner: Location, name: str, *, deepest: int = DEEPEST) -> list[str]:
    """Return the names that an object `name` of a folder may have in the `inner` one, if that lies
    in it under any name of the store."""
    prefixes = (one[: -len(name)] for one in names_within(inner, name, deepest=deepest))
    return [name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)]


def folder_in(name: str) -> str:
    """Return the folder of an object in its tree: 'a/b/', or ''."""
    head, slash, _ = name.rpartition("/")
    return head + slash


def ends_of(name: str) -> Iterator[str]:
    """Yield the name of an object, and those that it has seen from the folders on its path."""
    yield name
    while "/" in name:
        name = name.partition("/")[2]
        yield name


def are_other_buckets(one: Location, other: Location) -> bool:
    """Return whether two folders are certainly in buckets of other hosts and names."""
    ours, theirs = one.account, other.account
    if not isinstance(ours, S3Account) or not isinstance(theirs, S3Account):
        return False
    return one.host != other.host and ours.bucket != theirs.bucket


def _have_no_mounts(one: Location, other: Location) -> bool:
    """Return whether no prefix of two buckets can be a folder of the other one: both are AWS's. A
    gateway over a disk (`rclone serve s3`, versitygw) may have a mount or a link there."""
    return all(place.store == "s3" and aws_host(place.host) for place in (one, other))


def _beside(probe: Probe, root: Location, folder: str) -> Location:
    """Return the place of a probe's name in a folder below another root."""
    return root.below(folder + unquote(probe.place.path.rpartition("/")[2]))


def _ways_to(folder: str) -> Iterator[str]:
    """Yield the folders on the way to a folder, and that one: 'a/', 'a/b/'."""
    parts = folder.split("/")[:-1]
    for count in range(1, len(parts) + 1):
        yield f"{'/'.join(parts[:count])}/"


def _same_object(place: Location) -> SameObject:
    return SameObject(
        f"source and destination are one place, or one is inside the other: a probe is at {place}",
        side="destination",
        hint="Nothing was deleted. Give a destination that is not the source by another name.",
    )
