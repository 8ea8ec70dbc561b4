"""The ordered rules of filters: those of objects, and those of folders.

Source of the rules: rclone 1.75, `fs/filter/filter.go` and `rules.go`. The first rule that matches
decides; without one, a name is chosen. Whatever the order of the flags, all includes come before
all excludes, and these before the `filter` rules; with an include, everything else is excluded.

The rules of folders follow from the patterns: a folder that no chosen object can be in need not be
listed. An object is chosen if every folder above it is, as rclone finds it from the root.

Decided here: which rules there are, in which order. Never here: how a name is matched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from relay.errors import InvalidFilter
from relay.filters.globs import EVERYWHERE, expression_of, folder_patterns

MOST_RULES: Final = 2000
"""Maximum number of rules of objects and of folders together."""
MOST_CHARACTERS: Final = 1 << 20
"""Maximum length of all their expressions together."""


@dataclass(frozen=True)
class Rule:
    """What becomes of the names that an expression matches."""

    includes: bool
    expression: str

    def __str__(self) -> str:
        """The rule as rclone prints it."""
        return f"{'+' if self.includes else '-'} {self.expression}"


class RuleBook:
    """The rules of one set of filters, in their order."""

    def __init__(self, ignore_case: bool = False, pause: Callable[[], None] = lambda: None) -> None:
        """With `ignore_case` all patterns ignore case. `pause` is called after each rule."""
        self._ignore_case, self._pause = ignore_case, pause
        # Of two equal rules the second is left out.
        self._of_objects: dict[Rule, None] = {}
        self._of_folders: dict[Rule, None] = {}
        self._expressions: dict[str, None] = {}
        self._characters = 0

    @property
    def of_objects(self) -> Sequence[Rule]:
        """The rules of objects' names."""
        return list(self._of_objects)

    @property
    def of_folders(self) -> Sequence[Rule]:
        """The rules of folders' names, which end in '/'."""
        return list(self._of_folders)

    @property
    def expressions(self) -> Sequence[str]:
        """All expressions, also of the rules that were removed: a mistake in these is one, too."""
        return list(self._expressions)

    def clear(self) -> None:
        """Remove all rules."""
        self._of_objects.clear()
        self._of_folders.clear()

    def add(self, includes: bool, pattern: str) -> None:
        """Add the rules of a pattern. Raises InvalidFilter."""
        if not pattern:
            raise InvalidFilter(
                "a pattern is empty", hint="Write '**' for every object, or leave the rule out."
            )
        of_folders, of_objects = pattern.endswith("/"), not pattern.endswith("/")
        if of_folders and not includes:
            pattern += "**"
        if "**" in pattern:
            of_folders = of_objects = True
        rule = Rule(includes, expression_of(pattern, self._ignore_case))
        if of_objects:
            self._add(self._of_objects, rule)
            if includes or pattern == "*":
                self._add_folders_above(includes, pattern)
        if of_folders:
            self._add(self._of_folders, rule)

    def add_line(self, line: str) -> None:
        """Add the rules of a line: `+ PATTERN`, `- PATTERN`, or `!`, which removes all rules before
        it. Raises InvalidFilter."""
        if line == "!":
            self.clear()
        elif line[:2] in ("+ ", "- "):
            self.add(line[0] == "+", line[2:])
        else:
            raise InvalidFilter(
                f"the rule {line[:200]!a} begins with neither '+ ' nor '- '",
                hint="Write '+ PATTERN' to include, '- PATTERN' to exclude, '!' to clear.",
            )

    def dump(self) -> Iterator[str]:
        """Yield the lines that rclone prints of the rules."""
        yield "--- File filter rules ---"
        yield from map(str, self._of_objects)
        yield "--- Directory filter rules ---"
        yield from map(str, self._of_folders)

    def _add_folders_above(self, includes: bool, pattern: str) -> None:
        for folder in folder_patterns(pattern):
            if folder != "/":  # the root is always listed
                rule = Rule(includes, expression_of(folder, self._ignore_case))
                self._add(self._of_folders, rule)

    def _add(self, rules: dict[Rule, None], rule: Rule) -> None:
        rules[rule] = self._expressions[rule.expression] = None
        self._pause()
        self._characters += len(rule.expression)
        if len(self._expressions) > MOST_RULES or self._characters > MOST_CHARACTERS:
            raise InvalidFilter(
                f"the filters have more than {MOST_RULES:,} rules, or more than"
                f" {MOST_CHARACTERS:,} characters",
                hint="A folder above an included object counts too. Move the tree in parts.",
            )


def add_all(
    book: RuleBook,
    include: Sequence[str] | None,
    exclude: Sequence[str],
    lines: Sequence[str],
    of: Callable[[str], object] = lambda member: None,
) -> None:
    """Add rules in rclone's order. `include` is None if nothing was given; without patterns it
    still excludes everything else. Calls `of` with the member whose rules come next.

    Raises InvalidFilter."""
    of("include")
    for pattern in include or ():
        book.add(True, pattern)
    of("exclude")
    for pattern in exclude:
        book.add(False, pattern)
    of("filter")
    for line in lines:
        book.add_line(line)
    if include is not None:
        book.add(False, EVERYWHERE)
