"""The settings of a server: checked before it starts, and again before a reload replaces any.

Theory of operation. gunicorn's master reads the settings, at the start and at SIGHUP, and forks
each worker. The master keeps the checked settings here, in its memory, so every worker has them,
even one that replaces another while relay.toml is being edited. A mistake ends a server that
starts. At a reload a mistake prints one line, and nothing changes.

Decided here: the checks, and the effect of a mistake. Never here: the settings of gunicorn
(`relay/api/serving.py`)."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from gunicorn.util import parse_address

from relay.api.auth import load_tokens
from relay.api.proxies import proxies_of
from relay.config import Settings
from relay.egress import METADATA
from relay.errors import ConfigError, LedgerFailed
from relay.errors.bugs import bug
from relay.hosts import is_loopback
from relay.ledger.ledger import Ledger
from relay.ledger.opening import open_database
from relay.ledger.tokens import LiveTokens
from relay.settings_sources import load_settings, settings_file
from relay.wire.tls.choice import client_context

EXIT_CONFIG = 2
EXIT_BIND = 1
PROBE_SECONDS = 1.0
"""Maximum seconds in which a unix socket must show whether a server listens on it."""
DEPRECATED = (
    "RELAY_TOKENS_FILE is deprecated: each of its tokens may do everything. `relay token create`"
    " makes tokens with a scope, an end and limits."
)
_CHOOSE = "Choose another address with --bind or RELAY_BIND."


class Refused(Exception):
    """A server can't run with the settings: the reason, the remedy, and the exit code of a server
    that starts with them."""

    def __init__(self, message: str, hint: str, code: int = EXIT_CONFIG) -> None:
        super().__init__(message)
        self.message, self.hint, self.code = message, hint, code


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """Checked settings, their file, their tokens, and the addresses that this server listens
    on."""

    settings: Settings
    file: Path | None
    tokens: frozenset[str]
    metrics_tokens: frozenset[str] = frozenset()
    addresses: tuple[Any, ...] = ()


class Holder:
    """Holds the settings that this process accepted last."""

    held: Accepted | None = None


_HOLDER = Holder()


def accepted_settings() -> Accepted:
    """Return the settings of this process, or of the master that forked it; read them if it has
    none.

    Raises ConfigError.
    """
    if _HOLDER.held is None:
        _HOLDER.held = _read()
    return _HOLDER.held


def accept_or_exit() -> Settings:
    """Return the settings, read and checked; a mistake ends the process with one line."""
    try:
        return accepted_settings().settings
    except ConfigError as error:
        refuse(Refused(error.message, error.hint))


def accept_again() -> bool:
    """Read the settings again, at a reload; False, and one line with the reason, if a server can't
    run with them.

    The old settings stay until all of the new ones are checked. Raises nothing, because an
    exception here ends gunicorn's master, and all its workers with it."""
    try:
        _HOLDER.held = _reread(accepted_settings())
    except ConfigError as error:
        _report_kept(Refused(error.message, error.hint))
    except Refused as refused:
        _report_kept(refused)
    except Exception as error:  # noqa: BLE001 - logged with its traceback
        _report_kept(Refused(bug(error).message, "See the log."))
    else:
        return True
    return False


def inherited_sockets() -> Sequence[int]:
    """Return the descriptors that a service manager gave this process to listen on
    (sd_listen_fds(3)). Ends the process if its environment variables are wrong."""
    texts = [os.environ.get(name, "0") for name in ("LISTEN_FDS", "LISTEN_PID")]
    if not all(text.isascii() and text.isdigit() and len(text) < 10 for text in texts):
        refuse(
            Refused(
                "LISTEN_FDS or LISTEN_PID is not a number",
                "A service manager sets both; unset them.",
            )
        )
    count, pid = map(int, texts)
    # The first descriptor is 3. With the LISTEN_PID of another process the variables are inherited,
    # and the sockets are that process's.
    return range(3, 3 + count) if pid == os.getpid() else ()


def check_start(addresses: Iterable[Any], inherited: bool) -> None:
    """Check the ledger and the addresses before a server listens; `inherited` addresses are bound
    already. A mistake ends the process with one line.
    """
    try:
        _check_ledger(accepted_settings().settings)
        if not inherited:
            _check_open(addresses, accepted_settings().settings)
            _check_free(addresses)
    except Refused as refused:
        refuse(refused)


def check_listening(addresses: Iterable[Any]) -> None:
    """Check the addresses that a server listens on, and keep them for reloads. A wrong address ends
    the process."""
    _HOLDER.held = replace(accepted_settings(), addresses=tuple(addresses))
    try:
        _check_open(_HOLDER.held.addresses, _HOLDER.held.settings)
        _report_dead_tokens(_HOLDER.held.settings)
    except Refused as refused:
        refuse(refused)


def refuse(refused: Refused) -> NoReturn:
    """Print in one line why the server does not start, and end the process."""
    sys.stderr.write(f"relay: {refused.message}. {refused.hint}\n")
    raise SystemExit(refused.code)


