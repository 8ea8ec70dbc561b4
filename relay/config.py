"""Settings: names, defaults and bounds, where they are read from, and the memory that they add up
to.

Decided here: all of that. A flag overrides a `RELAY_*` variable, which overrides `relay.toml`,
which overrides the default. Never here: anything that acts on a setting."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pwd import getpwuid
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from relay.egress import EgressPolicy, parse_allow
from relay.errors import ConfigError
from relay.process.failpoints import check
from relay.process.small_files import read_secret, read_small

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Limits:
    """The limits of a transfer and of its exchanges. All times in seconds, all sizes in bytes."""

    connect_seconds: float = 10.0
    """For the lookup, the connection and the TLS handshake together, with all addresses that are
    tried."""
    head_seconds: float = 60.0
    """From the last byte of a request to the last byte of the answer's head."""
    total_seconds: float = 24 * 3600.0
    """For one transfer with all its attempts."""
    stall_seconds: float = 60.0
    stall_bytes: int = KIB
    """A side is stalled if fewer than `stall_bytes` a second moved over `stall_seconds`; with 0, if
    no byte moved."""
    expect_seconds: float = 1.0
    """Time to wait for a `100 Continue`. RFC 9110 section 10.1.1 lets a client send the body
    without it."""
    expect_bytes: int = MIB
    """Minimum length of an upload that asks with `Expect: 100-continue` first. A smaller upload is
    cheaper to repeat."""
    early_seconds: float = 2.0
    """Time to wait for an answer after the connection of an upload broke."""
    head_bytes: int = 64 * KIB
    head_fields: int = 100
    interim_heads: int = 8
    chunk_line_bytes: int = 4 * KIB
    """Maximum length of a chunk's size line with its extensions. All trailers together may have
    `head_bytes`."""
    text_bytes: int = 64 * KIB
    """Maximum length that is read of an answer that is not an object, such as an error page."""
    redirects: int = 5
    idle_seconds: float = 15.0
    """Time for which an idle connection is kept alive."""
    idle_connections: int = 64
    """Maximum number of idle connections, of all origins together."""
    lookups: int = 64
    """Maximum number of concurrent lookups of names, each in a thread."""
    addresses: int = 16
    """Maximum number of addresses of one name that are tried."""
    buffer_bytes: int = MIB
    """Maximum number of bytes that are copied at once."""
    tick_seconds: float = 1.0
    """Time between two checks of the clocks and of a cancel by a waiting pump."""
    yield_seconds: float = 0.002
    """Time after which a pump yields to other greenlets: with ten busy slots each has its turn
    every 20 ms."""
    parted_bytes: int = 64 * MIB
    """Minimum length of an object that is moved as a multipart upload, if both stores can."""
    part_bytes: int = 16 * MIB
    """Length of a part, unless the destination's limits need larger parts."""
    parts_in_flight: int = 4
    """Maximum number of parts of one object that move concurrently."""
    listing_seconds: float = 0.0
    """Time for which a page of a listing is retried; 0 requests it once."""
    settle_seconds: float = 10.0
    """Time that a destination may take to show an object that it acknowledged."""
    sweep_waits: tuple[float, ...] = (0.0, 0.05, 0.2, 0.5)
    """Waits before each check for the remains of a failed upload: a server may write for a moment
    after the connection broke."""


