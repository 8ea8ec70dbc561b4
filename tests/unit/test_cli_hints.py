"""Hints: flags and settings in a terminal, members over the API."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay import errors
from relay.cli.flags import in_flags
from relay.cli.terminal import say_error
from relay.views.problems import problem

RELAY = Path(__file__).resolve().parents[2] / "relay"


def _texts(node: ast.AST) -> Iterator[str]:
    """Yield the possible texts of a value; an inserted value stands as '…'."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(
            str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
        )
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp | ast.BoolOp | ast.BinOp | ast.Tuple | ast.Dict | ast.Call):
        for part in ast.iter_child_nodes(node):
            yield from _texts(part)


def _hints(source: str) -> Iterator[str]:
    """Yield the hints of a module: arguments, class attributes and constants of such names, and
    those in tables."""
    tree = ast.parse(source)
    named = {node.value.id for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "hint"
             and isinstance(node.value, ast.Name)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "hint":
            yield from _texts(node.value)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {ast.unparse(target) for target in targets}
            if names & named or any("hint" in name.lower() for name in names):
                yield from _texts(node.value)


HINTS = sorted(
    {hint for path in RELAY.rglob("*.py") for hint in _hints(path.read_text(encoding="utf-8"))}
)
API = re.compile(
    r"'\w+': |\{\"|/openapi|\b(GET|POST|PATCH|DELETE) /|Idempotency-Key|Retry-After|in '?[a-z/]*headers'|in a request"
    r"|(GET|POST) …|`recursive`|[Ss]end the (same )?request"
)
"""Hints that only concern programs that use the API."""


def test_hints_are_found() -> None:
    assert len(HINTS) > 150
    assert sum(1 for hint in HINTS if API.search(hint)) > 10


@pytest.mark.parametrize("hint", [hint for hint in HINTS if API.search(hint)])
def test_a_hint_in_a_terminal_names_flags(hint: str) -> None:
    for side in ("source", "destination", "relay", None):
        assert not API.search(in_flags(hint, side)), in_flags(hint, side)


def test_a_hint_over_the_api_names_no_flag() -> None:
    """Hints of the terminal alone are in its own modules, and in errors that only it raises."""
    own = {errors.NotRelay.default_hint, errors.ServerUnreachable.default_hint}
    theirs = {
        hint
        for path in (RELAY / "cli").rglob("*.py")
        for hint in _hints(path.read_text(encoding="utf-8"))
    }
    found = [
        hint
        for hint in HINTS
        if re.search(r"(?<![\w-])--?[a-z]", hint) and hint not in own | theirs
    ]
    apart = (
        "gunicorn",
        "in the terminal",
        "-r, or `recursive` in a request",
        "(-r, `recursive`)",
        "`relay serve --help`",
        "`ssh-add -l`",
        "`ulimit -n`",
        "Run it again with --sort",  # of `relay verify`, which the API has not
        "`relay token create NAME --scope admin`",
    )
    assert [hint for hint in found if not any(words in hint for words in apart)] == []


@pytest.mark.parametrize(
    ("hint", "side", "shown"),
    [
        (
            errors.AlreadyExists.default_hint,
            None,
            "Choose another destination, or --if-exists overwrite or skip.",
        ),
        (
            errors.Unauthenticated.default_hint,
            "destination",
            "Give the store's credentials in --destination-headers-file, or a fresh presigned URL.",
        ),
        (errors.MigrationUnknown.default_hint, None, "`relay status` lists all migrations."),
    ],
)
def test_flags_for_members(hint: str, side: str | None, shown: str) -> None:
    assert in_flags(hint, side) == shown


def test_errors_name_flags_in_a_terminal_and_members_over_http(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = errors.AlreadyExists("it is there")
    say_error(error)
    assert "--if-exists overwrite" in capsys.readouterr().err
    assert "'if_exists': 'overwrite'" in problem(error)["hint"]
