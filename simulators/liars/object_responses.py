"""The descriptions of an object by a store: its fields, its bytes, and the defects of both.

Decided here: HEAD and GET of an object, and preconditions. Never here: the stored objects
(`stored_objects.py`), paths."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from email.utils import formatdate
from typing import Final

from simulators.answer import Answer, End, Pause, Text, chunked_steps, plain
from simulators.liars.operations import Op
from simulators.liars.store_habits import StoreHabits
from simulators.liars.stored_objects import LATE_SECONDS, Held, Shelf
from simulators.message import Request, if_match_fails, if_none_match_fails, parse_range

LOGIN: Final = (
    b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body><form>Who are"
    b" you?</form></body></html>\n"
)
CRUMB: Final = 3
"""Size in bytes of the chunks that a trickling store sends of the first kilobyte."""


class ObjectResponses:
    """The responses of a store about its objects."""

    role: str
    store_habits: StoreHabits
    shelf: Shelf
    node: threading.local
    """Its `number` is that of the node that answers the request of this thread."""
    missed: set[str]
    """Names that HEAD or GET has reported as absent."""

    def refusal(self, status: int, code: str = "") -> Answer:
        """Return a refusal in the form of this protocol."""
        return plain(status, code)

    def visible_object(self, name: str, kind: str = "list") -> Held | None:
        """Return the object that readers see under a name in a response of this kind."""
        held = self.shelf.get(name)
        before = self.shelf.previous_object(name)
        if before is None or before[1] > LATE_SECONDS:
            return held
        old = before[0]
        # A deleted object.
        if held is None:
            return old if old is not None and self.store_habits.does("deleted-shown") else None
        # An overwritten one.
        if old is not None:
            stale = self.store_habits.does("stale") or (
                kind in ("get", "head") and self.store_habits.does(f"stale-{kind}")
            )
            return old if stale else held
        # A new one.
        if self.store_habits.does("late"):
            return None
        read = kind in ("get", "head") and self.shelf.key(name) in self.missed
        return None if read and self.store_habits.does("negative-cache") else held

    def requested_object(self, op: Op) -> Held | None:
        """Return the object of a HEAD or a GET."""
        return self.visible_object(op.name, op.kind)

    def absent_answer(self, op: Op) -> Answer:
        """Return the response about an object that does not exist."""
        return self.refusal(404, "NoSuchKey")

    def tag(self, held: Held) -> str | None:
        """Return the entity tag of an object as the store sends it, with its quotes, or None."""
        if self.store_habits.does("tag-none"):
            return None
        if self.store_habits.does("tag-weak"):
            return f'W/"{held.tag}"'
        if self.store_habits.does("tag-unquoted"):
            return held.tag
        if self.store_habits.does("tag-long"):
            return f'"{"x" * 300}{held.tag}"'
        if self.store_habits.does("tag-nodes"):
            return f'"{held.tag}-{self.node.number % 2}"'
        if self.store_habits.does("tag-changing"):
            return f'"{held.tag}-{time.monotonic_ns()}"'
        return f'"{held.tag}"'

    def date(self, held: Held) -> str | None:
        """Return the Last-Modified of an object as the store sends it, or None."""
        if self.store_habits.does("date-none"):
            return None
        if self.store_habits.does("date-odd"):
            stamp = formatdate(held.modified, usegmt=True)
            odd = (
                stamp.replace("GMT", "-0000"),
                "Mon, 01 Jan 2026 99:99:99 GMT",
                "Thu, 01 Jan 99999 00:00:00 GMT",
            )
            return odd[int(self.store_habits.roll("odd", held.serial) * len(odd))]
        return formatdate(held.modified, usegmt=True)

    def forbidden(self, request: Request, held: Held | None) -> bool:
        """Return whether a precondition forbids the request (RFC 9110 section 13.1)."""
        conditional = (
            request.get("if-match") is not None or request.get("if-none-match") is not None
        )
        if conditional and self.store_habits.does("conditions-ignored"):
            return False
        tag = None if held is None else self.tag(held)
        if tag is not None and request.get("if-match") == tag and not tag.startswith("W/"):
            return False  # by its exact text, even one that looks like a list
        return if_match_fails(request, tag) or if_none_match_fails(request, tag)

    def read(self, op: Op, request: Request) -> Answer:
        """Answer a HEAD or a GET of an object."""
        held = self.requested_object(op)
        if held is None:
            self.missed.add(self.shelf.key(op.name))
            return self.absent_answer(op)
        if self.forbidden(request, held):
            return self.refusal(412, "PreconditionFailed")
        if (
            op.kind == "get"
            and self.role == "source"
            and self.store_habits.once("login-page", op.name)
        ):
            return Answer(200, [("Content-Type", "text/html")], [Text(LOGIN)])
        answer = Answer(200, self.object_fields(held), [Text(held.data)])
        if op.kind == "head":
            self._spoil_head(answer, held)
        else:
            self._apply_range(answer, request, held)
            self._spoil_get(answer, op)
        self._change(op)
        return answer

    def object_fields(self, held: Held) -> list[tuple[str, str]]:
        """Return the fields that describe an object."""
        reported = (("ETag", self.tag(held)), ("Last-Modified", self.date(held)))
        fields = [(name, value) for name, value in reported if value is not None]
        if self.store_habits.does("digest-sent"):
            fields.append(
                (
                    "Repr-Digest",
                    f"sha-256=:{base64.b64encode(hashlib.sha256(held.data).digest()).decode()}:",
                )
            )
        if self.store_habits.does("digest-long"):
            fields.append(("Repr-Digest", "sha-256=:" + "AAAA, " * 8000))
        return [*fields, ("Accept-Ranges", "bytes"), *held.fields.items()]

    def _apply_range(self, answer: Answer, request: Request, held: Held) -> None:
        if request.get("range") is None or self.store_habits.does("range-ignored"):
            return
        span = parse_range(request.get("range"), len(held.data))
        if span is not None:
            first, count = span
            answer.status = 206
            shift = 1 if first and self.store_habits.does("range-other") else 0
            first -= shift
            answer.put("Content-Range", f"bytes {first}-{first + count - 1}/{len(held.data)}")
            answer.body = [Text(held.data[first : first + count])]

    def _spoil_head(self, answer: Answer, held: Held) -> None:
        if self.store_habits.does("head-zero") or self.store_habits.does("head-zero-page"):
            answer.promised = 0
        elif self.store_habits.does("head-no-length"):
            answer.frame_fields = []
        elif len(held.data) > 1 and self.store_habits.does("head-short"):
            answer.promised = len(held.data) // 2

    def _spoil_get(self, answer: Answer, op: Op) -> None:
        cut = answer.length > 1 and self.store_habits.once("get-cut", op.name)
        if (
            self.store_habits.does("chunked")
            or self.store_habits.has("head-short")
            or self.store_habits.has("head-zero-page")
            or self.store_habits.does("trickles")
        ):
            answer.framing = "chunked"
        elif self.store_habits.does("until-close"):
            answer.framing = "close"
        block = b"".join(bytes(step.block) for step in answer.body if isinstance(step, Text))
        if cut:
            self._cut(answer, block)
        elif self.store_habits.has("trickles"):
            crumbs = [Text(block[n : n + CRUMB]) for n in range(0, min(len(block), 1024), CRUMB)]
            answer.body = [*crumbs, Text(block[len(crumbs) * CRUMB :])] if block else []
            answer.body = [step for step in answer.body if isinstance(step, Text) and step.length]
        elif self.store_habits.does("late-end"):
            # Chunked here, so that a pause fits before the last chunk; "length" keeps compose from
            # doing it again.
            answer.framing, answer.frame_fields = "length", [("Transfer-Encoding", "chunked")]
            *steps, last = (
                chunked_steps([Text(block)]) if block else [Text(b""), Text(b"0\r\n\r\n")]
            )
            answer.body = [*steps, Pause(0.15), last]

    @staticmethod
    def _cut(answer: Answer, block: bytes) -> None:
        half = block[: len(block) // 2]
        if answer.framing == "chunked":
            *steps, _ = chunked_steps([Text(half)])  # without the last chunk
            answer.frame_fields, answer.framing, answer.body = (
                [("Transfer-Encoding", "chunked")],
                "length",
                steps,
            )
        else:
            answer.promised, answer.body = len(block), [Text(half)]
        answer.after = [End("finish")]

    def _change(self, op: Op) -> None:
        """Let the source's object change, at the moment that the seed gives."""
        moment = "head" if self.store_habits.roll("moment", op.name) < 0.3 else "get"
        if op.kind != moment or self.store_habits.roll("changes", op.name) > 0.6:
            return
        held = self.shelf.get(op.name)
        if held is not None and self.store_habits.once("source-changes", op.name):
            tail = b"" if self.store_habits.roll("longer", op.name) < 0.5 else b" and more"
            data = bytes(byte ^ 0x55 for byte in held.data[:4096]) + held.data[4096:] + tail
            self.shelf.put(op.name, data, "source", modified=held.modified + 60, fields=held.fields)
        if op.kind == "head" and self.store_habits.once("source-vanishes", op.name):
            self.shelf.delete(op.name, "source")