class Settings(BaseModel):
    """The settings of an operator. `load_settings` reads them, and raises ConfigError for an
    invalid one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bind: str = Field(
        "127.0.0.1:8080",
        description="Address to listen on; any address but loopback needs a tokens file.",
    )
    workers: int = Field(
        1, ge=1, le=256, description="Number of server processes; each has its own slots."
    )
    graceful_timeout: int = Field(
        30, ge=1, le=86400, description="Seconds that running transfers get to end after SIGTERM."
    )

    slots: int = Field(
        10, ge=1, le=100_000, description="Maximum number of concurrent transfers in a worker."
    )
    waiters: int = Field(
        100,
        ge=0,
        le=100_000,
        description=(
            "Maximum number of requests that wait for a slot in a worker; further requests are"
            " answered 503."
        ),
    )
    wait_seconds: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="Seconds that a request waits for a slot before it is answered 503.",
    )

    connect_seconds: float = Field(
        10.0,
        gt=0,
        le=600,
        description="Limit of a connection with its TLS handshake, in seconds.",
    )
    head_seconds: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="Limit from a request to the head of its answer, in seconds.",
    )
    total_seconds: float = Field(
        24 * 3600.0,
        gt=0,
        description=(
            "Limit of one transfer with all its attempts, in seconds; uploaded parts are kept for a"
            " retry."
        ),
    )
    stall_seconds: float = Field(
        60.0,
        gt=0,
        le=3600,
        description=(
            "Seconds with fewer than stall_bytes a second after which a store counts as stalled."
        ),
    )
    stall_bytes: int = Field(
        KIB, ge=1, description="Bytes per second below which a store counts as stalled."
    )
    settle_seconds: float = Field(
        10.0,
        ge=0,
        le=600,
        description="Seconds that a destination may take to show an object that it acknowledged.",
    )
    buffer_bytes: int = Field(
        MIB,
        ge=16 * KIB,
        le=64 * MIB,
        description="Maximum number of bytes that are copied at once.",
    )

    parted_bytes: int = Field(
        64 * MIB,
        ge=1,
        description=(
            "Minimum length in bytes of an object that is moved as a multipart upload, if both"
            " stores can."
        ),
    )
    part_bytes: int = Field(
        16 * MIB,
        ge=5 * MIB,
        le=5 * 1024 * MIB,
        description=(
            "Length of a part in bytes; larger if an object would have more parts than the"
            " destination allows."
        ),
    )
    parts_in_flight: int = Field(
        4,
        ge=1,
        le=256,
        description="Maximum number of parts of one object that move concurrently.",
    )

    retry_budget: float = Field(
        60.0,
        ge=0,
        le=86400,
        description=(
            "Seconds from the first failure within which a transfer is retried; progress resets it."
            " 0 disables retries."
        ),
    )

    request_bytes: int = Field(MIB, ge=KIB, description="Maximum size of a request body in bytes.")
    request_seconds: float = Field(
        10.0, gt=0, le=600, description="Seconds that a request body may take to arrive."
    )

    egress_allow: str = Field(
        "",
        description=(
            "Private hosts and CIDRs that relay may connect to, separated by commas; each may name"
            " a port: nas.lan:9000,10.0.0.0/8."
        ),
    )
    egress_ports: str = Field(
        "80,443,8080,8443", description="Ports that relay may connect to on all other hosts."
    )
    ca_bundle: Path | None = Field(
        None,
        description=(
            "File with certificate authorities to trust besides the system's (PEM). Certificate"
            " checks can't be turned off."
        ),
    )
    tokens_file: Path | None = Field(
        None,
        description=(
            "File with one token a line, which only its owner can read; required if the server"
            " listens on any address but loopback. Clients send Authorization: Bearer TOKEN."
        ),
    )

    ledger: str = Field(
        "",
        description=(
            "Database of migrations: sqlite:////folder/relay.db, or"
            " postgresql+psycopg://user:password@host/name. Empty is ledger.db in the user's data"
            " folder."
        ),
    )
    lease_seconds: float = Field(
        30.0,
        ge=1,
        le=3600,
        description=(
            "Seconds after which a silent worker loses its claims in the ledger; on the same"
            " machine a dead worker is noticed at once."
        ),
    )

    url: str = Field(
        "",
        description=(
            "URL of the server that relay submit, watch, status etc. use; empty is the ledger of"
            " this machine."
        ),
    )
    token: str = Field("", repr=False, description="Token that these commands send.")
    token_file: Path | None = Field(
        None,
        description=("File with that token, which only its owner can read; overrides `token`."),
    )

    local_folders: str = Field(
        "",
        description="Folders of this machine that the server may read and write, separated by ':'.",
    )
    remotes: dict[str, dict[str, str]] = Field(
        {},
        repr=False,
        description="Named stores, in relay.toml only, with the names of rclone's options.",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        # relay.toml can contain a NUL, and no system call accepts one.
        if isinstance(value, str) and "\0" in value:
            raise ValueError("it has a NUL")
        return value

    @field_validator("remotes", mode="before")
    @classmethod
    def _option_texts(cls, remotes: Any) -> Any:
        # TOML has `env_auth = true` and `chunk_size = 5` for what rclone.conf writes as text.
        if not isinstance(remotes, dict):
            return remotes
        return {
            name: {
                option: value if option == "type" else _as_text(value)
                for option, value in options.items()
            }
            if isinstance(options, dict)
            else options
            for name, options in remotes.items()
        }

    @field_validator("bind")
    @classmethod
    def _address(cls, text: str) -> str:
        _, colon, port = text.rpartition(":")
        number = port.isascii() and port.isdigit() and int(port) <= 65535
        if not text.startswith(("unix:", "fd://")) and not (colon and number):
            raise ValueError(f"{text!r} is not host:port, unix:/path or fd://number")
        return text

    @field_validator("egress_ports")
    @classmethod
    def _ports(cls, text: str) -> str:
        for port in filter(None, (p.strip() for p in text.split(","))):
            if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
                raise ValueError(f"{port!r} is not a port")
        return text

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

    def folders(self) -> tuple[Path, ...]:
        """Return the allowed folders, links resolved. Raises ConfigError for one that does not
        exist."""
        named = [Path(text) for text in self.local_folders.split(":") if text]
        for path in named:
            if not path.is_absolute() or not path.is_dir():
                raise ConfigError(
                    f"RELAY_LOCAL_FOLDERS: {path} is not the absolute path of an existing folder"
                )
        return tuple(path.resolve() for path in named)

    def ledger_url(self) -> str:
        """Return the ledger's URL; without one, that of the file in the user's data folder (XDG
        Base Directory, 0.8: a relative path is ignored). Raises ConfigError for a URL that is not
        UTF-8, and if the data folder is unknown."""
        data = Path(os.environ.get("XDG_DATA_HOME", ""))
        if not self.ledger and not data.is_absolute():
            data = home() / ".local" / "share"
        if not self.ledger and not data.is_absolute():
            hint = "Set HOME; or name the ledger in RELAY_LEDGER: sqlite:////folder/ledger.db."
            raise ConfigError(
                "HOME is not an absolute path, and the system knows no home of this user", hint=hint
            )
        url = self.ledger or f"sqlite:///{data / 'relay' / 'ledger.db'}"
        if not url.isascii() and any("\udc80" <= char <= "\udcff" for char in url):
            raise ConfigError(
                "the path of the ledger is not UTF-8",
                hint="Set RELAY_LEDGER to one in UTF-8: sqlite:////folder/ledger.db.",
            )
        return url

    def memory_ceiling_bytes(self) -> int:
        """Return the maximum memory of the payload in all workers together, in bytes, besides about
        60 MiB a worker for the program.

        Each part that moves holds at most one buffer, and TLS as much again in each direction on
        each side. An object of unknown length on its way to S3 also holds one part in memory, and
        its parts do not move concurrently."""
        parted = self.parts_in_flight * 5 * self.buffer_bytes
        growing = self.part_bytes + 5 * self.buffer_bytes
        return self.workers * self.slots * max(parted, growing)


def _as_text(value: Any) -> Any:
    """Return a boolean or a whole number of TOML as rclone.conf writes it; others unchanged."""
    return json.dumps(value) if isinstance(value, bool | int) else value


def home() -> Path:
    """Return the user's home: HOME if that is an absolute path, else the system's. If the system
    knows no home either, the path is relative."""
    named = Path(os.environ.get("HOME", ""))
    try:
        return named if named.is_absolute() else Path(getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return named


def load_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings; `flags` that are not None override all others. Raises a ConfigError that
    names each invalid setting."""
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    variables = _variables(os.environ)
    unknown = sorted(
        name for name in variables if name not in {*Settings.model_fields, *_NOT_SETTINGS}
    )
    if unknown:
        hint = "Is it a typo? `relay serve --help` lists them."
        raise ConfigError(f"RELAY_{unknown[0].upper()} is not a setting", hint=hint)
    check(os.environ)
    named = os.environ.get("RELAY_CONFIG")
    try:
        # RELAY_CONFIG=/dev/null means no file.
        if named and named != os.devnull and not Path(named).is_file():
            raise ConfigError(f"RELAY_CONFIG: {named} is not an existing file")
        settings = Settings(**{**_in_file(), **_set(variables), **given})
    except ValidationError as error:
        raise ConfigError("; ".join(_describe_mistake(e, given) for e in error.errors())) from None
    except OSError as error:  # the check whether the file exists failed
        raise ConfigError(f"{_file()} can't be read ({error.strerror})") from None
    except ValueError as error:  # tomllib names the line and the column
        raise ConfigError(f"{_file()}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{_file()}: it is nested too deeply") from None
    settings.egress()
    settings.folders()
    return settings


