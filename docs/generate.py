"""Write the pages that come from the program: commands, settings, the API, metrics, the log, states,
modules, faults.

    python docs/generate.py            write them
    python docs/generate.py --check    write nothing; exit 1 where one is not what the program says

The pages are in the repository, so that they can be read there; a test holds them to the program.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from relay.api.openapi import document
from relay.cli.__main__ import cli
from relay.cli.commands import COMMANDS
from relay.cli.exits import Exit
from relay.cli.terminal import leave
from relay.config import SETTINGS
from relay.ledger.states import MIGRATION, PHASE, PLAN, TRANSFER, Transition
from relay.logs.event_table import ALWAYS, COMMON, EVENTS, MEMBERS, LineBound
from relay.metrics.metric_table import METRICS, Metric
from relay.tallies import MOST_REMOTES, SIZE_CLASSES, STATUS_CLASSES

DOCS = Path(__file__).resolve().parent
_NUMBERED = re.compile(r"^ *def test_((?:[fb]\d+_)+)(\w+)", re.M)
EXITS: Mapping[Exit, str] = {
    Exit.VERIFIED: "every object is verified, or was skipped as asked",
    Exit.FAILED: "an object or a listing failed, or the output could not be written",
    Exit.USAGE: "wrong usage, or a wrong setting",
    Exit.UNVERIFIED: "everything moved, but something could not be verified",
    Exit.INTERRUPTED: "interrupted (Ctrl-C)",
    Exit.TERMINATED: "terminated (SIGTERM)",
}
MADE = "<!-- Made by docs/generate.py. -->\n\n"


def cell(text: object) -> str:
    """Return a text as one cell of a Markdown table."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|").strip()


def code(text: object) -> str:
    """Return a text in backquotes."""
    return f"`{cell(text)}`"


# -- commands


def commands() -> str:
    """Return the page of commands: the help of each, in order of use."""
    context = click.Context(cli, info_name="relay")
    pages = "".join(_command(cli, context, name) for name in COMMANDS)
    codes = "".join(f"| {number.value} | {EXITS[number]} |\n" for number in Exit)
    return f"""# Commands

Every command has `--help`. Commands that name a migration take its number or its id.

## Exit codes

| code | meaning |
|---|---|
{codes}
{pages}"""


def _command(group: click.Group, parent: click.Context, name: str) -> str:
    command = group.get_command(parent, name)
    assert command is not None
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    text = "\n\n".join(_unwrap_text(part) for part in (command.help or "").split("\n\n"))
    rows = "".join(
        _option(parameter, context)
        for parameter in command.params
        if isinstance(parameter, click.Option)
    )
    table = f"| flag | |\n|---|---|\n{rows}\n" if rows else ""
    page = f"## {context.command_path}\n\n```\n{usage}\n```\n\n{text}\n\n{table}"
    if isinstance(command, click.Group):
        page += "".join(_command(command, context, sub) for sub in command.list_commands(context))
    return page


def _unwrap_text(text: str) -> str:
    return re.sub(r"(?<![`\w])'([^'\n]+)'", r"`\1`", re.sub(r"\s+", " ", text).strip())