def unsafe_settings(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the settings that permit more than a server needs, each with the reason."""
    if settings.tokens_file is not None:
        yield "RELAY_TOKENS_FILE", DEPRECATED
    allowed = settings.egress().allow
    if any(entry.has_address(address) for entry in allowed for address in METADATA):
        yield "RELAY_EGRESS_ALLOW", "it opens a metadata service, which gives credentials away"


def url_of(address: Any) -> str:
    """Return an address as a URL, or as `unix:path`."""
    if not isinstance(address, tuple):
        return f"unix:{address if isinstance(address, str) else os.fsdecode(address)}"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}"


def _report_kept(refused: Refused) -> None:
    with suppress(OSError, AttributeError):  # stderr has no reader
        sys.stderr.write(
            f"relay: not reloaded: {refused.message}. {refused.hint} The old settings stay.\n"
        )
        sys.stderr.flush()


def _read() -> Accepted:
    settings, file = load_settings(), settings_file()
    # The results are dropped: a wrong address, or a folder or a CA file that can't be read, must
    # show before any setting is replaced.
    _parse_bind(settings.bind)
    _ = settings.folders
    client_context(settings.ca_bundle, settings.tls)
    proxies_of(settings.trusted_proxies, settings.public_url)
    return Accepted(
        settings=settings,
        file=file,
        tokens=load_tokens(settings.tokens_file),
        metrics_tokens=load_tokens(settings.metrics_token_file, "RELAY_METRICS_TOKEN_FILE"),
    )


def _reread(old: Accepted) -> Accepted:
    """Return the current settings. Raises ConfigError or Refused, and the old ones stay."""
    new = _read()
    # An editor may be replacing the file: no setting is meant to be forgotten.
    if old.file is not None and new.file is None:
        raise Refused(
            f"{old.file} was removed", "Put it back, or restart the server to serve without it."
        )
    moves = new.settings.bind != old.settings.bind
    addresses = (_parse_bind(new.settings.bind),) if moves else old.addresses
    _check_open(addresses, new.settings)
    if moves:
        _check_free(addresses)
    # Check an unchanged ledger too: new workers would wait for it, and the old ones have ended.
    _check_ledger(new.settings)
    return replace(new, addresses=addresses)


# -- the checks


def _parse_bind(bind: str) -> Any:
    """Return an address as gunicorn takes it. Raises ConfigError."""
    try:
        return parse_address(bind)
    except RuntimeError:
        raise ConfigError(
            f"bind (RELAY_BIND): {bind!r} is not host:port, unix:/path or fd://number",
            hint="Write an IPv6 address in brackets: [::1]:8080.",
        ) from None


def _check_open(addresses: Iterable[Any], settings: Settings) -> None:
    """Refuse to be open to others without tokens: relay fetches any URL that a request names."""
    public = [
        address
        for address in addresses
        if isinstance(address, tuple) and not is_loopback(str(address[0]))
    ]
    if not public or has_tokens(settings):
        return
    hint = "Run `relay token create NAME --scope admin`, or listen on 127.0.0.1."
    raise Refused(f"{url_of(public[0])} is open to others, and there are no tokens", hint)


def has_tokens(settings: Settings) -> bool:
    """Return whether every request needs a token: also if all have expired or were revoked, since
    nothing is open then. Opens the ledger if no file has tokens; raises Refused as
    `_check_ledger`."""
    return settings.tokens_file is not None or _tokens_of_ledger(settings).ever


def _report_dead_tokens(settings: Settings) -> None:
    """Print that no token is valid. The server starts all the same: its migrations continue."""
    if settings.tokens_file is not None:
        return
    try:
        found = _tokens_of_ledger(settings)
    except Refused:
        return  # a worker waits for its ledger, and reports that
    if found.ever and not found.tokens:
        with suppress(OSError, AttributeError):  # stderr has no reader
            sys.stderr.write(
                "relay: every token has expired or was revoked, so every request is refused."
                " `relay token create` makes one.\n"
            )
            sys.stderr.flush()


def _tokens_of_ledger(settings: Settings) -> LiveTokens:
    """Return the tokens of the ledger. Raises Refused as `_check_ledger`."""
    try:
        ledger = Ledger(open_database(settings.ledger_url()))
    except ConfigError as error:
        raise Refused(error.message, error.hint) from None
    try:
        return ledger.tokens.live()
    except LedgerFailed as error:
        raise Refused(error.message, error.hint) from None
    finally:
        ledger.close()


def _check_ledger(settings: Settings) -> None:
    """Open the ledger once, which creates or upgrades it before any worker needs it."""
    try:
        open_database(settings.ledger_url()).close()
    except ConfigError as error:
        raise Refused(error.message, error.hint) from None


def _check_free(addresses: Iterable[Any]) -> None:
    """Check that the addresses are free; gunicorn would try for five seconds, or take a unix socket
    from its server."""
    for address in addresses:
        try:
            if isinstance(address, tuple):
                _check_port(address)
            elif isinstance(address, int):
                _check_descriptor(address)
            else:
                _check_unix(os.fsdecode(address))
        # Python raises OverflowError and ValueError for a port or a name that no system takes.
        except (OSError, OverflowError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            where = f"fd://{address}" if isinstance(address, int) else url_of(address)
            raise Refused(f"cannot listen on {where} ({why})", _CHOOSE, EXIT_BIND) from None


def _check_descriptor(number: int) -> None:
    """Refuse a descriptor that is not open, or is not a socket."""
    if not stat.S_ISSOCK(os.fstat(number).st_mode):
        raise ValueError("it is not a socket")


def _check_port(address: tuple[Any, ...]) -> None:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As gunicorn does: connections in TIME_WAIT do not occupy the port (socket(7)).
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address[:2])


def _check_unix(path: str) -> None:
    """Refuse a path at which another server listens, or may listen; a socket that a dead server
    left may be replaced."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise ValueError("there is no such folder")
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ValueError("something else has that name")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(path)
        except TimeoutError:
            raise ValueError("a server listens there, and does not answer") from None
        except FileNotFoundError:
            probe.bind(path)  # a folder may be there, and take no name
            os.unlink(path)
        except ConnectionRefusedError:
            # gunicorn deletes the old socket before it makes its own.
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(
                    errno.EACCES, "the socket of a dead server can't be removed"
                ) from None
        else:
            raise ValueError("a server listens there")
