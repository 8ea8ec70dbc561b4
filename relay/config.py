"""Settings: every limit of relay, where it is read from, and the memory that all of them add up to.

Decided here: names, defaults and bounds. A flag wins over a `RELAY_*` variable, that over
`relay.toml`, that over the default. Never here: anything that acts on a setting."""

from __future__ import annotations

import ipaddress
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
    """What one exchange may take. All times in seconds, all sizes in bytes."""

    connect_seconds: float = 10.0
    """For the name, the connection and the TLS handshake together, of one address after the
    other."""
    head_seconds: float = 60.0
    """From the last byte of a request to the last byte of the answer's head."""
    total_seconds: float = 24 * 3600.0
    """For one transfer with all its attempts."""
    stall_seconds: float = 60.0
    stall_bytes: int = KIB
    """A side is stalled when fewer than `stall_bytes` a second moved over `stall_seconds`; with 0
    any byte will do."""
    expect_seconds: float = 1.0
    """How long a `100 Continue` is waited for (RFC 9110 section 10.1.1 lets a client go on without
    it)."""
    expect_bytes: int = MIB
    """Uploads of at least this length ask with `Expect: 100-continue` first; smaller ones are
    cheaper to lose."""
    early_seconds: float = 2.0
    """How long an answer is looked for after an upload's connection broke."""
    head_bytes: int = 64 * KIB
    head_fields: int = 100
    interim_heads: int = 8
    chunk_line_bytes: int = 4 * KIB
    """A chunk's size line with its extensions; trailers together may have `head_bytes`."""
    text_bytes: int = 64 * KIB
    """What is read of an answer that is not an object: an error page, an upload's answer."""
    redirects: int = 5
    idle_seconds: float = 15.0
    idle_connections: int = 64
    """Connections kept alive, of all origins together, and for how long."""
    lookups: int = 64
    """Names that are looked up at once, each in a thread."""
    addresses: int = 16
    """Addresses of one name that are tried."""
    buffer_bytes: int = MIB
    """The largest piece that is copied at once."""
    tick_seconds: float = 1.0
    """How often a waiting pump looks at its clocks, and at a cancel."""
    yield_seconds: float = 0.002
    """How long a pump may run before it lets the others run: ten slots flat out make a round of 20
    ms."""
    parted_bytes: int = 64 * MIB
    """Objects of at least this length go in parts, where both sides can."""
    part_bytes: int = 16 * MIB
    """The length of a part, unless the destination's limits want larger ones."""
    parts_in_flight: int = 4
    """Parts of one object that move at once."""
    listing_seconds: float = 0.0
    """How long one page of a listing that fails is asked for again; 0 asks once."""
    settle_seconds: float = 10.0
    """How long a destination may take to show an object that it acknowledged."""
    sweep_waits: tuple[float, ...] = (0.0, 0.05, 0.2, 0.5)
    """The waits before each look for what a broken upload left: a server may write on for a
    moment."""


