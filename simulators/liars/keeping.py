"""The storage of an arrived upload: whole, or as a store's habits change it; and writes of others.
Decided here: which bytes are kept. Never here: whether they may be kept (`telling.py`,
preconditions), and how they arrived."""

from __future__ import annotations

from simulators.liars.manners import Manners
from simulators.liars.operations import Op
from simulators.liars.stored_objects import Held, Shelf


class Keeping:
    """The storage of a store."""

    manners: Manners
    shelf: Shelf

    def store_upload(
        self, op: Op, body: bytes, fields: dict[str, str] | None = None, why: str = ""
    ) -> Held | None:
        """Store an upload as this store does: whole, or changed by its habits. None if it
        vanishes."""
        self.let_other_write("other-before", op.name, len(body))
        if body and (
            self.manners.once("flips-once", op.name) or self.manners.picks("flips", op.name)
        ):
            body = flip_byte(body)
        elif len(body) > 1 and self.manners.once("short-once", op.name):
            body = body[: len(body) * 2 // 3]
        elif self.manners.picks("mutates", op.name):
            body += b"\n<!-- seen by the virus scanner -->"
        elif self._is_dropped(op.name):
            return None
        held = self.shelf.put(op.name, body, "relay", fields=fields, why=why)
        self.let_other_write("other-after", op.name, len(body))
        return held

    def _is_dropped(self, name: str) -> bool:
        once = self.manners.roll("vanish", name) < 0.5 and self.manners.once("vanishes", name)
        return once or self.manners.picks("vanishes-always", name)

    def let_other_write(self, habit: str, name: str, size: int) -> None:
        """Let another writer write the name, if this is the moment: an equally long, longer or
        shorter object."""
        if self.manners.roll(habit, name) > 0.6 or not self.manners.once(habit, name):
            return
        length = (size, size + 7, size // 2, 5)[int(self.manners.roll("length", habit, name) * 4)]
        self.shelf.put(name, foreign_bytes(f"{habit} {name}", length), "other")


def flip_byte(data: bytes) -> bytes:
    """Return the bytes with the middle one changed."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def foreign_bytes(what: str, length: int) -> bytes:
    """Return an object of another writer, of this length."""
    text = f"<{what}, written by somebody else>".encode()
    return (text * (length // len(text) + 1))[:length]
