"""Decide which objects of a listing a set of filters chooses.

Source of the rules: rclone 1.75, `Include` and `IncludeDirectory` in `fs/filter/filter.go`, and the
walk from the root in `fs/walk`: an object is chosen if every folder above it is.

Decided here: the verdict about one object or folder. Never here: where the names come from, and
what a store says about a marker of `exclude_if_present`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Final

from relay.errors import RelayError
from relay.filters.expressions import Matches, bytes_of_name, matchers_of
from relay.filters.filter_set import Filters
from relay.filters.partition import partition_of
from relay.filters.rules import Rule

REMEMBERED: Final = 10_000
"""Maximum number of folders whose verdict is kept: a listing names the objects of one folder
together."""
PAUSE_EVERY: Final = 64
"""Number of expressions that are tried before `pause` is called."""

Verdict = bool | RelayError
"""Whether something is chosen. An error says why a marker that would exclude it is not known."""
Rejects = Callable[[str], Verdict]
"""Returns whether a folder ('' or a name that ends in '/') is excluded by a marker in it, or why
that is not known."""


class Selection:
    """A set of filters, ready to decide. Not for two greenlets at once."""

    def __init__(
        self,
        filters: Filters,
        *,
        now: datetime,
        seed: str,
        rejects: Rejects | None = None,
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        """Ages count from `now`; `seed` chooses the part of `hash_filter` @/N; `rejects` is asked
        once for each folder. `pause` is called after some work, so that others may run.

        Raises InvalidFilter and ConfigError, as `read_filters`."""
        self._filters = filters
        self._earliest, self._latest = filters.period(now)
        self._names = None if filters.files_from is None else frozenset(filters.files_from)
        self._unseen = set(self._names or ())
        self._unlisted: set[str] = set()
        self._folders_of_names = frozenset(
            folder for name in filters.files_from or () for folder in folders_above(name)
        )
        book = filters.rules(pause=pause)
        self._of_objects = _Decisions(book.of_objects, pause)
        self._of_folders = _Decisions(book.of_folders, pause)
        self._partition = (
            None if filters.hash_filter is None else partition_of(filters.hash_filter, seed)
        )
        self._rejects = rejects
        self._verdicts: OrderedDict[str, Verdict] = OrderedDict()

    @property
    def missing_names(self) -> set[str]:
        """The names of `files_from` that no object had so far, except those below a folder that
        could not be listed."""
        return {name for name in self._unseen if self._unlisted.isdisjoint(folders_above(name))}

    def note_unlisted(self, folder: str) -> None:
        """Note that a folder, whose name ends in '/', could not be listed."""
        if folder in self._folders_of_names:
            self._unlisted.add(folder)

    def has_object(self, name: str, size: int | None, modified: datetime | None) -> Verdict:
        """Return whether an object is chosen, by its size and time unless it `lacks` them. Raises
        as `rejects` does."""
        if self._names is None and not (self._has_time(modified) and self._has_size(size)):
            return False
        return self.has_name(name)

    def lacks(self, size: int | None, modified: datetime | None) -> str | None:
        """Return which of an object's values the filters need, and it has not; or None."""
        filters = self._filters
        if size is None and not (filters.min_size is None and filters.max_size is None):
            return "size"
        if modified is None and not (self._earliest is None and self._latest is None):
            return "time"
        return None

    def has_name(self, name: str) -> Verdict:
        """Return whether the filters of names choose an object. Raises as `rejects` does."""
        if self._names is not None:
            self._unseen.discard(name)
            return name in self._names and self._has_folders(name)
        if self._partition is not None and not self._partition.has(name):
            return False
        return self._of_objects.include(name) and self._has_folders(name)

    def has_folder(self, name: str) -> Verdict:
        """Return whether a folder may have chosen objects; its name ends in '/'. Raises as
        `rejects` does."""
        return self._has_folders(name)

    def _has_time(self, modified: datetime | None) -> bool:
        if modified is None:
            return True
        if self._earliest is not None and modified < self._earliest:
            return False
        return self._latest is None or modified <= self._latest

    def _has_size(self, size: int | None) -> bool:
        filters = self._filters
        if size is None:
            return True
        if filters.min_size is not None and size < filters.min_size:
            return False
        return filters.max_size is None or size <= filters.max_size

    def _has_folders(self, name: str) -> Verdict:
        """Return whether every folder above an object, or of a folder's own name, is chosen."""
        if self._names is None and self._of_folders.is_empty and self._rejects is None:
            return True
        # Step 1: the nearest folder whose verdict is known; most objects have one.
        end = name.rfind("/") + 1
        found = self._verdicts.get(name[:end])
        if found is not None:
            return found
        # Step 2: from the root down, as far as all are chosen.
        verdict, start = self._verdict(""), 0  # an error counts as True here
        while verdict and (start := name.find("/", start) + 1):
            inner = self._verdict(name[:start])
            # A rule may exclude what is below a folder whose marker is not known.
            verdict = inner if verdict is True or not inner else verdict
        self._keep(name[:end], verdict)
        return verdict

    def _verdict(self, folder: str) -> Verdict:
        found = self._verdicts.get(folder)
        if found is None:
            found = self._is_chosen(folder)
            self._keep(folder, found)
        return found

    def _is_chosen(self, folder: str) -> Verdict:
        if folder and not self._is_chosen_by_name(folder):
            return False
        # Asked last: the answer may cost a request.
        rejected = self._rejects is not None and self._rejects(folder)
        return rejected if isinstance(rejected, RelayError) else not rejected

    def _is_chosen_by_name(self, folder: str) -> bool:
        if self._names is not None:
            return folder in self._folders_of_names
        return self._of_folders.include(folder.strip("/") + "/")

    def _keep(self, folder: str, verdict: Verdict) -> None:
        self._verdicts[folder] = verdict
        if len(self._verdicts) > REMEMBERED:
            self._verdicts.popitem(last=False)


class _Decisions:
    """Rules in their order, with their compiled expressions."""

    def __init__(self, rules: Sequence[Rule], pause: Callable[[], None]) -> None:
        # Of rules in a row that say the same, it does not matter which one matches.
        runs = [(say, [one.expression for one in run]) for say, run in groupby(rules, _says)]
        compiled = matchers_of([run for _, run in runs], pause)
        self._rules: list[tuple[Matches, bool]] = [
            (matches, say)
            for found, (say, _) in zip(compiled, runs, strict=True)
            for matches in found
        ]
        self._pause, self._tried = pause, 0

    @property
    def is_empty(self) -> bool:
        """Whether the set has no rule."""
        return not self._rules

    def include(self, name: str) -> bool:
        """Return what the first matching rule says, or True."""
        encoded = bytes_of_name(name)
        for matches, includes in self._rules:
            self._tried += 1
            if self._tried % PAUSE_EVERY == 0:
                self._pause()
            if matches(encoded):
                return includes
        return True


def _says(rule: Rule) -> bool:
    return rule.includes


def folders_above(name: str) -> Iterator[str]:
    """Yield the folders of a name in a tree, each with its '/'."""
    end = name.find("/") + 1
    while end:
        yield name[:end]
        end = name.find("/", end) + 1
