"""One set of filters: as a caller gives it, and as a migration keeps it.

A caller gives members named like rclone's flags, with `_` for `-`. A member `*_from` has the lines
of a file. What is kept is shorter, and means the same: `include_from` joins `include`, and the
three lists of names become one. So two commands that choose alike are the same migration more
often.

Decided here: which members contradict each other, and how much text there may be. Never here: which
names a set chooses (`selection.py`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Final

from relay.errors import InvalidFilter
from relay.filters.ages import canonical_age, moment_before
from relay.filters.expressions import check_expressions
from relay.filters.globs import has_false_negation
from relay.filters.partition import partition_of
from relay.filters.rule_lines import significant_lines
from relay.filters.rules import RuleBook, add_all
from relay.filters.sizes import parse_size, shown_size

MOST_TEXT: Final = 64 << 10
"""Maximum length of all patterns and names of one set, in characters: the ledger keeps them with
each migration."""
MOST_EXACT: Final = 2**53 - 1
"""Largest integer that every reader of JSON keeps exactly (RFC 7493 section 2.2)."""
MOST_MARKERS: Final = 20
"""Maximum number of names of `exclude_if_present`: each may cost a request for each folder."""
_SIZES: Final = ("min_size", "max_size")
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_LISTS: Final = ("files_from", "files_from_raw", "files_from0")


@dataclass(frozen=True, kw_only=True)
class Filters:
    """A valid set of filters."""

    include: tuple[str, ...] | None = None
    """None: nothing was given; without patterns, every object is excluded."""
    exclude: tuple[str, ...] = ()
    filter: tuple[str, ...] = ()
    files_from: tuple[str, ...] | None = None
    """Names without '/' at their ends; None: nothing was given."""
    min_size: int | None = None
    max_size: int | None = None
    min_age: str | None = None
    max_age: str | None = None
    ignore_case: bool = False
    exclude_if_present: tuple[str, ...] = ()
    hash_filter: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the members that differ from their defaults, as JSON has them."""
        found: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value != one.default:
                found[one.name] = list(value) if isinstance(value, tuple) else value
        # Some readers of JSON round a larger integer.
        exact = {name: f"{found[name]}B" for name in _SIZES if found.get(name, 0) > MOST_EXACT}
        return found | exact

    def to_request(self) -> dict[str, Any]:
        """Return the members as `read_filters` takes them: a name in `files_from` may begin with
        '#', and `include` may have no patterns."""
        found = self.to_json()
        if "files_from" in found:
            found["files_from_raw"] = found.pop("files_from")
        if found.get("include") == []:
            found["include_from"] = found.pop("include")
        return found

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> Filters:
        """Return the set whose `to_json` this is."""
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in members.items()
        }
        texts = {name: given[name] for name in _SIZES if isinstance(given.get(name), str)}
        sizes = {name: int(text.removesuffix("B")) for name, text in texts.items()}
        return cls(**{**given, **sizes})

    @property
    def is_active(self) -> bool:
        """Whether it can exclude anything: `ignore_case` alone can not."""
        return bool(self.to_json().keys() - {"ignore_case"})

    @property
    def is_drawn(self) -> bool:
        """Whether a part of the names is drawn at random, once for each migration."""
        return self.hash_filter is not None and self.hash_filter.startswith("@")

    def rules(
        self,
        of: Callable[[str], object] = lambda member: None,
        pause: Callable[[], None] = lambda: None,
    ) -> RuleBook:
        """Return its rules; `of` as in `add_all`, `pause` as in RuleBook. Raises InvalidFilter."""
        book = RuleBook(self.ignore_case, pause)
        add_all(book, self.include, self.exclude, self.filter, of)
        return book

    def period(self, now: datetime) -> tuple[datetime | None, datetime | None]:
        """Return the earliest and the latest time of an object that is chosen."""
        earliest = None if self.max_age is None else moment_before(self.max_age, now)
        latest = None if self.min_age is None else moment_before(self.min_age, now)
        return earliest, latest

    def until(self, now: datetime) -> Filters:
        """Return these filters with the latest time of an object as a moment, whose age was counted
        from `now`."""
        _, latest = self.period(now)
        return self if latest is None else replace(self, min_age=latest.isoformat())

    def dump(self, now: datetime) -> str:
        """Return what rclone prints for `--dump filters`."""
        earliest, latest = self.period(now)
        lines = ["--- start filters ---"]
        if earliest is not None:
            shown = _shown_time(earliest)
            lines.append(f"Last-modified date must be equal or greater than: {shown}")
        if latest is not None:
            lines.append(f"Last-modified date must be equal or less than: {_shown_time(latest)}")
        if self.min_size is not None:
            lines.append(f"Minimum size is: {shown_size(self.min_size)}")
        if self.max_size is not None:
            lines.append(f"Maximum size is: {shown_size(self.max_size)}")
        return "\n".join([*lines, *self.rules().dump(), "--- end filters ---"])

    def warnings(self) -> Iterator[str]:
        """Yield a sentence for each rule that may mean another thing than its author thinks."""
        if self.include is not None and self.exclude:
            yield (
                "all includes come before all excludes, whatever their order in the command; use"
                " filter rules for another order"
            )
        is_alone = self.include is None and not self.exclude and bool(self.filter)
        if is_alone and all(line.startswith("+") for line in self.filter):
            yield "the rules exclude nothing; end them with '- **' to move only what they include"
        lines = [line[2:] for line in self.filter]
        for pattern in (*(self.include or ()), *self.exclude, *lines):
            if has_false_negation(pattern):
                yield f"{pattern!a}: '[!' does not negate; write [^...]"


