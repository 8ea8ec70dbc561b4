"""`relay remotes`: list the stores that have a name, and where each name comes from."""

from __future__ import annotations

import json

import click

from relay.cli.exits import Exit
from relay.cli.terminal import plain, tell
from relay.config import load_settings
from relay.stores.kinds import Remote
from relay.stores.remotes import Remotes


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


def _members(remote: Remote, known: bool) -> dict[str, object]:
    return {"name": remote.name, "type": remote.type, "origin": remote.origin, "known": known}
