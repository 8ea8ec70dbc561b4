"""`relay token create | list | limit | rotate | revoke`: the tokens of a server, in its ledger.

They change the ledger of RELAY_LEDGER (or the user's own), so they run on the server's machine, or
wherever its PostgreSQL can be reached. A running server follows within five seconds."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pwd import getpwuid
from typing import TYPE_CHECKING, Any, TypeVar

import click

from relay.cli.exits import Exit
from relay.cli.quantities import COUNT, NONE, BytesPerDay, BytesPerSecond, OrNone, Seconds
from relay.cli.terminal import confirm, plain, say, tell, tell_empty
from relay.ledger.token_values import Scope, TokenLimits
from relay.settings_sources import load_settings, trusted_ledger_url

# SQLAlchemy takes a fifth of a second, for which the help should not wait.
if TYPE_CHECKING:
    from relay.ledger.ledger import Ledger
    from relay.ledger.tokens import Token

F = TypeVar("F", bound=Callable[..., Any])
ONCE = "Copy it now: relay keeps only its hash."

_LIMITS: tuple[tuple[str, Any, str], ...] = (
    ("--slots", COUNT, "Maximum number of concurrent transfers of each of its migrations."),
    ("--bytes-per-second", BytesPerSecond(), "Maximum bandwidth of each of its migrations."),
    ("--bytes-per-day", BytesPerDay(), "Bytes of its migrations within 24 hours."),
    ("--migrations", COUNT, "Maximum number of its migrations that have not ended."),
    ("--requests-per-second", COUNT, "Requests to each worker; twice as many at once."),
)
"""Limits that are numbers, with the type and the help of their flags."""


def _limit_flags(command: F) -> F:
    """Add a flag for each limit of a token."""
    command = click.option(
        "--local/--no-local", default=None, help="Whether it may name folders of the server."
    )(command)
    command = click.option(
        "--host",
        "hosts",
        multiple=True,
        metavar="PATTERN",
        help="A host that it may name, such as *.example.com; `none` is any. Repeatable.",
    )(command)
    command = click.option(
        "--remote",
        "remotes",
        multiple=True,
        metavar="PATTERN",
        help="A remote with a path that it may name, such as new:*; `none` is any. Repeatable.",
    )(command)
    for flag, kind, text in reversed(_LIMITS):
        command = click.option(flag, type=OrNone(kind), metavar="N|none", help=text)(command)
    return command


@click.group()
def token() -> None:
    """Manage the tokens of a server, in the ledger of this machine (RELAY_LEDGER). A running
    server follows within five seconds."""


@token.command()
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice([scope.value for scope in Scope]),
    default=Scope.SUBMIT.value,
    help="read: look. submit: also start and steer (the default). admin: everything, every tenant.",
)
@click.option(
    "--tenant", help="Tenant of its migrations, which tokens of other tenants do not see."
)
@click.option("--expires", type=OrNone(Seconds()), metavar="90d", help="Time until it expires.")
@_limit_flags
def create(
    name: str, scope: str, tenant: str | None, expires: float | str | None, **limits: Any
) -> int:
    """Create a token and print it. It is shown once: the ledger keeps only its hash."""
    from relay.ledger.viewer import DEFAULT_TENANT

    until = time.time() + expires if isinstance(expires, float) else None
    with _opened_ledger() as ledger:
        made, value = ledger.tokens.create(
            name,
            tenant=tenant or DEFAULT_TENANT,
            scope=Scope(scope),
            limits=TokenLimits(**_named_limits(limits)),
            expires=until,
        )
    _show_value(made, value)
    return Exit.VERIFIED


@token.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_tokens(as_json: bool) -> int:
    """List all tokens; also those that have expired or were revoked."""
    with _opened_ledger() as ledger:
        found = ledger.tokens.every()
        where = ledger.database.where
    now = time.time()
    for one in found:
        tell(
            json.dumps({**one.to_json(), "state": _state(one, now)})
            if as_json
            else plain(_line(one, now))
        )
    if not found:
        tell_empty(f"no tokens in {where}")
    return Exit.VERIFIED


@token.command()
@click.argument("name")
@_limit_flags
def limit(name: str, **limits: Any) -> int:
    """Change limits of the token NAME; `none` removes one. Other limits stay."""
    change = _named_limits(limits)
    if not change:
        raise click.UsageError("give a limit, such as --slots or --bytes-per-day")
    with _opened_ledger() as ledger:
        limited = ledger.tokens.limit(name, change)
    confirm(plain(_line(limited, time.time())))
    return Exit.VERIFIED


@token.command()
@click.argument("name")
@click.option(
    "--overlap",
    type=Seconds(),
    default="24h",
    metavar="24h",
    help="Time for which the present value stays valid (default: 24h); 0s ends it now.",
)
def rotate(name: str, overlap: float) -> int:
    """Give the token NAME another value, and print it. Its limits and its migrations stay."""
    with _opened_ledger() as ledger:
        rotated, value = ledger.tokens.rotate(name, overlap)
    _show_value(rotated, value)
    return Exit.VERIFIED


@token.command()
@click.argument("name")
@click.option(
    "--forget",
    is_flag=True,
    help="Also delete its row. A server on loopback without any row answers without tokens again.",
)
def revoke(name: str, forget: bool) -> int:
    """Revoke the token NAME: within five seconds no server accepts it. Its migrations continue."""
    with _opened_ledger() as ledger:
        revoked = ledger.tokens.forget(name) if forget else ledger.tokens.revoke(name)
    confirm(f"token {revoked.name} is {'deleted' if forget else 'revoked'}")
    return Exit.VERIFIED


@contextmanager
def _opened_ledger() -> Iterator[Ledger]:
    """Open the ledger of this machine; the audit log names this user. Raises ConfigError."""
    from relay.ledger.audit_log import Actor
    from relay.ledger.ledger import Ledger

    ledger = Ledger.connect(trusted_ledger_url(load_settings()))
    try:
        yield ledger.by(Actor(name=f"{_user_name()} in a terminal"))
    finally:
        ledger.close()


def _user_name() -> str:
    try:
        return getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"


def _named_limits(limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits that a command line names, None for the word `none`."""
    given = {name: value for name, value in limits.items() if value not in (None, ())}
    return {
        name: None if value == NONE or NONE in _words(value) else value
        for name, value in given.items()
    }


def _words(value: Any) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else ()


def _show_value(made: Token, value: str) -> None:
    """Print a new token to stdout, where a script reads it, and what a person must know to
    stderr."""
    say(f"relay: token {made.name}, scope {made.scope}, tenant {made.tenant}. {ONCE}", sys.stderr)
    confirm(value)


def _state(one: Token, now: float) -> str:
    if one.revoked is not None:
        return "revoked"
    return "valid" if one.is_live(now) else "expired"


def _line(one: Token, now: float) -> str:
    limits = ", ".join(
        f"{name} {' '.join(value) if isinstance(value, list) else value}"
        for name, value in one.limits.to_json().items()
    )
    until = "never" if one.expires is None else _date(one.expires)
    used = "never used" if one.last_used is None else f"used {_date(one.last_used)}"
    return (
        f"{one.name:<20} {one.id}  {_state(one, now):<7}  {one.scope.value:<6}  {one.tenant:<12}"
        f"  expires {until}  {used}  {limits}"
    ).rstrip()


def _date(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}Z"
