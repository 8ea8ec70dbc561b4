"""`relay serve`: the application under gunicorn, in this process, as `gunicorn -c deploy/gunicorn.conf.py` runs it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from relay.config import Settings

FLAGS: tuple[tuple[str, str], ...] = (
    ("bind", "Where to listen; anything but loopback needs --tokens-file."),
    ("workers", "Processes; each has its own slots."),
    ("slots", "Transfers at a time in a worker."),
    ("waiters", "Requests that may wait for a slot in a worker."),
    ("wait_seconds", "How long a request waits for a slot."),
    ("graceful_timeout", "Seconds that running transfers get after SIGTERM."),
    ("retry_budget", "Seconds within which a failed transfer is tried again."),
    ("connect_seconds", "For a connection with its TLS handshake."),
    ("head_seconds", "For a store's answer to begin."),
    ("total_seconds", "For one transfer with all its attempts."),
    ("stall_seconds", "Without bytes, before a store counts as stalled."),
    ("stall_bytes", "Bytes a second below which a store counts as stalled."),
    ("settle_seconds", "How long a destination may take to show an object."),
    ("buffer_bytes", "The largest piece that is copied at once."),
    ("parted_bytes", "From which length on objects go in parts."),
    ("part_bytes", "The length of a part."),
    ("parts_in_flight", "Parts of one object that move at once."),
    ("request_bytes", "The largest request body."),
    ("request_seconds", "How long a request body may take."),
    ("egress_allow", "Hosts and CIDRs that are allowed although not public."),
    ("egress_ports", "Ports of all other hosts."),
    ("local_folders", "Folders of this machine that may be read and written, separated by ':'."),
    ("ledger", "Where migrations are kept: sqlite:////folder/relay.db or postgresql+psycopg://…"),
    ("lease_seconds", "How long a worker's claims in the ledger hold without a word of it."),
    ("ca_bundle", "Further certificate authorities (PEM)."),
    ("tokens_file", "One token a line, readable by nobody else."),
)
"""Every setting with its line of help."""


def _flags(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, text in reversed(FLAGS):
        default = Settings.model_fields[name].default
        shown = f"  [default: {default}]" if default not in (None, "") else ""
        command = click.option(f"--{name.replace('_', '-')}", name, metavar="VALUE", help=text + shown)(command)
    return command


@click.command()
@click.option("--config", metavar="FILE", help="Settings in TOML (default: relay.toml, if it is there).")
@_flags
def serve(config: str | None, **flags: str | None) -> None:
    """Serve POST /migrate. Flags win over RELAY_* variables, those over relay.toml, those over the defaults."""
    _hand_on(config, flags)
    # Here and not above: gunicorn and Flask take a quarter of a second that `relay migrate` need not wait.
    from relay.api.serving import Server

    Server().run()


def _hand_on(config: str | None, flags: dict[str, str | None]) -> None:
    """Put the flags into the environment, which is how they get to the workers, and back after a SIGHUP."""
    if config is not None:
        os.environ["RELAY_CONFIG"] = config
    for name, value in flags.items():
        if value is not None:
            # An empty variable counts as none; an empty list, which closes what relay.toml opened, is a comma.
            os.environ[f"RELAY_{name.upper()}"] = value or ("," if name.startswith("egress_") else value)
