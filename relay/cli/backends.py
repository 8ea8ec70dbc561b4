"""Choose where migrations are: in the ledger of this machine, or on a server."""

from __future__ import annotations

import os

from relay.cli.backend_interface import MigrationBackend
from relay.cli.local_ledger import LocalLedger
from relay.cli.remote_server import RemoteServer
from relay.config import Settings
from relay.errors import ConfigError
from relay.settings_sources import is_found, load_settings


def migrations_of(url: str | None, *, gives_credentials: bool = False) -> MigrationBackend:
    """Return the server that `--url` or RELAY_URL names, else the ledger of this machine. Raises as
    `server_of`."""
    settings = load_settings()
    return server_of(settings, url, gives_credentials) or LocalLedger(settings)


def server_of(
    settings: Settings, url: str | None, gives_credentials: bool = False
) -> RemoteServer | None:
    """Return the server that `--url` or RELAY_URL names, or None.

    Raises ConfigError, also for a server that only a relay.toml names which lies in the current
    folder, if it would get a token that is not in that file, or the credentials of stores."""
    if not (url or settings.url):
        return None
    has_secrets = gives_credentials or settings.token_file or os.environ.get("RELAY_TOKEN")
    if not url and has_secrets and is_found("url"):
        raise ConfigError(
            "no token and no credentials are sent to a server that only the relay.toml of the"
            " current folder names",
            hint=(
                "If you trust that server, name it in RELAY_URL or --url, or name this file in"
                " RELAY_CONFIG."
            ),
        )
    # Imported here because `requests` takes a twentieth of a second, for which `relay --help`
    # should not wait.
    from relay.cli.api_client import client_of

    return RemoteServer(client_of(settings, url or settings.url))
