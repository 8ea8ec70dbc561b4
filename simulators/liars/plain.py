"""A lying HTTP server: objects below `/d/`, folders as pages of links.

Decided here: what plain HTTP means to it. Never here: what all stores share (`serving.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from urllib.parse import quote, unquote

from simulators.answer import Answer, End, Text, plain
from simulators.liars.serving import LOGIN, Liar, Op
from simulators.message import BadRequest, Request

ROOT = "/d/"
VERBS = {"HEAD": "head", "GET": "get", "PUT": "put", "DELETE": "delete"}


class PlainLiar(Liar):
    """Plain HTTP."""

    kind = "http"

    def url(self, name: str = "") -> str:
        """Return the URL of an object, or of the root folder."""
        return f"http://127.0.0.1:{self.port}{ROOT}{quote(name)}"

    def operation(self, request: Request) -> Op:
        """As Liar's: a GET of a path that ends in '/' lists."""
        kind = VERBS.get(request.method)
        if kind is None:
            raise BadRequest(405, "not a method of ours")
        name = unquote(request.path.removeprefix(ROOT))
        if kind in ("get", "head") and (name.endswith("/") or not name):
            return Op(kind="list" if kind == "get" else "folder", name=name)
        return Op(kind=kind, name=name)

    def respond(self, op: Op, request: Request, body: bytes) -> Answer:
        """As Liar's."""
        if op.kind in ("list", "folder"):
            return self.listed(op, request)
        if op.kind in ("get", "head"):
            if op.name in self.shelf.folders:
                return plain(301, "", [("Location", f"{ROOT}{quote(op.name)}/")])
            return self.read(op, request)
        if op.kind == "put":
            return self._put(op, request, body)
        return self.deleted(op, request)

    def broken(self, op: Op, request: Request, body: bytes) -> None:
        """As Liar's: some keep what came."""
        if op.kind == "put" and self.manners.does("keeps-piece"):
            self.shelf.put(op.name, body, "relay", whole=False, why="an upload that broke off")

    def _put(self, op: Op, request: Request, body: bytes) -> Answer:
        if self.forbidden(request, self.shelf.get(op.name)):
            return self.refusal(412)
        old = self.shelf.get(op.name)
        held = self.stored(op, body, {"Content-Type": request.get("content-type") or "application/octet-stream"})
        tag = held and self.tag(held)
        fields = [("ETag", tag)] if tag and self.manners.roll("tagged", 1) < 0.5 else []
        return plain(204 if old else 201, "", fields)

    def deleted(self, op: Op, request: Request) -> Answer:
        """Answer a DELETE."""
        for status in (403, 405):
            if self.manners.does(f"delete-{status}"):
                return self.refusal(status)
        if self.forbidden(request, self.shelf.get(op.name)):
            return self.refusal(412)
        done = self.shelf.delete(op.name, "relay", asked_tag=request.get("if-match"))
        return plain(204) if done else self.refusal(404)

    # -- folders

    def listed(self, op: Op, request: Request) -> Answer:
        """Answer the GET of a folder with a page of links, as nginx writes one."""
        folder = op.name
        for status in (403, 404, 500):
            if self.manners.does(f"folder-{status}"):
                return self.refusal(status)
        if self.manners.does("folder-page"):
            return Answer(200, [("Content-Type", "text/html")], [Text(b"<html><h1>Welcome</h1></html>")])
        if folder.rstrip("/") not in self.shelf.folders:
            return self.refusal(404)
        if folder and self.manners.does("subfolder-403"):
            return self.refusal(403)
        if self.manners.does("list-error"):
            return Answer(200, [("Content-Type", "text/html")], [Text(LOGIN)])
        rows = list(self.rows(folder))
        head = f"<html>\r\n<head><title>Index of {escape(ROOT + folder)}</title></head>\r\n<body>\r\n"
        head += f'<h1>Index of {escape(ROOT + folder)}</h1><hr><pre><a href="../">../</a>\r\n'
        page = (head + "".join(map(self._row, rows)) + "</pre><hr></body>\r\n</html>\r\n").encode()
        answer = Answer(200, [("Content-Type", "text/html; charset=utf-8")], [Text(page)])
        if rows and self.manners.does("list-cut"):
            middle = len(page) - len("</pre><hr></body>\r\n</html>\r\n") - 40
            answer.framing, answer.body, answer.after = "close", [Text(page[:middle])], [End("finish")]
        return answer

    def _row(self, row: tuple[str, int]) -> str:
        name, size = row
        shown = "-" if name.endswith("/") else str(size)
        if not name.endswith("/") and self.manners.picks("list-bad-size", name):
            shown = ("9999999999999999999", "²", "-7")[int(self.manners.roll("size", name) * 3)]
        return f'<a href="{quote(name)}">{escape(name)}</a>          01-Jan-2026 00:00      {shown}\r\n'

    def rows(self, folder: str) -> Iterator[tuple[str, int]]:
        """Yield the names right below a folder, folders with their '/', and their lengths; as the habits have it."""
        seen: dict[str, int] = {}
        for name in self.shelf.names():
            held = self.shelf.get(name)
            if name.startswith(folder) and held is not None:
                first, slash, _ = name[len(folder) :].partition("/")
                if not (first.startswith(".") and self.manners.does("hides-names")):
                    seen.setdefault(first + slash, 0 if slash else len(held.data))
        if not folder and self.manners.does("list-ghost"):
            seen["ghost.bin"] = 9
        for name, size in seen.items():
            yield name, size
            if self.manners.picks("list-repeats", name):
                yield name, size