def _shown_time(moment: datetime) -> str:
    """Return a time as Go prints it, in the zone of this process."""
    local = moment.astimezone()
    part = f".{local.microsecond:06}".rstrip("0") if local.microsecond else ""
    return f"{local:%Y-%m-%d %H:%M:%S}{part} {local:%z %Z}"


def read_filters(
    given: Mapping[str, Any], now: datetime, pause: Callable[[], None] = lambda: None
) -> Filters | None:
    """Return the set that a caller gives, or None if it excludes nothing; None and missing members
    are not given. `now` is the moment from which ages count; `pause` as in `check_expressions`.

    Raises InvalidFilter, whose pointer names the member; ConfigError without RE2."""
    members = {name: value for name, value in given.items() if value is not None}
    reader = _Reader(members)
    try:
        found = reader.filters()
        _refuse_contradictions(found, now)
        if not found.is_active:
            return None
        book = found.rules(reader.enter, pause)
        reader.member = ""
        check_expressions(book.expressions, pause)
        return found
    except InvalidFilter as error:
        if error.pointer is None:
            error.pointer = f"/filters/{reader.member}" if reader.member else "/filters"
        raise


def tree_needed_error() -> InvalidFilter:
    """Return the error of filters in a request that is not for a tree."""
    return InvalidFilter(
        "filters choose among the objects of a tree, and none was asked for",
        hint="Ask for a tree (-r, or `recursive` in a request), or leave the filters out.",
        pointer="/filters",
    )


class _Reader:
    """Reads members, and knows which one it reads."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        self._members = members
        self.member = ""

    def enter(self, member: str) -> Any:
        """Return the value of a member, or None; an error concerns this member from now on. What is
        not Unicode in a text becomes U+FFFD, as in rclone."""
        self.member = member
        value = self._members.get(member)
        if isinstance(value, str):
            return _SURROGATES.sub("\ufffd", value)
        if isinstance(value, list | tuple):
            return [_SURROGATES.sub("\ufffd", one) for one in value]
        return value

    def filters(self) -> Filters:
        """Return the set. Raises InvalidFilter."""
        made = Filters(
            include=self._patterns("include"),
            exclude=self._patterns("exclude") or (),
            filter=self._patterns("filter") or (),
            files_from=self._names(),
            min_size=self._size("min_size"),
            max_size=self._size("max_size"),
            min_age=self._age("min_age"),
            max_age=self._age("max_age"),
            ignore_case=bool(self.enter("ignore_case")),
            exclude_if_present=self._markers(),
            hash_filter=self.enter("hash_filter"),
        )
        if made.hash_filter is not None:
            partition_of(made.hash_filter, "")
        self.member = ""
        texts = (*(made.include or ()), *made.exclude, *made.filter, *made.exclude_if_present)
        if sum(map(len, (*texts, *(made.files_from or ())))) > MOST_TEXT:
            raise InvalidFilter(
                f"the filters have more than {MOST_TEXT:,} characters",
                hint="Move a long list of objects as a list of URLs, or the tree in several parts.",
            )
        return made

    def _patterns(self, member: str) -> tuple[str, ...] | None:
        """Return the patterns or lines of a member, and those of its `_from`, in this order; None
        without both."""
        given, lines = self.enter(member), self.enter(f"{member}_from")
        if not given and lines is None:
            return None
        return (*(given or ()), *significant_lines(lines or ()))

    def _names(self) -> tuple[str, ...] | None:
        """Return the names of all lists, sorted; None without a list."""
        given = [self.enter(member) for member in _LISTS]
        if all(names is None for names in given):
            return None
        cleaned, raw, separated = (names or () for names in given)
        names = (*significant_lines(cleaned), *raw, *separated)
        return tuple(sorted({name.strip("/") for name in names}))

    def _size(self, member: str) -> int | None:
        given = self.enter(member)
        if given is None or isinstance(given, int):
            return None if given is None else int(given)
        return parse_size(given, member.replace("_", "-"))

    def _age(self, member: str) -> str | None:
        given = self.enter(member)
        return None if given is None else canonical_age(given, member.replace("_", "-"))

    def _markers(self) -> tuple[str, ...]:
        names: Sequence[str] = self.enter("exclude_if_present") or ()
        for name in names:
            if {"", ".", ".."} & set(name.split("/")):
                raise InvalidFilter(
                    f"exclude-if-present {name[:200]!a} is not the name of a file",
                    hint="Give a name such as .nobackup.",
                )
        found = tuple(dict.fromkeys(names))
        if len(found) > MOST_MARKERS:
            raise InvalidFilter(f"exclude-if-present has more than {MOST_MARKERS} names")
        return found


def _refuse_contradictions(found: Filters, now: datetime) -> None:
    """Raise InvalidFilter for filters that no object can pass, or that overrule each other."""
    if found.files_from is not None and found.to_json().keys() - {"files_from", "ignore_case"}:
        raise InvalidFilter(
            "files-from chooses by name alone: no other filter can be given with it",
            hint="Leave the other filters out, or write the names as include rules.",
            pointer="/filters/files_from",
        )
    if _is_above(found.min_size, found.max_size):
        raise InvalidFilter("min-size is larger than max-size", pointer="/filters/min_size")
    earliest, latest = found.period(now)
    if earliest is not None and latest is not None and latest < earliest:
        raise InvalidFilter("min-age is larger than max-age", pointer="/filters/min_age")
    both = sorted({*(found.include or ())} & {*found.exclude})
    if both:
        raise InvalidFilter(
            f"{both[0][:200]!a} is both included and excluded",
            hint="Leave one of the two out; includes come before excludes.",
            pointer="/filters/exclude",
        )


def _is_above(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one > other