def _option(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    if record is None:
        return ""
    flag, text = record
    return f"| {code(flag)} | {cell(text).replace('<', '&lt;')} |\n"


# -- settings


def settings() -> str:
    """Return the page of settings: each variable with its default and bounds."""
    rows = "".join(_setting(name) for name in SETTINGS)
    return f"""# Settings

Flags win over `RELAY_*` variables, those over `relay.toml`, those over the defaults. In `relay.toml` a setting stands
under its name in lower case without `RELAY_` (`slots = 20`). `RELAY_CONFIG` names another file than `relay.toml`.
Sizes are bytes and times are seconds.

| variable | default | bounds | |
|---|---|---|---|
{rows}"""


def _setting(name: str) -> str:
    declared = SETTINGS[name]
    shown = "" if declared.default in (None, "", {}) else code(declared.default)
    signs = {"ge": "≥", "gt": "\\>", "le": "≤"}
    bounds = [f"{signs[kind]} {bound}" for kind, bound in declared.bounds.items()]
    variable = "`[remotes.NAME]`" if name == "remotes" else f"`RELAY_{name.upper()}`"
    return f"| {variable} | {shown} | {' and '.join(bounds)} | {cell(declared.description)} |\n"


# -- the API


def api() -> str:
    """Return the page of the API: each call, then each object that it takes or answers with."""
    made = document()
    calls = "".join(
        _call(path, method, operation)
        for path, operations in made["paths"].items()
        for method, operation in operations.items()
        if isinstance(operation, dict)
    )
    schemas = made["components"]["schemas"]
    objects = "".join(_schema(name, schemas[name]) for name in sorted(schemas))
    return f"""# The API's reference

This is `/openapi.json` for readers. [The API](api.md) explains the calls in order of use.

## Calls

{calls}
## Objects

{objects}"""


def _call(path: str, method: str, operation: Mapping[str, Any]) -> str:
    rows = "".join(
        f"| {code(one['name'])} ({one['in']}) | {_type(one.get('schema', {}))} |"
        f" {cell(one.get('description', ''))} |\n"
        for one in operation.get("parameters", ())
    )
    asked = f"| parameter | type | |\n|---|---|---|\n{rows}\n" if rows else ""
    body = _content(operation.get("requestBody", {}))
    taken = f"It takes {body}.\n\n" if body else ""
    answers = "".join(
        f"| {status} | {cell(answer.get('description', ''))} | {_content(answer)} |\n"
        for status, answer in operation.get("responses", {}).items()
    )
    summary = operation.get("summary", "").rstrip(".")
    answered = f"| status | meaning | content |\n|---|---|---|\n{answers}"
    return f"### {method.upper()} {path}\n\n{summary}.\n\n{asked}{taken}{answered}\n"


def _content(part: Mapping[str, Any]) -> str:
    kinds = part.get("content", {})
    return ", ".join(
        f"{_type(kind.get('schema', {}))} ({code(name)})" for name, kind in kinds.items()
    )


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    said = f"{_description_of(schema)}\n\n" if "description" in schema else ""
    needed = schema.get("required", ())
    rows = "".join(
        f"| {code(member)} | {_type(kind)} | {'yes' if member in needed else ''} |"
        f" {_description_of(kind)} |\n"
        for member, kind in schema.get("properties", {}).items()
    )
    table = (
        f"| member | type | required | |\n|---|---|---|---|\n{rows}\n"
        if rows
        else f"{_type(schema)}\n\n"
    )
    return f"### {name}\n\n{said}{table}"


def _description_of(schema: Mapping[str, Any]) -> str:
    return cell(schema.get("description", ""))


def _type(schema: Mapping[str, Any]) -> str:
    """Return a JSON schema as few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for kind in ("anyOf", "oneOf", "allOf"):
        if kind in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[kind]))
    if "const" in schema:
        return code(repr(schema["const"]))
    if "enum" in schema:
        return " or ".join(code(one) for one in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    bounds = [
        f"{sign} {schema[key]}"
        for key, sign in (("minimum", "≥"), ("maximum", "≤"))
        if key in schema
    ]
    return " ".join([str(schema.get("type", "any")), *bounds])


# -- metrics


def metric_names() -> str:
    """Return the page of metrics: the name, type and labels of each."""
    rows = "".join(
        f"| {code(metric.full_name)} | {metric.type} | {', '.join(map(code, metric.labels))} |"
        f" {cell(metric.help)}{_bounds(metric)} |\n"
        for metric in METRICS
    )
    return f"""# Names of metrics

The table of all metrics, from which the program makes them. [Metrics and logs](metrics-and-logs.md) explains how to collect
them.

* `side` is `source` or `destination`, and `relay` where neither store has failed.
* `remote` is the name of a configured remote, or else the kind of the store: `http`, `webdav`, `s3`, `local` and so on. Each
  side has at most {MOST_REMOTES} names; further ones count as `other`.
* `code` is the code of an error, which is the end of a problem's `type`.
* `size_class` is {", ".join(map(code, SIZE_CLASSES))}.
* `status` of a request to a store is {", ".join(map(code, STATUS_CLASSES))}.

| name | type | labels | |
|---|---|---|---|
{rows}"""


def _bounds(metric: Metric) -> str:
    """Return the buckets of a histogram as a sentence."""
    if not metric.bounds:
        return ""
    return f" Buckets up to {', '.join(f'{bound:g}' for bound in metric.bounds)} s."


# -- the log


def log_events() -> str:
    """Return the page of the log: each event with its level, its members and its bound."""
    rows = "".join(
        f"| {code(event.value)} | {row.level.value} |"
        f" {', '.join(map(code, sorted(row.members)))} | {_line_bound(row.bound)} |"
        f" {cell(row.text)} |\n"
        for event, row in EVENTS.items()
    )
    common = "".join(f"| {code(name)} | {cell(text)} |\n" for name, text in COMMON.items())
    members = "".join(f"| {code(name)} | {cell(text)} |\n" for name, text in MEMBERS.items())
    return f"""# Events of the log

The table of all events, from which the program writes them: a line has no other member. [Metrics and
logs](metrics-and-logs.md) explains the lines.

## Events

Each line has {", ".join(map(code, ALWAYS))}, and the members of its event that are known.

| event | level | members | at most | |
|---|---|---|---|---|
{rows}
## Members of any event

| member | |
|---|---|
{common}
## Members of some events

| member | |
|---|---|
{members}"""


def _line_bound(bound: LineBound) -> str:
    """Return a bound in words; it holds for all workers together."""
    seconds = {1.0: "a second", 60.0: "a minute"}[bound.seconds]
    each = f" for each {' and '.join(bound.each)}" if bound.each else ""
    shared = f", all {bound.group} together" if bound.group else ""
    return f"{bound.most} {seconds}{each}{shared}"


# -- states


def states() -> str:
    """Return the page of states: every transition by a verb that the ledger allows."""
    return f"""# States

These are the transitions of a migration, of a transfer and of a plan by the verbs of users and workers. relay refuses a verb in every
other state. A verb that leads to the present state changes nothing, so a request may be sent twice.

A listing, and the check of arrived objects, change the states of transfers too, except of `running` ones. An object that is
listed and has not arrived, has changed since or is missing at its destination is `queued` again, whatever its state was. One
that can't be moved is `failed`, unless it has arrived and its listing shows that it has not changed. So is a missing one of a
list of URLs, until the list names it again.
A migration that is listed again is `running`.

## A migration

{_transitions(MIGRATION)}
## A transfer

{_transitions(TRANSFER)}
## A plan

A plan that a server makes before a migration starts ([in the browser](page.md#plans) or by
[the API](api.md#plan-before-anything-moves)). A user stops, repeats and starts it; a worker finishes it, or ends it as failed when the source can't be listed.

{_transitions(PLAN)}
## The phase of a standing migration

A [standing migration](moving-a-live-bucket.md) has a phase besides its state.

{_transitions(PHASE)}"""


def _transitions(table: Mapping[str, Transition]) -> str:
    rows = "".join(
        f"| {verb.replace('_', ' ')} | {', '.join(code(state) for state in sorted(row.origins))} |"
        f" {code(row.to)} |\n"
        for verb, row in table.items()
    )
    return f"| verb | from | to |\n|---|---|---|\n{rows}"


# -- modules

PACKAGES = (
    "logs",
    "errors",
    "",
    "filters",
    "sorting",
    "prices",
    "process",
    "wire",
    "stores",
    "stores/s3",
    "stores/webdav",
    "ledger",
    "engine",
    "engine/multipart",
    "engine/transfer",
    "engine/worker",
    "views",
    "reports",
    "metrics",
    "api",
    "ui",
    "cli",
)
"""The packages of relay/ in the order in which they may import one another; "" are the modules at
its top."""


def modules() -> str:
    """Return the map of modules: the first sentence of each one's docstring."""
    return f"""# Modules

The map of the code, in the order in which packages may import one another (`tests/unit/test_house.py` holds it). A line
is the first of the module's docstring.

{"".join(map(_package, PACKAGES))}"""


def _package(name: str) -> str:
    folder = DOCS.parent / "relay" / name
    rows = "".join(
        f"| `{path.name}` | {cell(_first(path))} |\n"
        for path in sorted(folder.glob("*.py"))
        if not path.name.startswith("__")
    )
    said = "" if not name else f"{cell(_first(folder / '__init__.py'))}\n\n"
    return f"## relay/{name + '/' if name else ''}\n\n{said}| module | |\n|---|---|\n{rows}\n"


def _first(path: Path) -> str:
    """Return the first paragraph of a module's docstring."""
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert said, f"{path} has no docstring"
    return said.split("\n\n")[0]


# -- the catalogue of faults


def faults() -> str:
    """Return the catalogue: each numbered fault, with the tests that hold it."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path in sorted((DOCS.parent / "tests").rglob("test_*.py")):
        for numbers, words in _NUMBERED.findall(path.read_text(encoding="utf-8")):
            for number in filter(None, numbers.split("_")):
                found[number.upper()].append(
                    (words.replace("_", " "), str(path.relative_to(DOCS.parent)))
                )
    rows = "".join(
        f"| {number if index == 0 else ''} | {words} | {code(path)} |\n"
        for number in sorted(found, key=lambda text: (text[0] != "F", int(text[1:])))
        for index, (words, path) in enumerate(found[number])
    )
    return f"""# Faults

The catalogue of what goes wrong between two clouds, by number. `F` is a fault of a store, a network or a process, `B`
is bad input. Each number has tests; this table names them. The simulators produce many of the faults by the same number
(`simulators/faults.py`).

| number | what the test holds | test |
|---|---|---|
{rows}"""


PAGES: Mapping[str, Callable[[], str]] = {
    "commands.md": commands,
    "settings.md": settings,
    "api-reference.md": api,
    "metric-names.md": metric_names,
    "log-events.md": log_events,
    "states.md": states,
    "modules.md": modules,
    "faults.md": faults,
}


def main(words: list[str]) -> int:
    """Write the pages, or compare them; return 1 where a compared one differs."""
    stale = []
    for name, make in PAGES.items():
        path, text = DOCS / name, MADE + make().rstrip("\n") + "\n"
        if "--check" not in words:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        print(f"not what the program says: {', '.join(stale)}; run: make docs", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    leave(main(sys.argv[1:]))  # locks that gevent has replaced do not survive an ordinary exit
