"""What the migrations of one token add up to: how many have not ended, and the bytes of a day.

Decided here: when a token may begin no further migration. Never here: what its requests may name
(`relay/api/token_limits.py`)."""

from __future__ import annotations

import json
from typing import Final

from sqlalchemy import Connection, func, or_, select

from relay.errors import TooManyRequests
from relay.ledger.access_tables import tokens
from relay.ledger.schema import migrations, tallies
from relay.ledger.states import ENDED, TransferState
from relay.ledger.token_values import TokenHolder, TokenLimits

DAY_SECONDS: Final = 86400.0
UNFINISHED_AGAIN_SECONDS: Final = 30.0
DAY_AGAIN_SECONDS: Final = 3600.0
"""What Retry-After says while a limit is reached."""


def check_use(connection: Connection, holder: TokenHolder, now: float) -> None:
    """Raise TooManyRequests if a token may not begin a migration now."""
    ours = migrations.c.token == holder.token_id
    if holder.migrations is not None:
        unfinished = ours & migrations.c.state.not_in(ENDED)
        count = connection.execute(
            select(func.count()).select_from(migrations).where(unfinished)
        ).scalar_one()
        if count >= holder.migrations:
            raise TooManyRequests(
                f"the token has {count} migrations that have not ended, of {holder.migrations}",
                hint="Wait until one has ended, or cancel one.",
                retry_after=UNFINISHED_AGAIN_SECONDS,
            )
    if holder.bytes_per_day is not None:
        used = bytes_of_day(connection, holder.token_id, now)
        if used >= holder.bytes_per_day:
            raise TooManyRequests(
                f"the migrations of the token moved {used:,} bytes within 24 hours, of"
                f" {holder.bytes_per_day:,}",
                hint="Try again later; migrations that were accepted continue.",
                retry_after=DAY_AGAIN_SECONDS,
            )


def check_retry(connection: Connection, id: str, now: float) -> None:
    """Raise TooManyRequests if a migration has ended and its token may not begin one now: a retry
    lets it run again."""
    theirs = select(tokens.c.id, tokens.c.limits).join(
        migrations, migrations.c.token == tokens.c.id
    )
    ended = theirs.where(migrations.c.id == id, migrations.c.state.in_(ENDED))
    row = connection.execute(ended).first()
    if row is None:
        return
    limits = TokenLimits.from_json(json.loads(row.limits))
    holder = TokenHolder(
        token_id=row.id, migrations=limits.migrations, bytes_per_day=limits.bytes_per_day
    )
    check_use(connection, holder, now)


def bytes_of_day(connection: Connection, token_id: str, now: float) -> int:
    """Return the bytes of the objects that arrived by a token's migrations that have not ended, or
    ended within the last 24 hours: at least those of the last 24 hours. An object counts once,
    whatever was proved of it."""
    recent = or_(migrations.c.ended.is_(None), migrations.c.ended > now - DAY_SECONDS)
    total = (
        select(func.coalesce(func.sum(tallies.c.bytes), 0))
        .select_from(migrations.join(tallies, tallies.c.migration_id == migrations.c.id))
        .where(migrations.c.token == token_id, recent)
        .where(tallies.c.state.in_((TransferState.VERIFIED, TransferState.UNVERIFIED)))
    )
    return int(connection.execute(total).scalar_one())