class Settings(BaseModel):
    """Everything that an operator can set. Read with `load_settings`, which turns mistakes into
    ConfigError."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bind: str = Field(
        "127.0.0.1:8080", description="Where to listen; anything but loopback needs a tokens file."
    )
    workers: int = Field(1, ge=1, le=256, description="Processes; each has its own slots.")
    graceful_timeout: int = Field(
        30, ge=1, le=86400, description="Seconds that running transfers get to end after SIGTERM."
    )

    slots: int = Field(10, ge=1, le=100_000, description="Transfers at a time in a worker.")
    waiters: int = Field(
        100,
        ge=0,
        le=100_000,
        description="Requests that may wait for a slot in a worker; the next one is answered 503.",
    )
    wait_seconds: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="How long a request waits for a slot before it is answered 503.",
    )

    connect_seconds: float = Field(
        10.0, gt=0, le=600, description="Limit of a connection with its TLS handshake."
    )
    head_seconds: float = Field(
        60.0, gt=0, le=3600, description="Limit from a request to the head of its answer."
    )
    total_seconds: float = Field(
        24 * 3600.0,
        gt=0,
        description="Limit of one transfer with all its attempts; parts that arrived are kept.",
    )
    stall_seconds: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="A store stalls when it moves fewer than stall_bytes a second for this long.",
    )
    stall_bytes: int = Field(KIB, ge=1, description="Bytes a second below which a store stalls.")
    settle_seconds: float = Field(
        10.0,
        ge=0,
        le=600,
        description="How long a destination may take to show an object that it acknowledged.",
    )
    buffer_bytes: int = Field(
        MIB, ge=16 * KIB, le=64 * MIB, description="The largest piece that is copied at once."
    )

    parted_bytes: int = Field(
        64 * MIB,
        ge=1,
        description="Objects of at least this length go in parts, where both sides can.",
    )
    part_bytes: int = Field(
        16 * MIB,
        ge=5 * MIB,
        le=5 * 1024 * MIB,
        description=(
            "The length of a part; larger where an object would have more parts than the"
            " destination takes."
        ),
    )
    parts_in_flight: int = Field(
        4, ge=1, le=256, description="Parts of one object that move at once."
    )

    retry_budget: float = Field(
        60.0,
        ge=0,
        le=86400,
        description=(
            "Seconds, from the first failure, within which a transfer is retried; whole again when"
            " it gets farther than before. 0 tries once."
        ),
    )

    request_bytes: int = Field(MIB, ge=KIB, description="The largest request body.")
    request_seconds: float = Field(
        10.0, gt=0, le=600, description="How long a request body may take to arrive."
    )

    egress_allow: str = Field(
        "",
        description=(
            "Hosts and CIDRs that may be reached although they are not public, separated by commas;"
            " each may name a port: nas.lan:9000,10.0.0.0/8."
        ),
    )
    egress_ports: str = Field("80,443,8080,8443", description="Ports of all other hosts.")
    ca_bundle: Path | None = Field(
        None,
        description=(
            "Certificate authorities that are trusted besides the system's (PEM). Nothing turns"
            " checks off."
        ),
    )
    tokens_file: Path | None = Field(
        None,
        description=(
            "One token a line, in a file that only its owner can read; needed when the server"
            " listens on anything but loopback. Clients send Authorization: Bearer TOKEN."
        ),
    )

    ledger: str = Field(
        "",
        description=(
            "Where migrations are kept: sqlite:////folder/relay.db, or"
            " postgresql+psycopg://user:password@host/name. Empty is ledger.db in the user's data"
            " folder."
        ),
    )
    lease_seconds: float = Field(
        30.0,
        ge=1,
        le=3600,
        description=(
            "How long a silent worker keeps its claims in the ledger; on one machine a dead worker"
            " is noticed at once."
        ),
    )

    url: str = Field(
        "",
        description=(
            "The server that relay submit, watch, status and so on ask; empty is the ledger of this"
            " machine."
        ),
    )
    token: str = Field("", repr=False, description="The token that these commands send.")
    token_file: Path | None = Field(
        None,
        description=(
            "A file with that token, which only its owner can read; wins over the token itself."
        ),
    )

    local_folders: str = Field(
        "",
        description="Folders of this machine that the server may read and write, separated by ':'.",
    )
    remotes: dict[str, dict[str, str]] = Field(
        {},
        repr=False,
        description="Named stores, in relay.toml only, with rclone's options under rclone's names.",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        if (
            isinstance(value, str) and "\0" in value
        ):  # which relay.toml can say, and no system call takes
            raise ValueError("it has a NUL")
        return value

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
            idle_connections=4 * min(self.slots, 500)
            + 64,  # each transfer may have some to read and to write
            lookups=min(
                64 + 4 * self.slots, 512
            ),  # a silent name keeps its thread for longer than its transfer waits
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
        """Return the folders that are allowed, links resolved. Raises ConfigError for one that is
        not there."""
        named = [Path(text) for text in self.local_folders.split(":") if text]
        for path in named:
            if not path.is_absolute() or not path.is_dir():
                raise ConfigError(
                    f"RELAY_LOCAL_FOLDERS: {path} is not the absolute path of a folder that is"
                    " there"
                )
        return tuple(path.resolve() for path in named)

    def ledger_url(self) -> str:
        """Return the ledger's URL, or that of the file in the user's data folder (XDG Base
        Directory, 0.8: a relative path counts for none). Raises ConfigError for one that is not
        UTF-8, and where it is not known where that is."""
        data = Path(os.environ.get("XDG_DATA_HOME", ""))
        if not self.ledger and not data.is_absolute():
            data = home() / ".local" / "share"
        if not self.ledger and not data.is_absolute():
            hint = "Set HOME; or name the ledger in RELAY_LEDGER: sqlite:////folder/ledger.db."
            raise ConfigError("HOME is no absolute path, and the system knows no other", hint=hint)
        url = self.ledger or f"sqlite:///{data / 'relay' / 'ledger.db'}"
        if not url.isascii() and any("\udc80" <= char <= "\udcff" for char in url):
            raise ConfigError(
                "the place of the ledger is not UTF-8",
                hint="Name one that is in RELAY_LEDGER: sqlite:////folder/ledger.db.",
            )
        return url

    def memory_ceiling_bytes(self) -> int:
        """Return what payload may take in all workers together, besides about 60 MiB a worker for
        the program.

        Each part of a transfer that is under way holds at most one buffer, and TLS the like of it
        in each direction on each side. An object of unknown length on its way to S3 holds one part
        as well, and moves alone."""
        parted = self.parts_in_flight * 5 * self.buffer_bytes
        growing = self.part_bytes + 5 * self.buffer_bytes
        return self.workers * self.slots * max(parted, growing)


def home() -> Path:
    """Return the user's own folder: HOME, or where that is no absolute path what the system knows;
    where it knows none either a relative path, which is another one in each folder."""
    named = Path(os.environ.get("HOME", ""))
    try:
        return named if named.is_absolute() else Path(getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return named


def load_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings; `flags` (None values left out) win. Raises ConfigError that names each
    wrong setting."""
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
        # /dev/null is how one says: no file.
        if named and named != os.devnull and not Path(named).is_file():
            raise ConfigError(f"RELAY_CONFIG {named} is no file that is there")
        settings = Settings(**{**_in_file(), **_set(variables), **given})
    except ValidationError as error:
        raise ConfigError("; ".join(_told(e, given) for e in error.errors())) from None
    except OSError as error:  # of a look whether it is there
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
"""What the errors of pydantic mean, by their type."""