_SAID: Mapping[str, str] = {
    "extra_forbidden": "there is no such setting",
    "int_parsing": "it is not a whole number",
    "int_from_float": "it is not a whole number",
    "float_parsing": "it is not a number",
    "greater_than": "it must be greater than {gt:g}",
    "greater_than_equal": "it must be at least {ge:g}",
    "less_than": "it must be less than {lt:g}",
    "less_than_equal": "it must be at most {le:g}",
}
"""The meanings of pydantic's errors, by their type."""


def _describe_mistake(error: Any, given: Mapping[str, Any]) -> str:
    """Return the mistake in a setting, and the setting's source; `given` are those from flags."""
    name = ".".join(str(part) for part in error["loc"]) or "setting"
    said = _SAID.get(error["type"])
    reported = (
        said.format(**error.get("ctx", {})) if said else error["msg"].removeprefix("Value error, ")
    )
    first = str(error["loc"][0]) if error["loc"] else name
    source = f"--{first}".replace("_", "-") if first in given else _place(first)
    return f"{name} ({source}): {reported}"


_NOT_SETTINGS = frozenset({"config", "failpoint"})
"""RELAY_* variables that are not settings."""

_SERVICE = re.compile(
    r"RELAY_(?:\w+_)?(?:SERVICE_HOST=.*|SERVICE_PORT(?:_\w+)?=[0-9]+|PORT=[a-z]+://.*"
    r"|PORT_[0-9]+_[A-Z]+(?:=[a-z]+://.*|_(?:PROTO|PORT|ADDR)=.*))"
)
"""Variables that Kubernetes gives every container of a namespace that has a Service `relay` or
`relay-…`, and Docker one with a link to such a container (kubernetes.io, "Service", "Environment
variables")."""


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the RELAY_* variables by their names without that prefix, in lower case."""
    return {
        name[6:].lower(): text
        for name, text in environment.items()
        if name.startswith("RELAY_") and not _SERVICE.fullmatch(f"{name}={text}")
    }


def _set(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings among the variables, without empty ones."""
    return {name: text for name, text in variables.items() if text and name not in _NOT_SETTINGS}


