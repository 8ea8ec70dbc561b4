"""The flags that `migrate`, `plan` and `submit` share, and the request that they make."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from relay.cli.filter_flags import filters_of
from relay.cli.header_flags import exposed_secrets, read_headers
from relay.cli.quantities import COUNT, BytesPerSecond
from relay.cli.terminal import say
from relay.engine.comparison import Compare
from relay.engine.plan import IfExists, Metadata, Verify, existing_of
from relay.headers import Headers, parse_headers
from relay.stores.url_lists import SCHEME as LIST
from relay.throttle import Bounds

FILE = click.Path(path_type=Path)

Command = Callable[..., Any]

PLACES = (
    click.option(
        "--source-header",
        multiple=True,
        metavar="'NAME: VALUE'",
        help=(
            "Send this header to the source. Repeatable; 'NAME: @FILE' reads the value from a file."
        ),
    ),
    click.option(
        "--source-headers-file",
        type=FILE,
        metavar="FILE",
        help="Send the headers of a file, one 'Name: value' a line.",
    ),
    click.option(
        "--destination-header",
        multiple=True,
        metavar="'NAME: VALUE'",
        help="As --source-header, for the destination.",
    ),
    click.option(
        "--destination-headers-file",
        type=FILE,
        metavar="FILE",
        help="As --source-headers-file, for the destination.",
    ),
)
"""Headers for the two stores."""

METHOD = click.option(
    "--method",
    type=click.Choice(["PUT", "POST"]),
    help="HTTP method of the upload (default: PUT).",
)
RECURSIVE = click.option(
    "--recursive",
    "-r",
    is_flag=True,
    help="Move everything below the folder SRC into the folder DST.",
)
HOW = (
    click.option(
        "--verify",
        type=click.Choice([v.value for v in Verify]),
        default="auto",
        help="Verification level (default: auto).",
    ),
    click.option(
        "--if-exists",
        type=click.Choice([e.value for e in IfExists]),
        help=(
            "What to do if the destination already exists (default: changed with -r, else"
            " overwrite). By default an object is not overwritten if its name is neither yours nor"
            " the URL's, but the answer's."
        ),
    ),
    click.option(
        "--compare",
        type=click.Choice([c.value for c in Compare]),
        help=(
            "How --if-exists changed compares: by what proves most (auto), digest, size and time,"
            " size alone (proves nothing), or not at all (always). Default: digest, else the same"
            " size and not older."
        ),
    ),
    click.option(
        "--server-copy/--no-server-copy",
        default=True,
        help=(
            "Let a store that is both source and destination copy by itself (default), or move the"
            " bytes."
        ),
    ),
    click.option(
        "--metadata",
        type=click.Choice([m.value for m in Metadata]),
        default="keep",
        help=(
            "strict: an object fails if the destination cannot keep its metadata (default: keep,"
            " with a note)."
        ),
    ),
)
FAIL_ON_EMPTY = click.option(
    "--fail-on-empty", is_flag=True, help="With -r: exit with 1 if the folder SRC is empty."
)
ONCE = click.option(
    "--once",
    is_flag=True,
    help=(
        "With -r: move each content once, and let the destination copy its duplicates (same size"
        " and MD5 or SHA-256)."
    ),
)
BOUNDS = (
    click.option(
        "--slots",
        type=COUNT,
        help=(
            "Maximum number of concurrent transfers (with submit: over all workers). Without it,"
            " `relay migrate -r` begins with 10, and takes up to 64 while throughput grows."
        ),
    ),
    click.option(
        "--bytes-per-second",
        type=BytesPerSecond(),
        metavar="10M",
        help="Maximum bandwidth of reads and read-backs.",
    ),
    click.option(
        "--connections", type=COUNT, help="Maximum number of concurrent requests to each store."
    ),
)
WORK = (RECURSIVE, *HOW, FAIL_ON_EMPTY, METHOD, *BOUNDS)
"""How objects are moved."""


def with_flags(*rows: tuple[Callable[[Command], Command], ...]) -> Callable[[Command], Command]:
    """Return a decorator that gives a command these flags, in this order."""

    def decorate(command: Command) -> Command:
        # click lists the flag first whose decorator is applied last.
        for option in reversed([option for row in rows for option in row]):
            command = option(command)
        return command

    return decorate


def headers_of(options: Mapping[str, Any], side: str) -> Headers:
    """Return the headers for one side. Raises as `read_headers`."""
    return read_headers(options[f"{side}_header"], options[f"{side}_headers_file"], side)


def bounds_of(options: Mapping[str, Any]) -> Bounds:
    """Return the limits of `--slots`, `--bytes-per-second` and `--connections`."""
    return Bounds(options["slots"], options["bytes_per_second"], options["connections"])


def endpoint_member(options: Mapping[str, Any], side: str) -> dict[str, Any]:
    """Return one side in the form of a request to a server. Raises as `read_headers` and
    `parse_headers`."""
    # The check comes before `dict`, which would keep only one of two equal names.
    headers = parse_headers(headers_of(options, side))
    members: dict[str, Any] = {"url": options[side], "headers": dict(headers)}
    if side == "destination" and options.get("method"):
        members["method"] = options["method"]
    return members


def request_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request to a server for the flags of `submit`. Raises as `read_headers`,
    `parse_headers`, `filters_of` and `existing_of`."""
    filters = filters_of(options)
    existing_of(
        IfExists(options["if_exists"]) if options["if_exists"] else None,
        Compare(options["compare"]) if options["compare"] else None,
    )
    # A server refuses unknown members. The newer ones are sent only if they differ from their
    # defaults, so that older servers take the request.
    names = ("if_exists", "compare", "priority")
    given = {name: options[name] for name in names if options[name] is not None}
    limits = bounds_of(options).set_limits()
    return {
        "source": endpoint_member(options, "source"),
        "destination": endpoint_member(options, "destination"),
        "recursive": options["recursive"],
        "verify": options["verify"],
        "server_copy": options["server_copy"],
        **({"metadata": options["metadata"]} if options["metadata"] != "keep" else {}),
        **({"fail_on_empty": True} if options["fail_on_empty"] else {}),
        **({"once": True} if options.get("once") else {}),
        **({"paused": True} if options["paused"] else {}),
        **({} if filters is None else {"filters": filters.to_request()}),
        **given,
        **({"limits": limits} if limits else {}),
    }


def is_path(text: str) -> bool:
    """Return whether a location is a path, or a list at one: no URL, and no remote."""
    bare = text[len(LIST) :] if text[: len(LIST)].lower() == LIST else text
    # A colon in the first segment ends the name of a remote or a scheme; './a:b' is a path.
    return bool(bare) and (bare[0] in "./" or ":" not in bare.partition("/")[0])


def absolute_path(text: str, folder: bool) -> str:
    """Return a relative path as an absolute one, since the ledger outlives the current folder. The
    path of a `folder` ends in '/', another does if it was written so."""
    if text[: len(LIST)].lower() == LIST:
        return LIST + absolute_path(text[len(LIST) :], folder=False)
    if not is_path(text) or text[0] == "/":
        return text
    path = str(Path(text).absolute())
    return f"{path}/" if folder or text[-1] == "/" else path


def warn(options: Mapping[str, Any], quiet: bool = False) -> None:
    """Warn of secrets that the process list shows. Call it after all checks: text in the place of a
    name may be the secret."""
    if quiet:
        return
    lines = (*options["source_header"], *options["destination_header"])
    for name in exposed_secrets(lines):
        say(
            f"relay: warning: {name} is visible in the process list; use '{name}: @FILE' instead",
            sys.stderr,
        )
