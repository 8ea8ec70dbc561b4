"""The flags that choose objects of a tree, named like rclone's, and the filters that they make."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from relay.cli.terminal import plain, say
from relay.filters.rule_lines import lines_of, names_between_nuls
from relay.process.small_files import read_argument

if TYPE_CHECKING:
    from relay.filters.filter_set import Filters

NAMED: Final = 3
"""Maximum number of names that are said."""
_FILE = click.Path(path_type=Path, allow_dash=True)

FILTERS = (
    click.option(
        "--include",
        multiple=True,
        metavar="PATTERN",
        help="Choose only the objects that match PATTERN, such as '*.jpg'. Repeatable.",
    ),
    click.option(
        "--include-from",
        multiple=True,
        type=_FILE,
        metavar="FILE",
        help="As --include, with the patterns of a file, one a line ('-' is stdin).",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        help="Leave out the objects that match PATTERN, such as 'tmp/**'. Repeatable.",
    ),
    click.option(
        "--exclude-from",
        multiple=True,
        type=_FILE,
        metavar="FILE",
        help="As --exclude, with the patterns of a file.",
    ),
    click.option(
        "--filter",
        multiple=True,
        metavar="RULE",
        help=(
            "A rule: '+ PATTERN' includes, '- PATTERN' excludes, '!' clears the rules before it."
            " The first rule that matches decides. Repeatable."
        ),
    ),
    click.option(
        "--filter-from",
        multiple=True,
        type=_FILE,
        metavar="FILE",
        help="As --filter, with the rules of a file.",
    ),
    click.option(
        "--files-from",
        multiple=True,
        type=_FILE,
        metavar="FILE",
        help="Choose only the objects whose names are in a file, one a line.",
    ),
    click.option(
        "--files-from-raw",
        multiple=True,
        type=_FILE,
        metavar="FILE",
        help="As --files-from; spaces and '#' in a line belong to the name.",
    ),
    click.option(
        "--files-from0",
        multiple=True,
        type=_FILE,
        metavar="FILE",
        help="As --files-from-raw; NUL ends each name.",
    ),
    click.option(
        "--min-size",
        metavar="SIZE",
        help="Leave out smaller objects: 100K, 10M, 1.5G; a number alone is in KiB.",
    ),
    click.option("--max-size", metavar="SIZE", help="Leave out larger objects."),
    click.option(
        "--min-age",
        metavar="AGE",
        help="Leave out objects that changed later than AGE ago: 30m, 12h, 2d, 1w, 6M, or a date.",
    ),
    click.option(
        "--max-age", metavar="AGE", help="Leave out objects that changed earlier than AGE ago."
    ),
    click.option("--ignore-case", is_flag=True, help="Ignore case in all patterns."),
    click.option(
        "--exclude-if-present",
        multiple=True,
        metavar="NAME",
        help="Leave out each folder that has a file of this name. Repeatable.",
    ),
    click.option(
        "--hash-filter",
        metavar="K/N",
        help="Choose the objects of part K of N, by a hash of their names; @/N is one part.",
    ),
)
"""Filters, as rclone's: `docs/filters.md`."""

_FILES: Final = ("include_from", "exclude_from", "filter_from", "files_from", "files_from_raw")
_STDIN: Final = frozenset({"-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"})
_MEMBERS: Final = (
    *("include", "exclude", "filter", "exclude_if_present"),
    *("min_size", "max_size", "min_age", "max_age", "hash_filter"),
)


def filters_of(options: Mapping[str, Any]) -> Filters | None:
    """Return the filters of a command's flags, or None without any.

    Raises InvalidFilter, also if the command is not for a tree, ConfigError for a file that can't
    be read, and UsageError for stdin in two flags, which can be read once."""
    _refuse_stdin_twice(options)
    given: dict[str, Any] = {name: options[name] or None for name in _MEMBERS}
    # An empty text is a mistake, not a flag that was left out.
    given |= {name: "" for name in _MEMBERS if options[name] == ""}
    for name in _FILES:
        given[name] = _lines(name, options[name])
    if options["files_from0"]:
        texts = (_text("files_from0", path) for path in options["files_from0"])
        given["files_from0"] = [name for text in texts for name in names_between_nuls(text)]
    if all(value is None for value in given.values()):  # `ignore_case` alone excludes nothing
        return None
    # Imported here because most commands have no filters, and need not wait for the rules.
    from relay.filters.filter_set import read_filters, tree_needed_error

    given["ignore_case"] = options["ignore_case"]
    found = read_filters(given, datetime.now(UTC))
    if found is not None and not options["recursive"]:
        raise tree_needed_error()
    return found


def warn_of_filters(filters: Filters | None) -> None:
    """Warn on stderr of rules that may mean another thing than their author thinks."""
    for text in () if filters is None else filters.warnings():
        say(f"relay: warning: {plain(text)}", sys.stderr)


def say_missing_names(
    filters: Filters | None, unmatched: Collection[str], where: str = "in the source"
) -> None:
    """Say on stderr how many names of a list have no object in the source, or elsewhere."""
    if filters is None or not unmatched:
        return
    all_names = len(filters.files_from or ())
    some = ", ".join(plain(name[:200]) for name in sorted(unmatched)[:NAMED])
    more = ", …" if len(unmatched) > NAMED else ""
    say(
        f"relay: {len(unmatched):,} of {all_names:,} names of the list are not {where}:"
        f" {some}{more}",
        sys.stderr,
    )


def _refuse_stdin_twice(options: Mapping[str, Any]) -> None:
    flags = [
        f"--{member.replace('_', '-')}"
        for member in (*_FILES, "files_from0")
        for path in options[member]
        if str(path) in _STDIN
    ]
    if len(flags) > 1:
        raise click.UsageError(f"stdin can be read once, and is named by {' and '.join(flags)}")


def _lines(member: str, paths: Sequence[Path]) -> list[str] | None:
    if not paths:
        return None
    return [line for path in paths for line in lines_of(_text(member, path))]


def _text(member: str, path: Path) -> str:
    return read_argument(path, f"--{member.replace('_', '-')}")
