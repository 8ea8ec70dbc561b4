"""The table of commands: their groups in the help, and each one's name, help line and module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One command in the help of `relay`."""

    function: str
    """`module:name` of its function in `relay.cli`. Only the module of the given command is
    imported: the engine, botocore and SQLAlchemy take a third of a second, and `relay --help` needs
    none of them."""
    help: str


GROUPS: Mapping[str, Mapping[str, Entry]] = {
    "Move": {
        "migrate": Entry(
            function="migrate:migrate", help="Move one object or a tree, and prove each object."
        ),
        "plan": Entry(function="plan:plan", help="Show what migrate would do; write nothing."),
        "submit": Entry(function="migration_commands:submit", help="Hand a migration to a server."),
    },
    "Watch": {
        "status": Entry(
            function="migration_commands:status", help="Show the newest migrations, or one of them."
        ),
        "watch": Entry(
            function="migration_commands:watch_command",
            help="Show the progress of a migration until it ends.",
        ),
        "report": Entry(
            function="migration_commands:report",
            help="Print one row for each object: its proof, or its error.",
        ),
    },
    "Control": {
        "pause": Entry(function="migration_commands:pause", help="Pause a migration."),
        "resume": Entry(
            function="migration_commands:resume",
            help="Resume a paused migration, optionally with fresh credentials.",
        ),
        "retry": Entry(
            function="migration_commands:retry", help="Queue failed and unverified objects again."
        ),
        "limit": Entry(
            function="migration_commands:limit",
            help="Change the limits of a migration while it runs.",
        ),
        "cancel": Entry(
            function="migration_commands:cancel",
            help="Cancel a migration and remove its unfinished uploads.",
        ),
    },
    "Inspect stores": {
        "ls": Entry(function="ls:ls", help="List a folder."),
        "doctor": Entry(
            function="doctor:doctor",
            help="Test what a store supports, and which verification to expect.",
        ),
        "remotes": Entry(function="remotes:remotes", help="List the remotes that you can name."),
        "obscure": Entry(
            function="remotes:obscure", help="Print a password as relay.toml's `pass` needs it."
        ),
    },
    "Serve": {
        "serve": Entry(
            function="serve:serve", help="Run the server: the HTTP API and its workers."
        ),
        "completion": Entry(
            function="completion:completion", help="Print a completion script for your shell."
        ),
    },
}
"""Every command, in the order of the help."""

COMMANDS: Mapping[str, Entry] = {
    name: entry for group in GROUPS.values() for name, entry in group.items()
}