def _told(error: Any, given: Mapping[str, Any]) -> str:
    """Return what is wrong with a setting, and where it stands; `given` are those that flags
    gave."""
    name = ".".join(str(part) for part in error["loc"]) or "setting"
    said = _SAID.get(error["type"])
    reported = (
        said.format(**error.get("ctx", {})) if said else error["msg"].removeprefix("Value error, ")
    )
    first = str(error["loc"][0]) if error["loc"] else name
    source = f"--{first}".replace("_", "-") if first in given else _place(first)
    return f"{name} ({source}): {reported}"


_NOT_SETTINGS = frozenset({"config", "failpoint"})
"""Our variables that are no settings."""

_SERVICE = re.compile(
    r"RELAY_(?:\w+_)?(?:SERVICE_HOST=.*|SERVICE_PORT(?:_\w+)?=[0-9]+|PORT=[a-z]+://.*"
    r"|PORT_[0-9]+_[A-Z]+(?:=[a-z]+://.*|_(?:PROTO|PORT|ADDR)=.*))"
)
"""What Kubernetes gives every container of a namespace that has a Service `relay` or `relay-…`, and
Docker one with a link to such a container (kubernetes.io, "Service", "Environment variables")."""


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return our variables, without what they begin with."""
    return {
        name[6:].lower(): text
        for name, text in environment.items()
        if name.startswith("RELAY_") and not _SERVICE.fullmatch(f"{name}={text}")
    }


def _set(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings among the variables; an empty one counts as none."""
    return {name: text for name, text in variables.items() if text and name not in _NOT_SETTINGS}


def _in_file() -> dict[str, Any]:
    """Return what stands in the file, if there is one. Raises ConfigError, or ValueError for what
    is no TOML."""
    path = _file()
    if not path.is_file():
        return {}
    if not os.environ.get("RELAY_CONFIG") and _is_planted(path):
        raise ConfigError(
            f"{path} of the current folder may be another user's",
            hint=(
                "Name it in RELAY_CONFIG if it is meant, or work in a folder that others can't"
                " write to."
            ),
        )
    return tomllib.loads(read_small(path))


def is_found(name: str) -> bool:
    """Say if a setting stands in the relay.toml of the current folder alone: it may have come along
    with the folder, as of a cloned repository, without the user's knowledge. Raises as
    `load_settings`."""
    return (
        not (os.environ.get("RELAY_CONFIG") or os.environ.get(f"RELAY_{name.upper()}"))
        and name in _in_file()
    )


def _is_planted(path: Path) -> bool:
    """Say if anybody may have put a file where it lies, as into /tmp, or may write to it: it says
    which store a remote is, and which server gets a token."""
    found = path.stat()
    others = (
        found.st_uid not in (0, os.geteuid())
        and path.absolute().parent.stat().st_mode & stat.S_IWOTH
    )
    return bool(others or found.st_mode & stat.S_IWOTH)


def _file() -> Path:
    return Path(os.environ.get("RELAY_CONFIG") or "relay.toml")


def settings_file() -> Path | None:
    """Return the file that settings are read from; None where there is none."""
    return _file() if _file().is_file() else None


def _place(name: str) -> str:
    """Return where a setting stands: its variable, or the file and the line."""
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
    """Say if a host is only reached from this machine, IPv4-mapped addresses included; an empty one
    means every."""
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
        raise ConfigError(
            f"RELAY_TOKENS_FILE {path} holds no token", hint="Write one token a line."
        )
    return tokens
