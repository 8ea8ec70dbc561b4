"""A lying WebDAV server (RFC 4918): PROPFIND, MKCOL and MOVE beside the methods of the plain one.
Decided here: the additions of WebDAV. Never here: objects and preconditions (`plain.py`,
`base.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import quote, unquote, urlsplit
from xml.sax.saxutils import escape

from simulators.answer import Answer, End, Text, plain
from simulators.liars.object_responses import LOGIN
from simulators.liars.operations import Op
from simulators.liars.plain import ROOT, PlainLiar, overencoded_path
from simulators.liars.stored_objects import Held
from simulators.message import BadRequest, Request

VERBS = {
    "HEAD": "head",
    "GET": "get",
    "PUT": "put",
    "DELETE": "delete",
    "PROPFIND": "list",
    "MKCOL": "mkcol",
}
OPEN = '<?xml version="1.0" encoding="utf-8"?>\n<D:multistatus xmlns:D="DAV:">'
CLOSE = "</D:multistatus>\n"


class DavLiar(PlainLiar):
    """WebDAV."""

    kind = "webdav"

    def operation(self, request: Request) -> Op:
        """As Liar's; a MOVE concerns its destination."""
        if not request.path.startswith(ROOT) and self.role == "source":
            return Op(kind="stray", name=request.path)
        name = unquote(request.path.removeprefix(ROOT))
        if request.method == "MOVE":
            to = unquote(urlsplit(request.get("destination") or "").path.removeprefix(ROOT))
            return Op(kind="move", name=to, upload=name)
        kind = VERBS.get(request.method)
        if kind is None:
            raise BadRequest(405, "not a method of ours")
        depth = 0 if request.get("depth") == "0" else 1
        return Op(kind=kind, name=name, number=depth if kind == "list" else 0)

    def respond(self, op: Op, request: Request, body: bytes) -> Answer:
        """As Liar's."""
        if op.kind == "list":
            return self.answer_listing(replace(op, name=self.meant_name(op.name)), request)
        if op.kind == "mkcol":
            return self._mkcol(op.name.rstrip("/"))
        if op.kind == "move":
            return self._move(replace(op, name=self.meant_name(op.name)), request)
        if op.kind == "put":
            if not self.shelf.has_folder("/".join(op.name.split("/")[:-1])):
                return self.refusal(409)
            if self.shelf.has_folder(op.name):
                return self.refusal(405)
            if op.name.endswith(".part") and self.store_habits.does("parts-refused"):
                return self.refusal(400)
        if op.kind in ("get", "head") and self.shelf.has_folder(op.name.rstrip("/")):
            return self.refusal(405) if op.kind == "get" else plain(200)
        return super().respond(op, request, body)

    def broken(self, op: Op, request: Request, body: bytes) -> None:
        """As Liar's: most write directly to the requested name."""
        if op.kind == "put" and self.store_habits.roll("broken", op.name) < 0.5:
            self.shelf.put(op.name, body, "relay", whole=False, why="an upload that broke off")

    def let_other_write(self, habit: str, name: str, size: int) -> None:
        """As Liar's, for permanent names: not for temporary ones."""
        if not name.rpartition("/")[2].startswith((".relay-", "relay-")):
            super().let_other_write(habit, name, size)

    def _mkcol(self, name: str) -> Answer:
        if self.shelf.has_folder(name) or self.shelf.get(name) is not None:
            return self.refusal(405)
        if not self.shelf.has_folder(name.rpartition("/")[0]):
            return self.refusal(409)
        self.shelf.folders.add(self.shelf.spelling_of(name))
        return plain(201)

    def _move(self, op: Op, request: Request) -> Answer:
        whole = "://" in (request.get("destination") or "")
        if whole and self.store_habits.does("move-502"):
            return self.refusal(502)
        if self.store_habits.roll("locked", op.name) < 0.5 and self.store_habits.once(
            "locked", op.name
        ):
            return self.refusal(423)
        found = self.shelf.get(op.upload)
        if found is None:
            return self.refusal(404)
        self.let_other_write("other-before", op.name, len(found.data))
        old = self.shelf.get(op.name)
        refused = old is not None and request.get("overwrite") == "F"
        if refused and not self.store_habits.does("overwrite-always"):
            return self.refusal(412)
        cut = len(found.data) > 1 and self.store_habits.once("move-cut", op.name)
        size = len(found.data) * 2 // 3 if cut else None
        self.shelf.move(op.upload, op.name, "relay", size)
        self.let_other_write("other-after", op.name, len(found.data))
        return plain(204 if old else 201)

    # -- PROPFIND

    def answer_listing(self, op: Op, request: Request) -> Answer:
        """Answer a PROPFIND."""
        folder = op.name.rstrip("/")
        held = self.visible_object(op.name) if op.name else None
        if not self.shelf.has_folder(folder):
            if held is None:
                return self.refusal(404)
            return _multistatus(OPEN + self.row(op.name, held) + CLOSE)
        deep = op.number == 1
        if self.role == "destination" and self.store_habits.does("propfind-405"):
            return self.refusal(405)
        if deep and self.store_habits.does("status-inside"):
            status = "<D:status>HTTP/1.1 404 Not Found</D:status>"
            return _multistatus(
                f"{OPEN}<D:response><D:href>{ROOT}{quote(op.name)}</D:href>{status}</D:response>{CLOSE}"
            )
        if deep and folder and self.store_habits.does("subfolder-403"):
            return self.refusal(403)
        if deep and self.store_habits.does("list-error"):
            odd = ('<D:error xmlns:D="DAV:"><D:nothing/></D:error>', OPEN + CLOSE, LOGIN.decode())
            return _multistatus(odd[int(self.store_habits.roll("odd", folder) * len(odd))])
        rows = [self._folder_row(folder), *(self._members(folder) if deep else ())]
        rows += map(self._stray_row, self.stray_links() if deep and not folder else ())
        answer = _multistatus(OPEN + "".join(rows) + CLOSE)
        if deep and len(rows) > 1 and self.store_habits.does("list-cut"):
            text = OPEN + "".join(rows[:-1])
            answer.framing, answer.body, answer.after = (
                "close",
                [Text(text.encode())],
                [End("finish")],
            )
        return answer

    def _members(self, folder: str) -> Iterator[str]:
        below = f"{folder}/" if folder else ""
        for name, _ in self.rows(below):
            path = below + name.rstrip("/")
            held = self.visible_object(path)
            if name.endswith("/"):
                yield self._folder_row(path)
            elif held is not None:
                yield self.row(path, held)
            elif self.store_habits.has("list-ghost"):
                yield self.row(
                    path, Held(data=b"123456789", by="source", serial=0, modified=0.0, at=0.0)
                )

    def _folder_row(self, path: str) -> str:
        href = self.link(f"{path}/" if path else "")
        kind = "<D:resourcetype><D:collection/></D:resourcetype>"
        return f"<D:response><D:href>{href}</D:href>{_props(kind)}</D:response>"

    def _stray_row(self, href: str) -> str:
        href = href if href.startswith(("/", "http:")) else f"{ROOT}{href}"
        size = "<D:resourcetype/><D:getcontentlength>9</D:getcontentlength>"
        return f"<D:response><D:href>{escape(href)}</D:href>{_props(size)}</D:response>"

    def link(self, path: str) -> str:
        """Return how an answer names a path."""
        if self.store_habits.does("href-url"):
            return f"{self.scheme}://127.0.0.1:{self.port}{ROOT}{quote(path)}"
        if self.store_habits.does("href-encoding"):
            return ROOT + overencoded_path(path)
        return ROOT + quote(path)

    def row(self, path: str, held: Held) -> str:
        """Return the properties of one object as the store sends them."""
        size = str(len(held.data))
        if self.role == "source" and self.store_habits.picks("list-bad-size", path):
            size = ("²", "9" * 23, "")[int(self.store_habits.roll("size", path) * 3)]
        tag, date = self.tag(held), self.date(held)
        props = "<D:resourcetype/>"
        if not self.store_habits.does("lengths-none"):
            props += f"<D:getcontentlength>{size}</D:getcontentlength>"
        props += f"<D:getetag>{escape(tag)}</D:getetag>" if tag else ""
        props += f"<D:getlastmodified>{date}</D:getlastmodified>" if date else ""
        return f"<D:response><D:href>{self.link(path)}</D:href>{_props(props)}</D:response>"


def _props(text: str) -> str:
    return f"<D:propstat><D:prop>{text}</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>"


def _multistatus(text: str) -> Answer:
    return Answer(207, [("Content-Type", "application/xml; charset=utf-8")], [Text(text.encode())])
