"""Open the ledger of this machine, for commands that work on it without a server.

Decided here: that such a command is refused where a server's URL is set. Never here: which ledger
it is (`relay/settings_sources.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from relay.config import Settings
from relay.process.cooperative import importing
from relay.process.late_modules import late_modules
from relay.settings_sources import load_settings, trusted_ledger_url

if TYPE_CHECKING:
    from relay.ledger.ledger import Ledger


def open_ledger() -> Ledger:
    """Open the ledger of this machine. Raises ConfigError, and UsageError with a server's URL."""
    settings = load_settings()
    refuse_server(settings, "this command works on the ledger itself")
    with importing(), late_modules():
        from relay.ledger.ledger import Ledger

    return Ledger.connect(trusted_ledger_url(settings))


def refuse_server(settings: Settings, what: str) -> None:
    """Raise UsageError if the settings name a server; `what` says what works on the ledger."""
    if settings.url:
        raise click.UsageError(f"{what}: run it where RELAY_LEDGER is, without RELAY_URL")
