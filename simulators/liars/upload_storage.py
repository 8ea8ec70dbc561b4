"""The storage of an arrived upload: whole, or as a store's habits change it; and writes of others.
Decided here: which bytes are kept. Never here: whether they may be kept (`object_responses.py`,
preconditions), and how they arrived."""

from __future__ import annotations

from simulators.liars.operations import Op
from simulators.liars.store_habits import StoreHabits
from simulators.liars.stored_objects import Held, Shelf


class UploadStorage:
    """The storage of a store."""

    store_habits: StoreHabits
    shelf: Shelf

    def store_upload(
        self, op: Op, body: bytes, fields: dict[str, str] | None = None, why: str = ""
    ) -> Held | None:
        """Store an upload as this store does: whole, or changed by its habits. None if it
        vanishes."""
        self.let_other_write("other-before", op.name, len(body))
        if body and (
            self.store_habits.once("flips-once", op.name)
            or self.store_habits.picks("flips", op.name)
        ):
            body = flip_byte(body)
        elif len(body) > 1 and self.store_habits.once("short-once", op.name):
            body = body[: len(body) * 2 // 3]
        elif self.store_habits.picks("mutates", op.name):
            body += b"\n<!-- seen by the virus scanner -->"
        elif self._is_dropped(op.name):
            return None
        held = self.shelf.put(op.name, body, "relay", fields=fields, why=why)
        self.let_other_write("other-after", op.name, len(body))
        return held

    def _is_dropped(self, name: str) -> bool:
        once = self.store_habits.roll("vanish", name) < 0.5 and self.store_habits.once(
            "vanishes", name
        )
        return once or self.store_habits.picks("vanishes-always", name)

    def let_other_write(self, habit: str, name: str, size: int) -> None:
        """Let another writer write the name, if this is the moment: an equally long, longer or
        shorter object."""
        if self.store_habits.roll(habit, name) > 0.6 or not self.store_habits.once(habit, name):
            return
        length = (size, size + 7, size // 2, 5)[
            int(self.store_habits.roll("length", habit, name) * 4)
        ]
        self.shelf.put(name, foreign_bytes(f"{habit} {name}", length), "other")


def flip_byte(data: bytes) -> bytes:
    """Return the bytes with the middle one changed."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def foreign_bytes(what: str, length: int) -> bytes:
    """Return an object of another writer, of this length."""
    text = f"<{what}, written by somebody else>".encode()
    return (text * (length // len(text) + 1))[:length]
