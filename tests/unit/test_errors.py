"""The errors: each is at its place in the tree that the package's page draws, and derives from no
foreign library's."""

from __future__ import annotations

import re

from relay import errors

TREE = errors.__doc__[errors.__doc__.index("The tree;") :] if errors.__doc__ else ""
NAME = re.compile(r"\b[A-Z]\w+(?: \([^)]+\))?")


def kinds() -> list[type[errors.RelayError]]:
    """Return every error that leaves the package."""
    found = [getattr(errors, name) for name in errors.__all__]
    return [kind for kind in found if isinstance(kind, type) and issubclass(kind, BaseException)]


def parents_in(tree: str) -> dict[str, str]:
    """Return the parent of each name in a drawing: the name one step less indented, or before the
    brackets."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in tree.splitlines()[1:]:
        names = NAME.findall(line)
        if not names:
            continue
        depth = line.index(names[0][0])
        above = [(other, name) for other, name in above if other < depth]
        for name, *children in (re.findall(r"\w+", found) for found in names):
            parents[name] = above[-1][1] if above else ""
            parents.update(dict.fromkeys(children, name))
        above.append((depth, names[0].partition(" ")[0]))
    return parents


def test_the_error_tree_matches_its_drawing() -> None:
    real = {kind.__name__: kind.__mro__[1].__name__ for kind in kinds()}
    assert parents_in(TREE) == {**real, "RelayError": ""}
    small = {"Aa": "", "Bb": "Aa", "Cc": "Bb", "Dd": "Aa", "Ee": "Dd"}
    assert parents_in("The tree;\n  Aa   a.py\n  ├─ Dd  Bb (Cc)\n  │  └─ Ee\n") == small


def test_every_error_is_our_own() -> None:
    """A reset that is raised while an upload reads from its source would look like a broken
    upload."""
    assert not [
        kind
        for kind in kinds()
        if any(not issubclass(base, errors.RelayError) for base in kind.__mro__[:-3])
    ]