def _in_file() -> dict[str, Any]:
    """Return the settings of the file; {} without a file. Raises ConfigError, and ValueError if it
    is not TOML."""
    path = _file()
    if not path.is_file():
        return {}
    if not os.environ.get("RELAY_CONFIG") and _is_planted(path):
        raise ConfigError(
            f"{path} of the current folder may be another user's",
            hint=(
                "Set RELAY_CONFIG to this file to use it, or work in a folder that other users"
                " can't write to."
            ),
        )
    return tomllib.loads(read_small(path))


def is_found(name: str) -> bool:
    """Return whether only the relay.toml of the current folder has a setting: the file may be part
    of a cloned repository, without the user's knowledge. Raises as `load_settings`."""
    return (
        not (os.environ.get("RELAY_CONFIG") or os.environ.get(f"RELAY_{name.upper()}"))
        and name in _in_file()
    )


def _is_planted(path: Path) -> bool:
    """Return whether another user may have created a file, as in /tmp, or may write to it. The file
    chooses the stores of remotes, and the server that gets a token."""
    found = path.stat()
    if found.st_mode & stat.S_IWOTH:
        return True
    if found.st_uid in (0, os.geteuid()):
        return False
    return bool(path.absolute().parent.stat().st_mode & stat.S_IWOTH)


def _file() -> Path:
    return Path(os.environ.get("RELAY_CONFIG") or "relay.toml")


def settings_file() -> Path | None:
    """Return the file that settings are read from, or None if it does not exist."""
    return _file() if _file().is_file() else None


def _place(name: str) -> str:
    """Return where a setting is set: its variable, or the file and the line."""
    variable = f"RELAY_{name.upper()}"
    if os.environ.get(variable) or not _file().is_file():
        return variable
    stands = re.compile(rf"\s*(?:\[+\s*)?['\"]?{re.escape(name)}['\"]?\s*[=.\]]")
    lines = read_small(_file()).splitlines()
    return next(
        (f"{_file()}:{number}" for number, line in enumerate(lines, start=1) if stands.match(line)),
        variable,
    )


def is_loopback(host: str) -> bool:
    """Return whether a host is a loopback address, IPv4-mapped ones included. An empty host, which
    means all addresses, is not."""
    if host.lower().removesuffix(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def load_tokens(path: Path | None) -> frozenset[str]:
    """Read one token a line; '#' starts a comment. Raises ConfigError for a file that others could
    read or change."""
    if path is None:
        return frozenset()
    lines = read_secret(path, "RELAY_TOKENS_FILE").splitlines()
    tokens = frozenset(
        line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")
    )
    for token in tokens:
        if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(
                f"RELAY_TOKENS_FILE {path}: a token must be 16 or more printable ASCII characters"
            )
    if not tokens:
        raise ConfigError(f"RELAY_TOKENS_FILE {path} has no token", hint="Write one token a line.")
    return tokens
