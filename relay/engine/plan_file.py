"""A saved plan: a file of lines with what a plan decided about each object, for a migration that
does only that.

Theory of operation. The first line has the request, each further one an object, in the order of
names, and the last one the number of objects, those of the refused and the undecided ones, and the
SHA-256 of all lines before it: a file that was cut or changed is refused. It has names, sizes and
ETags, and no credentials. It appears whole, under its final name, or not at all.

Decided here: the form of the file. Never here: what a plan decides (`dry_run.py`), and whether it
still fits (`relay/ledger/planned_values.py`)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from secrets import token_hex
from stat import S_ISREG
from typing import Any, BinaryIO, Final

from relay.engine.decisions import PlanDecision, PlannedObject
from relay.errors import OutputFailed, PlanRefused
from relay.ledger.planned_values import SeenVersion

FORMAT: Final = "relay-plan@1"
_ANY_FORMAT: Final = "relay-plan@"
_NEW: Final = b'{"format":"relay-plan@"}'
"""Stands for the first line of an empty file, which may become a plan."""
_READING: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
LONGEST_LINE: Final = 1 << 20
"""Maximum length of a line, in bytes."""
PAUSED: Final = 200
"""Number of lines that are read in some milliseconds."""
_ENCODE: Final = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


@dataclass(frozen=True)
class PlanReference:
    """A saved plan that a migration follows."""

    path: str
    sha256: str
    """That of the whole file, in hex."""

    def to_json(self) -> dict[str, str]:
        """Return it as plain values, as it is kept in a migration's options."""
        return {"path": self.path, "sha256": self.sha256}


@dataclass(frozen=True, kw_only=True)
class PlanHeader:
    """The request of a plan, without credentials."""

    source: str
    destination: str
    options: Mapping[str, Any]
    """As those of a migration."""
    places: tuple[str, str]
    """A hash of the identity of both places, in hex: a remote may lead elsewhere since."""
    made: float
    """When the listings began, in seconds since 1970."""


class PlanWriter:
    """Takes the decisions of a dry run, and writes them. Use as a context: without `publish`
    nothing is left."""

    def __init__(self, path: Path, header: PlanHeader) -> None:
        """Raises nothing; the file is made when the context is entered."""
        self._final = Path(os.path.abspath(path))
        self._draft = self._final.with_name(f".{self._final.name}.{token_hex(4)}.partial")
        self._header = header
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._counts = _PlanCounts()

    @property
    def objects(self) -> int:
        """The number of objects so far."""
        return self._counts.objects

    def __enter__(self) -> PlanWriter:
        """Make the file under another name. Raises OutputFailed, also if a file of the final name
        is not a plan."""
        self._require_replaceable()
        with self._failing():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.fdopen(os.open(self._draft, flags, 0o600), "wb")
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, and remove it unless it was published."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        with suppress(FileNotFoundError, OSError):
            self._draft.unlink()

    def add(self, one: PlannedObject) -> None:
        """Write one object. Raises OutputFailed."""
        members: dict[str, Any] = {
            "name": one.name,
            "decision": one.decision.value,
            "basis": one.basis,
            "source": asdict(one.source),
            "destination": None if one.destination is None else asdict(one.destination),
        }
        if one.detail:
            members["detail"] = one.detail
        self._write(members)
        self._counts.add(one)

    def restart(self) -> None:
        """Begin the file again. Raises OutputFailed."""
        file = self._open_file
        with self._failing():
            file.seek(0)
            file.truncate()
        self._digest = hashlib.sha256()
        self._counts = _PlanCounts()
        self._begin()

    def publish(self) -> None:
        """Finish the file and give it its final name; it replaces an older plan of that name.
        Raises OutputFailed."""
        self._write({"end": self._counts.end(self._digest.hexdigest())})
        file = self._open_file
        with self._failing():
            file.flush()
            os.fsync(file.fileno())
            self._draft.rename(self._final)

    def _require_replaceable(self) -> None:
        """Raise OutputFailed if the final name is that of something else than an older plan."""
        if not os.path.lexists(self._final) or is_plan(self._final):
            return
        raise OutputFailed(
            f"{self._final} exists, and is not a plan",
            hint="Nothing was written. Choose another file, or remove that one.",
        )

    @property
    def _open_file(self) -> BinaryIO:
        assert self._file is not None, "it is a context"
        return self._file

    def _begin(self) -> None:
        header = self._header
        self._write({"format": FORMAT, **asdict(header), "places": list(header.places)})

    def _write(self, members: Mapping[str, Any]) -> None:
        line = _ENCODE(members).encode("ascii") + b"\n"
        self._digest.update(line)
        with self._failing():
            self._open_file.write(line)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Raise OutputFailed for the system's errors of a block."""
        try:
            yield
        except OSError as error:
            raise OutputFailed(
                f"{self._final} can't be written ({error.strerror})",
                hint="Make room there, or choose another file.",
            ) from None


