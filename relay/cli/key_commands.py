"""`relay keys new | show`: the key that signs reports, in a file of this user."""

from __future__ import annotations

import re
import socket
import sys

import click

from relay.cli.exits import Exit
from relay.cli.terminal import confirm, plain, say, tell

_NAME = re.compile(r"[A-Za-z0-9_.@+-]+")
"""A name that stands for itself in a file of allowed signers: without patterns and quotes."""
_OTHER = re.compile(r"[^A-Za-z0-9_.-]")
NAME = click.option(
    "--name",
    metavar="NAME",
    callback=lambda context, parameter, value: _checked_name(value),
    help="The name of the key's owner in that line (default: relay@ and this machine's name).",
)


def _checked_name(value: str | None) -> str:
    """Return the name of a key's owner. Raises UsageError for one that a file of allowed signers
    would read in another way."""
    if value is None:
        return f"relay@{_OTHER.sub('-', socket.gethostname())}"
    if not _NAME.fullmatch(value):
        raise click.UsageError("--name is not a word of letters, digits and . _ - + @")
    return value


@click.group()
def keys() -> None:
    """Make and show the key that signs reports (`relay report ID --sign`)."""


@keys.command()
@NAME
def new(name: str) -> int:
    """Make a key, and print the line by which others accept it: the line of `relay keys show`.

    The file is readable by you alone. An existing key is never replaced."""
    # Imported here, as in `show`: the help does not wait for the library of the signatures.
    from relay.reports.signing_keys import key_path, make_key

    path = key_path()
    key = make_key(path)
    said = f"the key {key.fingerprint} is in {path}; keep a backup of the file"
    say(f"relay: {plain(said)}", sys.stderr)
    confirm(key.allowed_signers_line(name))
    return Exit.VERIFIED


@keys.command()
@NAME
def show(name: str) -> int:
    """Print the public key as a line of a file of allowed signers, for those that check reports."""
    from relay.reports.signing_keys import key_path, load_key

    tell(load_key(key_path()).allowed_signers_line(name))
    return Exit.VERIFIED
