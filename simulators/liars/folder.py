"""A lying folder of this machine: its files when a command begins, and the changes while it runs.

Theory of operation. A folder has no log of requests, so relay's work is found afterwards: `look`
compares the files with those of its last run, by inode and times, and records each change in the
journal. The tree is `in`; the files beside it, in `out`, belong to another user.

Decided here: the files, and which of them changed. Never here: whether that is right (the
judge)."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from simulators.liars.operations import Op, Sent
from simulators.liars.store_habits import StoreHabits
from simulators.liars.stored_objects import Shelf, Who
from simulators.liars.unsafe import names, note

OUTSIDE: Final = b"<a file outside of the folder, which is somebody else's>"
LINK, LOOP, LINKED_FOLDER, PIPE = "link.txt", "loop.txt", "linked-folder", "pipe"

Mark = tuple[int, int, int]
"""Identifies one state of a file: inode, mtime, ctime."""


class FolderLiar:
    """A folder. `root` contains the tree and everything beside it; `confined` forbids changes
    outside the tree, even through a link."""

    kind = "local"

    def __init__(self, role: str, store_habits: StoreHabits, root: Path, confined: bool) -> None:
        self.role, self.store_habits, self.shelf = role, store_habits, Shelf()
        self.tree, self.outside = root / role / "in", root / role / "out"
        self.log: list[Sent] = []
        self.odd: tuple[str, ...] = (
            tuple(names(store_habits, self.kind)) if role == "source" else ()
        )
        self.trespasses: list[str] = []
        """Forbidden changes: a deleted pipe, a changed file outside."""
        self._confined = confined
        self._marks: dict[str, Mark] = {}
        self._beside: dict[Path, Mark] = {}
        self._pipes: list[Path] = []
        for folder in (self.tree, self.outside):
            folder.mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def url(self, name: str = "") -> str:
        """Return the path of an object, or of the folder."""
        return f"{self.tree}/{name}"

    def put(self, name: str, data: bytes, by: Who, modified: float) -> None:
        """Write an object before anything starts, if its path is free."""
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (modified, modified))
        self.shelf.put(name, data, by, modified=modified)
        self._marks[name] = _mark(path.stat())

    # -- prior entries

    def arrange(self, names: list[str], modified: float, tree: bool) -> None:
        """Create the entries of its habits around the objects of these names, once they exist; of a
        `tree` more than of a single one."""
        if self.role == "source" and tree:
            note(self.store_habits, self.kind)
            self._arrange_files(modified)
        if self.role == "destination" and tree:
            self._arrange_folders(modified)
        if self.role == "destination":
            self._arrange_places(names, modified, tree)
        self._marks = dict(self._find_files())
        self._beside = {path: _mark(path.stat()) for path in self._files_outside()}

    def _arrange_files(self, modified: float) -> None:
        if self.store_habits.does("file-link-out"):
            target = self.outside / "target.txt"
            target.write_bytes(OUTSIDE)
            (self.tree / LINK).symlink_to(target)
            self.shelf.put(LINK, OUTSIDE, "source", modified=modified)
            self.odd += (LINK,)
        if self.store_habits.does("file-link-loop"):
            (self.tree / LOOP).symlink_to(LOOP)
            (self.outside / "file.txt").write_bytes(OUTSIDE)
            (self.tree / LINKED_FOLDER).symlink_to(self.outside)
            self.odd += (LOOP, LINKED_FOLDER)
        if self.store_habits.does("file-special"):
            os.mkfifo(self.tree / PIPE)
            self.odd += (PIPE,)
        if self.store_habits.does("file-bytes"):
            (self.tree / os.fsdecode(b"bytes\xff.bin")).write_bytes(b"its name is no UTF-8")
            self.odd += ("bytes\udcff.bin",)

    def _arrange_folders(self, modified: float) -> None:
        folder = self.tree / "sub"
        if not os.path.lexists(folder) and self.store_habits.does("place-file"):
            self.put("sub", b"a file, and no folder", "before", modified)
        if not os.path.lexists(folder) and self.store_habits.does("place-folder-link"):
            (self.outside / "elsewhere").mkdir()
            folder.symlink_to(self.outside / "elsewhere")

    def _arrange_places(self, names: list[str], modified: float, tree: bool) -> None:
        free = next((name for name in names if not os.path.lexists(self.tree / name)), None)
        if free is None:
            return
        taken = self.tree / free
        # `place-file` may have put a file where the name needs a folder.
        with suppress(NotADirectoryError, FileExistsError):
            taken.parent.mkdir(parents=True, exist_ok=True)
            if tree and self.store_habits.does("place-folder"):
                taken.mkdir()
            if self.store_habits.does("place-pipe"):
                os.mkfifo(taken)
                self._pipes.append(taken)
            if self.store_habits.does("place-link"):
                target = self.outside / "target.bin"
                target.write_bytes(OUTSIDE)
                os.utime(target, (modified, modified))
                taken.symlink_to(target)
                self.shelf.put(free, OUTSIDE, "before", modified=modified)

    # -- changes

    def changes(self, op: Op) -> None:
        """Write a file in place while it is being uploaded: other bytes, more bytes, or its time
        set back."""
        if op.kind not in ("put", "part"):
            return
        known = [name for name in self.shelf.names() if name not in self.odd]
        name = op.name if op.name in known else next(iter(known), None)
        held = None if name is None else self.shelf.get(name)
        if (
            name is None
            or held is None
            or not held.data
            or not self.store_habits.once("file-changes", name)
        ):
            return
        tail = b"" if self.store_habits.roll("longer", name) < 0.5 else b" and more"
        data = bytes(byte ^ 0x55 for byte in held.data) + tail
        path = self.tree / name
        with path.open("r+b") as file:
            self.shelf.put(name, data, "source", modified=held.modified)
            file.write(data)
        if self.store_habits.roll("set back", name) < 0.5:
            os.utime(path, (held.modified, held.modified))

    def look(self) -> None:
        """Record the changes since the last call in the journal, as relay's."""
        found = dict(self._find_files())
        for name, mark in found.items():
            if self._marks.get(name) != mark and self.role == "destination":
                self.shelf.put(name, (self.tree / name).read_bytes(), "relay")
        if self.role == "destination":
            for name in self._marks.keys() - found.keys():
                self.shelf.delete(name, "relay")
        elif found.keys() != self._marks.keys():
            self.trespasses.append(
                f"the source has other files now: {sorted(found.keys() ^ self._marks.keys())!a}"
            )
        self._marks = found
        self.trespasses += [
            f"the pipe {path} is gone" for path in self._pipes if not path.is_fifo()
        ]
        beside = {path: _mark(path.stat()) for path in self._files_outside()}
        changed = [
            path
            for path in beside.keys() | self._beside
            if beside.get(path) != self._beside.get(path)
        ]
        self.trespasses += [
            f"{path} was changed, which lies outside"
            for path in changed
            if not self._leads_to(path)
        ]
        self._beside = beside

    def _leads_to(self, path: Path) -> bool:
        """Return whether a link in the tree leads to a file, or to the folder that contains it. A
        server follows none."""
        return not self._confined and bool(
            self.store_habits.habits & {"place-link", "place-folder-link"}
        )

    def _find_files(self) -> list[tuple[str, Mark]]:
        rows = []
        # At a destination relay may write through a linked folder (`place-folder-link`); the links
        # of a source lead out of the tree.
        for folder, _, files in os.walk(self.tree, followlinks=self.role == "destination"):
            for file in files:
                path = Path(folder, file)
                with suppress(OSError):  # a link to an absent file, or to itself
                    found = path.stat()
                    if stat.S_ISREG(found.st_mode):
                        rows.append((str(path.relative_to(self.tree)), _mark(found)))
        return rows

    def _files_outside(self) -> list[Path]:
        around = self.tree.parent
        return [
            path
            for path in around.rglob("*")
            if not path.is_relative_to(self.tree) and path.is_file()
        ]


def _mark(found: os.stat_result) -> Mark:
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns
