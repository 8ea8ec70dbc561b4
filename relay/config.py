"""Settings: names, defaults and bounds, and the memory that they add up to.

Never here: where they are read from (`settings_sources.py`), and anything that acts on a
setting."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from pwd import getpwuid
from typing import Any, Final

from relay.egress import EgressPolicy, parse_allow
from relay.errors import ConfigError
from relay.logs.event_table import LogFormat, LogLevel
from relay.setting_values import InvalidSettings, Mistake, setting, settings_of
from relay.transfer_limits import KIB, MIB, Limits


class TlsLibrary(StrEnum):
    """The TLS libraries that relay can use. AUTO is the one with the newer OpenSSL."""

    AUTO = "auto"
    SSL = "ssl"
    PYOPENSSL = "pyopenssl"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of an operator. `settings_sources.load_settings` reads them, and raises
    ConfigError for an invalid one; to make some raises InvalidSettings."""

    bind: str = setting(
        "127.0.0.1:8080",
        description="Address to listen on; any address but loopback needs a token (`relay token`).",
    )
    workers: int = setting(
        1, ge=1, le=256, description="Number of server processes; each has its own slots."
    )
    graceful_timeout: int = setting(
        30, ge=1, le=86400, description="Seconds that running transfers get to end after SIGTERM."
    )

    slots: int = setting(
        10,
        ge=1,
        le=100_000,
        description=(
            "Maximum number of concurrent transfers in a worker. Unless it is set, `relay migrate"
            " -r` takes up to 64 while throughput grows."
        ),
    )
    waiters: int = setting(
        100,
        ge=0,
        le=100_000,
        description=(
            "Maximum number of requests that wait for a slot in a worker; further requests are"
            " answered 503."
        ),
    )
    streams: int = setting(
        200,
        ge=0,
        le=100_000,
        description=(
            "Maximum number of streams of events (server-sent events) in a worker; further requests"
            " are answered 503."
        ),
    )
    token_streams: int = setting(
        20,
        ge=0,
        le=100_000,
        description="Maximum number of these streams of one token in a worker.",
    )
    wait_seconds: float = setting(
        30.0,
        ge=0,
        le=3600,
        description="Seconds that a request waits for a slot before it is answered 503.",
    )

    connect_seconds: float = setting(
        10.0,
        gt=0,
        le=600,
        description="Limit of a connection with its TLS handshake, in seconds.",
    )
    head_seconds: float = setting(
        60.0,
        gt=0,
        le=3600,
        description="Limit from a request to the head of its answer, in seconds.",
    )
    total_seconds: float = setting(
        24 * 3600.0,
        gt=0,
        description=(
            "Limit of one transfer with all its attempts, in seconds; uploaded parts are kept for a"
            " retry."
        ),
    )
    stall_seconds: float = setting(
        60.0,
        gt=0,
        le=3600,
        description=(
            "Seconds with fewer than stall_bytes a second after which a store counts as stalled."
        ),
    )
    stall_bytes: int = setting(
        KIB, ge=1, description="Bytes per second below which a store counts as stalled."
    )
    settle_seconds: float = setting(
        10.0,
        ge=0,
        le=600,
        description="Seconds that a destination may take to show an object that it acknowledged.",
    )
    buffer_bytes: int = setting(
        MIB,
        ge=16 * KIB,
        le=64 * MIB,
        description="Maximum number of bytes that are copied at once.",
    )

    parted_bytes: int = setting(
        64 * MIB,
        ge=1,
        description=(
            "Minimum length in bytes of an object that is moved as a multipart upload, if both"
            " stores can."
        ),
    )
    part_bytes: int = setting(
        16 * MIB,
        ge=5 * MIB,
        le=5 * 1024 * MIB,
        description=(
            "Length of a part in bytes; larger if an object would have more parts than the"
            " destination allows."
        ),
    )
    parts_in_flight: int = setting(
        4,
        ge=1,
        le=256,
        description="Maximum number of parts of one object that move concurrently.",
    )

    retry_budget: float = setting(
        60.0,
        ge=0,
        le=86400,
        description=(
            "Seconds from the first failure within which a transfer is retried; progress resets it."
            " 0 disables retries."
        ),
    )

    request_bytes: int = setting(
        MIB, ge=KIB, description="Maximum size of a request body in bytes."
    )
    request_seconds: float = setting(
        10.0, gt=0, le=600, description="Seconds that a request body may take to arrive."
    )

    refusals_per_second: int = setting(
        200,
        ge=0,
        le=1_000_000,
        description=(
            "Refused requests of one address a second that a worker answers in full. Beyond that,"
            " requests without a valid token or session get a short 429. 0 disables the limit."
        ),
    )

    egress_allow: str = setting(
        "",
        description=(
            "Private hosts and CIDRs that relay may connect to, separated by commas; each may name"
            " a port: nas.lan:9000,10.0.0.0/8."
        ),
    )
    egress_ports: str = setting(
        "80,443,8080,8443", description="Ports that relay may connect to on all other hosts."
    )
    ca_bundle: Path | None = setting(
        None,
        description=(
            "File with certificate authorities to trust besides the system's (PEM). Certificate"
            " checks can't be turned off."
        ),
    )
    tls: TlsLibrary = setting(
        TlsLibrary.AUTO,
        description=(
            "The TLS library: `ssl` (Python's own), `pyopenssl` (the OpenSSL in the cryptography"
            " package), or `auto`, the one with the newer OpenSSL. Both check certificates alike."
        ),
    )
    tokens_file: Path | None = setting(
        None,
        description=(
            "Deprecated in favour of `relay token create`: file with one token a line, which only"
            " its owner can read. Each of them may do everything."
        ),
    )
    public_url: str = setting(
        "",
        description=(
            "Address at which browsers reach this server through a proxy with TLS:"
            " https://relay.example, with the path prefix if the proxy adds one. Beyond loopback,"
            " people can sign in only there."
        ),
    )
    trusted_proxies: str = setting(
        "",
        description=(
            "Addresses and CIDRs of the proxies whose X-Forwarded-* fields count, separated by"
            " commas; `unix` is every peer of a unix socket."
        ),
    )
    log_format: LogFormat = setting(
        LogFormat.JSON,
        description="Form of the lines in a server's log: `json`, or `text` for people.",
    )
    log_level: LogLevel = setting(
        LogLevel.INFO,
        description=(
            "The lowest level in a server's log: debug, info, warning or error. With `debug` each"
            " object has a line."
        ),
    )
    metrics_token_file: Path | None = setting(
        None,
        description=(
            "File with one token a line, which only its owner can read. Each allows nothing but"
            " GET /metrics. A token with the scope admin may read them too."
        ),
    )

    ledger: str = setting(
        "",
        description=(
            "Database of migrations: sqlite:////folder/relay.db, or"
            " postgresql+psycopg://user:password@host/name. Empty is ledger.db in the user's data"
            " folder."
        ),
    )
    prices: Path | None = setting(
        None,
        description=(
            "File with prices of stores (TOML), before those that relay has: `relay plan` and the"
            " plans of a server say what a migration costs."
        ),
    )
    spill_bytes: int = setting(
        8 * 1024 * MIB,
        ge=MIB,
        description=(
            "Disk beside the ledger that `relay verify` and plans may take to sort listings, in"
            " bytes. Beyond that they fail."
        ),
    )
    lease_seconds: float = setting(
        30.0,
        ge=1,
        le=3600,
        description=(
            "Seconds after which a silent worker loses its claims in the ledger; on the same"
            " machine a dead worker is noticed at once. A server's; commands have 30."
        ),
    )

    url: str = setting(
        "",
        description=(
            "URL of the server that relay submit, watch, status etc. use; empty is the ledger of"
            " this machine."
        ),
    )
    token: str = setting("", shown=False, description="Token that these commands send.")
    token_file: Path | None = setting(
        None,
        description=("File with that token, which only its owner can read; overrides `token`."),
    )

    local_folders: str = setting(
        "",
        description="Folders of this machine that the server may read and write, separated by ':'.",
    )
    remotes: dict[str, dict[str, str]] = setting(
        {},
        shown=False,
        description="Named stores, in relay.toml only, with the names of rclone's options.",
    )

    def __post_init__(self) -> None:
        """Read each value in its setting's type."""
        mistakes: list[Mistake] = []
        for name, declared in SETTINGS.items():
            value = (
                _PREPARED[name](getattr(self, name)) if name in _PREPARED else getattr(self, name)
            )
            try:
                read = declared.read(value)
                if name in _CHECKS:
                    _CHECKS[name](read)
                object.__setattr__(self, name, read)
            except InvalidSettings as error:
                mistakes += [Mistake((name, *one.place), one.said) for one in error.mistakes]
            except ValueError as error:
                mistakes.append(Mistake((name,), str(error)))
        if mistakes:
            raise InvalidSettings(mistakes)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Settings:
        """Return the settings with these values. Raises InvalidSettings, also for a name that is
        none of a setting."""
        mistakes = [
            Mistake((name,), "there is no such setting") for name in values if name not in SETTINGS
        ]
        try:
            made = cls(**{name: value for name, value in values.items() if name in SETTINGS})
        except InvalidSettings as error:
            raise InvalidSettings([*error.mistakes, *mistakes]) from None
        if mistakes:
            raise InvalidSettings(mistakes)
        return made

    def limits(self) -> Limits:
        """Return the limits of one exchange."""
        return Limits(
            connect_seconds=self.connect_seconds,
            head_seconds=self.head_seconds,
            total_seconds=self.total_seconds,
            stall_seconds=self.stall_seconds,
            stall_bytes=self.stall_bytes,
            # A transfer may have several connections to read and to write.
            idle_connections=4 * min(self.slots, 500) + 64,
            # A lookup without an answer keeps its thread for longer than its transfer waits.
            lookups=min(64 + 4 * self.slots, 512),
            listing_seconds=self.retry_budget,
            settle_seconds=self.settle_seconds,
            buffer_bytes=self.buffer_bytes,
            parted_bytes=self.parted_bytes,
            part_bytes=self.part_bytes,
            parts_in_flight=self.parts_in_flight,
        )

    def egress(self) -> EgressPolicy:
        """Return the address policy. Raises ConfigError for an entry that is neither a host nor a
        CIDR."""
        ports = frozenset(int(p) for p in self.egress_ports.split(",") if p.strip())
        return EgressPolicy(allow=parse_allow(self.egress_allow), ports=ports)

    @cached_property
    def folders(self) -> tuple[Path, ...]:
        """The allowed folders, links resolved. Raises ConfigError for one that does not exist, or
        does not answer, when a server reads its settings: one that is away later is an error of its
        objects. A command has no use for them."""
        return tuple(_folder(Path(text)) for text in self.local_folders.split(":") if text)

    def ledger_url(self) -> str:
        """Return the ledger's URL; without one, that of the file in the user's data folder. Raises
        ConfigError for a URL that is not UTF-8, and as `data_folder`."""
        hint = "Set HOME; or name the ledger in RELAY_LEDGER: sqlite:////folder/ledger.db."
        url = self.ledger or f"sqlite:///{data_folder(hint) / 'ledger.db'}"
        # Bytes of a variable that are not UTF-8 are surrogates in its text (PEP 383).
        if not url.isascii() and any("\udc80" <= char <= "\udcff" for char in url):
            raise ConfigError(
                "the path of the ledger is not UTF-8",
                hint="Set RELAY_LEDGER to one in UTF-8: sqlite:////folder/ledger.db.",
            )
        return url

    def spill_folder(self) -> Path:
        """Return the folder in which listings are sorted: the ledger's, or relay's data folder.
        Raises as `ledger_url`."""
        url = self.ledger_url()
        path = url.removeprefix("sqlite:///").partition("?")[0]
        if path in ("", url):  # another database
            return data_folder("Set HOME.")
        return Path(path).parent

    def memory_ceiling_bytes(self) -> int:
        """Return the maximum memory of the payload in all workers together, in bytes, besides about
        60 MiB a worker for the program."""
        return self.workers * self.slots * self.slot_bytes()

    def slot_bytes(self) -> int:
        """Return the maximum memory of the payload of one slot, in bytes.

        Each part that moves holds at most one buffer, and TLS as much again in each direction on
        each side. An object of unknown length on its way to S3 also holds one part in memory, and
        its parts do not move concurrently."""
        parted = self.parts_in_flight * 5 * self.buffer_bytes
        growing = self.part_bytes + 5 * self.buffer_bytes
        return max(parted, growing)


FOLDER_SECONDS: Final = 5.0
"""How long a folder of this machine has to answer when a server starts."""
_MOUNT_HINT: Final = "Mount it again, or leave it out of the setting."
SETTINGS: Final = settings_of(Settings)
"""The declaration of each setting, in the order in which pages and the help list them."""


def _folder(path: Path) -> Path:
    """Return an allowed folder with its links resolved. Raises ConfigError."""
    setting = "RELAY_LOCAL_FOLDERS"
    if not path.is_absolute():
        raise ConfigError(f"{setting}: {path} is not an absolute path")
    # Imported here because only a server needs it, and a command starts faster.
    from relay.process.bounded_calls import block_within

    try:
        found = block_within(FOLDER_SECONDS, lambda: path.resolve() if path.is_dir() else None)
    except TimeoutError:
        raise ConfigError(f"{setting}: {path} does not answer", hint=_MOUNT_HINT) from None
    except OSError as error:
        why = f"{setting}: {path} can't be reached ({error.strerror})"
        raise ConfigError(why, hint=_MOUNT_HINT) from None
    if found is None:
        raise ConfigError(f"{setting}: {path} is not an existing folder")
    return found


def _require_address(text: str) -> None:
    _, colon, port = text.rpartition(":")
    number = port.isascii() and port.isdigit() and int(port) <= 65535
    if not text.startswith(("unix:", "fd://")) and not (colon and number):
        raise ValueError(f"{text!r} is not host:port, unix:/path or fd://number")


def _require_ports(text: str) -> None:
    for port in filter(None, (p.strip() for p in text.split(","))):
        if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
            raise ValueError(f"{port!r} is not a port")


def _option_texts(remotes: Any) -> Any:
    """Return the tables of remotes with their options as texts."""
    # TOML has `env_auth = true` and `chunk_size = 5` for what rclone.conf writes as text.
    if not isinstance(remotes, dict):
        return remotes
    return {name: _as_texts(options) for name, options in remotes.items()}


def _as_texts(options: Any) -> Any:
    """Return the options of a remote with booleans and whole numbers of TOML as rclone.conf writes
    them. The type stays as it is, and so does what is not a table of options."""
    if not isinstance(options, dict):
        return options
    texts = dict(options)
    for option, value in options.items():
        if option != "type" and isinstance(value, bool | int):
            texts[option] = json.dumps(value)
    return texts


_PREPARED: Final[Mapping[str, Callable[[Any], Any]]] = {"remotes": _option_texts}
"""What is done with the values of a setting before they are read."""
_CHECKS: Final[Mapping[str, Callable[[Any], None]]] = {
    "bind": _require_address,
    "egress_ports": _require_ports,
}
"""The further checks of settings. They raise ValueError with the mistake."""


def data_folder(hint: str) -> Path:
    """Return relay's folder in the user's data folder (XDG Base Directory, 0.8: a relative path is
    ignored). Raises ConfigError, with the `hint`, if the user has no home."""
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not data.is_absolute():
        data = home() / ".local" / "share"
    if not data.is_absolute():
        raise ConfigError(
            "HOME is not an absolute path, and the system knows no home of this user", hint=hint
        )
    return data / "relay"


def home() -> Path:
    """Return the user's home: HOME if that is an absolute path, else the system's. If the system
    knows no home either, the path is relative."""
    named = Path(os.environ.get("HOME", ""))
    try:
        return named if named.is_absolute() else Path(getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return named
