"""`relay serve`: run the application under gunicorn, as `gunicorn -c deploy/gunicorn.conf.py`
does."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any

import click

from relay.cli.terminal import say
from relay.config import SETTINGS

NOT_SERVED = frozenset({"url", "token", "token_file", "remotes"})
"""Settings without a flag: those of the server's clients, and a table."""
_PASSWORD = re.compile(r"://[^/@]*:[^/@]|[?&]password=")
EMPTY = {"egress_allow": ",", "egress_ports": ",", "local_folders": ":"}
"""Settings that are lists, each with the text that makes it empty: an empty variable counts as
unset."""


def _flags(command: Callable[..., Any]) -> Callable[..., Any]:
    # click lists the flag first whose decorator is applied last.
    for name, field in reversed(SETTINGS.items()):
        if name in NOT_SERVED:
            continue
        shown = f"  [default: {field.default}]" if field.default not in (None, "") else ""
        text = f"{field.description}{shown}"
        command = click.option(f"--{name.replace('_', '-')}", name, metavar="VALUE", help=text)(
            command
        )
    return command


@click.command()
@click.option(
    "--config",
    metavar="FILE",
    help="Read settings from this TOML file (default: relay.toml, if it exists).",
)
@_flags
def serve(config: str | None, **flags: str | None) -> None:
    """Serve the HTTP API, and run its migrations. Flags override RELAY_* variables, which override
    relay.toml, which overrides the defaults."""
    _export_flags(config, flags)
    # Here and not above: gunicorn and Flask take a quarter of a second, for which `relay migrate`
    # should not wait.
    from relay.api.serving import Server

    Server().run()


def _export_flags(config: str | None, flags: dict[str, str | None]) -> None:
    """Put the flags into the environment, through which they reach the workers, also after a
    SIGHUP."""
    if _PASSWORD.search(flags.get("ledger") or ""):
        say(
            "relay: warning: the ledger's password is visible in the process list; use RELAY_LEDGER"
            " instead",
            sys.stderr,
        )
    if config is not None:
        os.environ["RELAY_CONFIG"] = config
    for name, value in flags.items():
        if value is not None:
            # The text of an empty list, so that it overrides the list in relay.toml.
            os.environ[f"RELAY_{name.upper()}"] = value or EMPTY.get(name, "")
