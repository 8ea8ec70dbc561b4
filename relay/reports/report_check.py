"""Check a signed report: its signatures, its objects, and its totals.

Theory of operation. Nothing is parsed before its signature holds: first report.json by its
signature, then the objects by the digest in it. What is parsed then was written by the signer. So
the rest shows mistakes of the signer: lines out of order, totals that are not those of the lines,
and an object that is called verified without a proof.

Decided here: which report is accepted. Never here: whose keys are (`allowed_signers.py`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from relay.errors import ReportRefused
from relay.ledger.states import MigrationState, TransferState
from relay.receipt import Level
from relay.reports.report_members import FORMAT, OBJECTS, PROVED, REPORT, SIGNATURE, ReportTotals
from relay.reports.ssh_signatures import MOST_BYTES, SshSignature

MOST_REPORT_BYTES: Final = 16 << 20
MOST_LINE_BYTES: Final = 4 << 20
_BLOCK_BYTES: Final = 1 << 20
_STATES: Final = frozenset(state.value for state in TransferState)
_LEVELS: Final = frozenset(level.value for level in Level)


@dataclass(frozen=True, kw_only=True)
class CheckedReport:
    """A report that is as it was signed, and whose objects are those that it counts."""

    members: Mapping[str, Any]
    sha256: str
    """That of report.json, by which the next report names it."""
    principals: str
    """The names of the signer in the file of allowed signers."""
    fingerprint: str
    totals: ReportTotals

    @property
    def is_all_proved(self) -> bool:
        """Whether the migration has succeeded, or was cut over, and every object of it is verified.
        Only a report about a cutover has the member of that name."""
        has_succeeded = self.members["migration"]["state"] == MigrationState.SUCCEEDED
        is_cut_over = isinstance(self.members.get("cutover"), dict)
        return (has_succeeded or is_cut_over) and set(self.totals.to_json()) <= {
            TransferState.VERIFIED
        }


def check_report(folder: Path, find_principals: Callable[[bytes], str | None]) -> CheckedReport:
    """Check the report in a folder. `find_principals` returns the names of a public key's owner
    that are allowed to sign reports, or None. A line of an object is held at a time. Raises
    ReportRefused with the reason, and as `find_principals`."""
    report = _read(folder / REPORT, MOST_REPORT_BYTES)
    signature = _signature_of(folder, REPORT)
    principals = find_principals(signature.key)
    if principals is None:
        raise ReportRefused(
            f"{folder / REPORT} is signed by {signature.fingerprint}, a key that is not allowed to"
            " sign reports",
            hint="If the key is the right one, add its line to the file of allowed signers.",
        )
    _require_valid(signature, hashlib.sha512(report).digest(), folder / REPORT)
    members = _parse_report(report, folder / REPORT)
    with _reading(folder / OBJECTS) as file:
        sha256, sha512 = _digests_of(file)
        if sha256 != members["objects"]["sha256"]:
            raise ReportRefused(f"{folder / OBJECTS} was altered: its SHA-256 is {sha256}")
        of_objects = _signature_of(folder, OBJECTS)
        if of_objects.key != signature.key:
            raise ReportRefused(f"{folder / OBJECTS} is signed by another key than {REPORT}")
        _require_valid(of_objects, sha512, folder / OBJECTS)
        file.seek(0)
        totals = _count(file, folder / OBJECTS)
    if (
        totals.to_json() != members.get("totals")
        or str(totals.objects) != members["objects"]["rows"]
    ):
        raise ReportRefused(f"the totals in {folder / REPORT} are not those of its objects")
    return CheckedReport(
        members=members,
        sha256=hashlib.sha256(report).hexdigest(),
        principals=principals,
        fingerprint=signature.fingerprint,
        totals=totals,
    )


def _signature_of(folder: Path, name: str) -> SshSignature:
    path = folder / f"{name}{SIGNATURE}"
    data = _read(path, MOST_BYTES)
    try:
        signature = SshSignature.from_text(data.decode())
    except UnicodeDecodeError:
        raise ReportRefused(f"{path} is not a signature: it is not text") from None
    except ValueError as error:
        raise ReportRefused(f"{path} is not a signature of relay: {error}") from None
    if signature.namespace != FORMAT:
        raise ReportRefused(f"{path} was made for {signature.namespace!a}, not for {FORMAT}")
    return signature


def _require_valid(signature: SshSignature, digest: bytes, path: Path) -> None:
    if not signature.is_valid(digest):
        raise ReportRefused(f"{path}, or its signature, was altered since it was signed")


def _parse_report(report: bytes, path: Path) -> Mapping[str, Any]:
    """Return the members of a report whose signature holds. Raises ReportRefused for one of another
    version, and for one without the members that a check needs."""
    try:
        members = json.loads(report)
        found = members["format"]
        if found != FORMAT:
            raise ReportRefused(
                f"{path} has the format {found!a}, and this relay knows {FORMAT}",
                hint="Check it with the relay that made it, or by `ssh-keygen -Y verify`.",
            )
        migration, objects = members["migration"], members["objects"]
        texts = [members[name] for name in ("source", "destination", "made")]
        texts += [migration["tenant"], migration["state"], objects["sha256"], objects["rows"]]
        filters = migration.get("options", {}).get("filters", {})
        is_complete = all(isinstance(one, str) for one in texts) and isinstance(filters, dict)
        if not is_complete or not isinstance(migration["number"], int):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ReportRefused(f"{path} is not a report of relay") from None
    return dict(members)


def _count(file: BinaryIO, path: Path) -> ReportTotals:
    """Count the objects. Raises ReportRefused for a line that no report has."""
    totals, before = ReportTotals(), b""
    for number, line in enumerate(iter(lambda: file.readline(MOST_LINE_BYTES), b""), 1):
        try:
            members = json.loads(line)
            name = members["name"].encode()
            _require_possible(members)
            totals.add(members)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ReportRefused(f"{path}:{number} is not an object of a report") from None
        if name <= before:
            raise ReportRefused(f"{path}:{number} is not in the order of the names")
        before = name
    return totals


def _require_possible(members: Mapping[str, Any]) -> None:
    """Raise ValueError for an object that claims more than its level proves."""
    state, level = members["state"], members.get("level")
    if state not in _STATES or level not in _LEVELS | {None}:
        raise ValueError("unknown")
    if state == TransferState.VERIFIED and level not in PROVED:
        raise ValueError("not proved")


def _digests_of(file: BinaryIO) -> tuple[str, bytes]:
    """Return the SHA-256 of a file in hex, and its SHA-512."""
    sha256, sha512 = hashlib.sha256(), hashlib.sha512()
    while block := file.read(_BLOCK_BYTES):
        sha256.update(block)
        sha512.update(block)
    return sha256.hexdigest(), sha512.digest()


def _read(path: Path, most: int) -> bytes:
    """Return the bytes of a file. Raises ReportRefused, also for more than `most` bytes."""
    with _reading(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ReportRefused(f"{path} has more than {most:,} bytes")
    return data


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        is_signature = path.name.endswith(SIGNATURE)
        raise ReportRefused(
            f"{path} is missing: {'the file is not signed' if is_signature else 'no report'}"
        ) from None
    except OSError as error:
        raise ReportRefused(f"{path} can't be read ({error.strerror})") from None
