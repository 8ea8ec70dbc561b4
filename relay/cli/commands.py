"""The table of commands: their groups in the help, and each one's name, help line and module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command in the help of `relay`."""

    function: str
    """`module:name` of its function in `relay.cli`. Only the module of the given command is
    imported: the engine, botocore and SQLAlchemy take a third of a second, and `relay --help` needs
    none of them."""
    help: str


GROUPS: Mapping[str, Mapping[str, Command]] = {
    "Move": {
        "migrate": Command(
            function="migrate:migrate", help="Move one object or a tree, and prove each object."
        ),
        "move": Command(
            function="move:move",
            help="Migrate, and then delete at the source what is proved.",
        ),
        "follow": Command(
            function="follow:follow", help="Move a tree, and keep it current until the cutover."
        ),
        "plan": Command(function="plan:plan", help="Show what migrate would do; write nothing."),
        "verify": Command(
            function="tree_verify:verify", help="Compare two trees, and prove each object."
        ),
        "submit": Command(
            function="migration_commands:submit", help="Hand a migration to a server."
        ),
    },
    "Watch": {
        "status": Command(
            function="migration_commands:status", help="Show the newest migrations, or one of them."
        ),
        "watch": Command(
            function="migration_commands:watch_command",
            help="Show the progress of a migration until it ends.",
        ),
        "feed": Command(
            function="feed:feed", help="Print the objects of a standing migration as they arrive."
        ),
        "report": Command(
            function="migration_commands:report",
            help="Print the proof or the error of each object; or sign a report.",
        ),
        "check-report": Command(
            function="signed_reports:check_report", help="Check a signed report."
        ),
        "keys": Command(
            function="key_commands:keys", help="Make and show the key that signs reports."
        ),
    },
    "Control": {
        "pause": Command(function="migration_commands:pause", help="Pause a migration."),
        "resume": Command(
            function="migration_commands:resume",
            help="Resume a paused migration, optionally with fresh credentials.",
        ),
        "retry": Command(
            function="migration_commands:retry", help="Queue failed and unverified objects again."
        ),
        "undo": Command(
            function="undo:undo",
            help="Take back the deletions of a move or a mirror, where possible.",
        ),
        "acknowledge": Command(
            function="migration_commands:acknowledge",
            help="Note that you have seen the failures of a migration.",
        ),
        "limit": Command(
            function="migration_commands:limit",
            help="Change the limits of a migration while it runs.",
        ),
        "cutover": Command(
            function="cutover:cutover", help="Make, or rehearse, the last pass of `relay follow`."
        ),
        "finish": Command(
            function="cutover:finish", help="End a standing migration after its cutover."
        ),
        "reopen": Command(
            function="cutover:reopen", help="Continue a standing migration after its cutover."
        ),
        "abort": Command(function="cutover:abort", help="Give up a cutover, or its rehearsal."),
        "cancel": Command(
            function="migration_commands:cancel",
            help="Cancel a migration and remove its unfinished uploads.",
        ),
    },
    "Inspect stores": {
        "ls": Command(function="ls:ls", help="List a folder."),
        "doctor": Command(
            function="doctor:doctor",
            help="Test what a store supports, and which verification to expect.",
        ),
        "remotes": Command(function="remotes:remotes", help="List the remotes that you can name."),
        "obscure": Command(
            function="remotes:obscure", help="Print a password as relay.toml's `pass` needs it."
        ),
    },
    "Serve": {
        "serve": Command(
            function="serve:serve", help="Run the server: the HTTP API and its workers."
        ),
        "token": Command(
            function="token_commands:token",
            help="Create, list, limit, rotate and revoke the tokens of a server.",
        ),
        "audit": Command(
            function="audit_commands:audit", help="Show and check the audit log of a server."
        ),
        "completion": Command(
            function="completion:completion", help="Print a completion script for your shell."
        ),
    },
}
"""Every command, in the order of the help."""

COMMANDS: Mapping[str, Command] = {
    name: entry for group in GROUPS.values() for name, entry in group.items()
}