@dataclass(eq=False)
class _PlanCounts:
    """What the last line of a plan has about the lines before it."""

    objects: int = 0
    refused: int = 0
    unknown: int = 0

    def add(self, one: PlannedObject) -> None:
        """Count one more object."""
        self.objects += 1
        self.refused += one.decision is PlanDecision.REFUSE
        self.unknown += one.decision is PlanDecision.UNKNOWN

    def end(self, sha256: str) -> dict[str, Any]:
        """Return the last line's members, for lines of this SHA-256, in hex."""
        return {**asdict(self), "sha256": sha256}

    def is_end(self, found: Any, sha256: str) -> bool:
        """Return whether these are the last line's members. An older relay wrote fewer counts."""
        whole = self.end(sha256)
        if not isinstance(found, dict) or not {"objects", "sha256"} <= found.keys():
            return False
        return {**whole, **found} == whole


def is_plan(path: Path) -> bool:
    """Return whether a file begins as a plan, of any relay, or is empty."""
    try:
        with os.fdopen(os.open(path, _READING), "rb") as file:
            if not S_ISREG(os.fstat(file.fileno()).st_mode):
                return False
            line = file.readline(LONGEST_LINE)
            members = json.loads(line or _NEW)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(members, dict) and str(members.get("format")).startswith(_ANY_FORMAT)


class PlanFile:
    """A saved plan that is open, and was checked as a whole. Use as a context."""

    def __init__(self, path: str, pause: Callable[[], None] = lambda: None) -> None:
        """Open and check a plan. `pause` is called every PAUSED lines: a worker has other work,
        too. Raises PlanRefused."""
        self._path, self._pause = path, pause
        try:
            self._file = os.fdopen(os.open(path, _READING), "rb")
        except OSError as error:
            raise self._refusal(f"can't be read ({error.strerror})") from None
        try:
            self.header, self.sha256, self.objects = self._check()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> PlanFile:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    @property
    def reference(self) -> PlanReference:
        """What a migration keeps of it."""
        return PlanReference(os.path.abspath(self._path), self.sha256)

    def require(self, sha256: str) -> None:
        """Raise PlanRefused if it is another plan than the one that a migration follows."""
        if self.sha256 != sha256:
            raise self._refusal("is another plan than the one that this migration follows")

    def open_objects(self) -> Iterator[PlannedObject]:
        """Yield the objects that are to be copied, or to replace others, and those about which the
        plan decided nothing, or that they fail. Raises PlanRefused."""
        for members in self._lines():
            if "name" not in members:
                continue
            one = self._object_of(members)
            if one.decision is not PlanDecision.SKIP:
                yield one

    # -- reading

    def _check(self) -> tuple[PlanHeader, str, int]:
        """Return the request, the SHA-256 of the file and the number of objects. Raises
        PlanRefused."""
        whole, before = hashlib.sha256(), hashlib.sha256()
        header: PlanHeader | None = None
        counts = _PlanCounts()
        for line in self._raw_lines():
            whole.update(line)
            members = self._members_of(line)
            if header is None:
                header = self._header_of(members)
            elif "end" in members:
                if not counts.is_end(members["end"], before.hexdigest()):
                    raise self._refusal("was changed after relay wrote it")
                if self._file.readline(1):
                    raise self._refusal("has lines after its end")
                return header, whole.hexdigest(), counts.objects
            else:
                counts.add(self._object_of(members))
            before.update(line)
        raise self._refusal("is not a whole plan")

    def _lines(self) -> Iterator[Mapping[str, Any]]:
        return map(self._members_of, self._raw_lines())

    def _raw_lines(self) -> Iterator[bytes]:
        try:
            self._file.seek(0)
            for number in count(1):
                line = self._file.readline(LONGEST_LINE)
                if not line:
                    return
                yield line
                if number % PAUSED == 0:
                    self._pause()
        except OSError as error:
            raise self._refusal(f"can't be read ({error.strerror})") from None

    def _members_of(self, line: bytes) -> Mapping[str, Any]:
        try:
            members = json.loads(line)
        except (ValueError, RecursionError):
            members = None
        if not isinstance(members, dict):
            raise self._refusal("is not a plan")
        return members

    def _header_of(self, members: Mapping[str, Any]) -> PlanHeader:
        if members.get("format") != FORMAT:
            raise self._refusal(f"is not a plan of the form {FORMAT}")
        try:
            source_place, destination_place = members["places"]
            return PlanHeader(
                source=str(members["source"]),
                destination=str(members["destination"]),
                options=dict(members["options"]),
                places=(str(source_place), str(destination_place)),
                made=float(members["made"]),
            )
        except (KeyError, TypeError, ValueError):
            raise self._refusal("lacks members of its request") from None

    def _object_of(self, members: Mapping[str, Any]) -> PlannedObject:
        try:
            there = members["destination"]
            return PlannedObject(
                _text(members["name"]),
                PlanDecision(members["decision"]),
                _text(members["basis"]),
                _text(members.get("detail", "")),
                source=_seen_of(members["source"]),
                destination=None if there is None else _seen_of(there),
            )
        except (KeyError, TypeError, ValueError):
            raise self._refusal("has a line that is not an object of a plan") from None

    def _refusal(self, why: str) -> PlanRefused:
        return PlanRefused(f"{self._path} {why}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _seen_of(members: Mapping[str, Any]) -> SeenVersion:
    size, etag, modified = members["size"], members["etag"], members["modified"]
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
        raise TypeError(size)
    return SeenVersion(
        size=size,
        etag=None if etag is None else _text(etag),
        modified=None if modified is None else float(modified),
    )
