"""The folder of a report: it appears whole, under a new name, or not at all.

Theory of operation. The files are written into a folder beside, with a name of its own, and reach
the disk. One rename then gives the folder its final name. A process that is killed leaves the other
folder, and so does every failure once the ledger may have recorded the report: the next report
names it. Nothing that exists is replaced.

Decided here: names of folders, and when a report is visible. Never here: the contents of files."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO, Final

from relay.errors import OutputFailed
from relay.stores.local_folders import UNSYNCED

_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._-]")


class ReportFolder:
    """A folder that is being written. Use as a context: it is removed unless it was published or
    has to be kept."""

    def __init__(self, final: Path) -> None:
        """`final` is its name once it is published."""
        self.final = Path(os.path.abspath(final))
        self._draft = self.final.with_name(f".{self.final.name}.{token_hex(4)}.partial")
        self._is_kept = False

    def __enter__(self) -> ReportFolder:
        """Make the folder. Raises OutputFailed, also if the final name exists."""
        self._refuse_existing()
        with self._failing():
            self._draft.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the folder if it was neither published nor kept."""
        if not self._is_kept:
            shutil.rmtree(self._draft, ignore_errors=True)

    @property
    def kept_place(self) -> Path | None:
        """The place of a report that was kept and has no final name, or None."""
        return self._draft if self._is_kept and self._draft.exists() else None

    def keep(self) -> None:
        """Keep the folder from now on, published or not. Raises OutputFailed if its names do not
        reach the disk; it is not kept then."""
        with self._failing():
            sync_names(self._draft)
            sync_names(self._draft.parent)
        self._is_kept = True

    def release(self) -> None:
        """Take `keep` back."""
        self._is_kept = False

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Open one of its files for a block that writes it; it is on the disk after the block.
        Raises OutputFailed."""
        with self._failing(), open(self._draft / name, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def publish(self) -> None:
        """Give a kept folder its final name, for good. Raises OutputFailed, also if that exists by
        now."""
        self._refuse_existing()
        with self._failing():
            self._draft.rename(self.final)
            sync_names(self.final.parent)

    def _refuse_existing(self) -> None:
        if os.path.lexists(self.final):
            raise OutputFailed(
                f"{self.final} exists already",
                hint="relay replaces no report: choose another folder.",
            )

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Raise OutputFailed for the system's errors of a block."""
        try:
            yield
        except OSError as error:
            raise OutputFailed(
                f"{self.final} can't be written ({error.strerror})",
                hint="Make room there, or choose another folder.",
            ) from None


def report_name(migration: str) -> str:
    """Return the name of the folder for the report of a migration, by the migration's name."""
    return f"relay-{_NOT_IN_NAMES.sub('-', migration)}-report"


def sync_names(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the file system supports that and the folder
    may be read. Raises OSError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise
