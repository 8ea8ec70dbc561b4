"""`relay remotes` lists the stores that have a name, and where each name comes from. `relay
obscure` writes a password for one of them."""

from __future__ import annotations

import json
import sys
from getpass import getpass
from typing import Final

import click

from relay.cli.exits import Exit
from relay.cli.terminal import plain, tell
from relay.settings_sources import load_settings
from relay.stores import rclone_conf
from relay.stores.kinds import Remote
from relay.stores.remotes import Remotes

PASSWORD_CHARACTERS: Final = 4096
"""Maximum length of a password."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def remotes(as_json: bool) -> int:
    """List the remotes of relay.toml, of your rclone.conf and of the AWS profiles, without their
    secrets."""
    known = Remotes(load_settings().remotes)
    found = list(known)
    if as_json:
        tell(json.dumps([_members(remote, known.speaks(remote)) for remote in found]))
        return Exit.VERIFIED
    if not found:
        tell("no remotes; write [remotes.NAME] into relay.toml, or use URLs and s3://bucket/key")
        return Exit.VERIFIED
    widths = [max(len(getattr(remote, name)) for remote in found) for name in ("name", "type")]
    for remote in found:
        unknown = "" if known.speaks(remote) else "  (relay does not speak this type)"
        name = plain(f"{remote.name}:")
        tell(
            f"{name:{widths[0] + 1}}  {plain(remote.type):{widths[1]}} "
            f" {plain(remote.origin)}{unknown}"
        )
    return Exit.VERIFIED


@click.command()
def obscure() -> int:
    """Read a password, and print it as the option `pass` of a remote needs it, like
    `rclone obscure -`.

    A terminal asks for the password and does not show it; otherwise it is the first line of stdin.
    It is hidden from a glance only: protect the file that holds it."""
    if sys.stdin.isatty():
        password = getpass("password: ")
    else:
        password = sys.stdin.readline(PASSWORD_CHARACTERS + 1).rstrip("\r\n")
    # Python reads bytes that are not UTF-8 as surrogates (PEP 383).
    if any("\ud800" <= character <= "\udfff" for character in password):
        raise click.UsageError("the password is not UTF-8")
    if not 0 < len(password) <= PASSWORD_CHARACTERS:
        raise click.UsageError(
            f"stdin must have a password of 1 to {PASSWORD_CHARACTERS} characters"
        )
    tell(rclone_conf.obscure(password))
    return Exit.VERIFIED


def _members(remote: Remote, known: bool) -> dict[str, object]:
    return {"name": remote.name, "type": remote.type, "origin": remote.origin, "known": known}
