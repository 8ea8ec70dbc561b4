"""A lying HTTP server: objects below `/d/`, folders as pages of links.

Decided here: the meaning of plain HTTP. Never here: the parts that all stores share (`base.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from urllib.parse import quote, unquote

from simulators.answer import Answer, End, Text, plain
from simulators.liars.base import Liar
from simulators.liars.object_responses import LOGIN
from simulators.liars.operations import Op
from simulators.liars.unsafe import TRAP, links, note
from simulators.message import BadRequest, Request

ROOT, ELSEWHERE = "/d/", "/e/"
"""The path of objects, and the path to which reads of them are redirected."""
EMPTY_MD5 = "1B2M2Y8AsgTpgAmY7PhCfg=="
ODD = re.compile(r"[^\w./-]")
VERBS = {"HEAD": "head", "GET": "get", "PUT": "put", "DELETE": "delete"}


class PlainLiar(Liar):
    """Plain HTTP."""

    kind = "http"

    def url(self, name: str = "") -> str:
        """Return the URL of an object, or of the root folder."""
        return f"{self.scheme}://127.0.0.1:{self.port}{ROOT}{quote(name)}"

    @property
    def reports_tags(self) -> bool:
        """Whether its answers to a PUT have the entity tag of the new object: those of some servers
        do not (nginx)."""
        return self.store_habits.roll("tagged", 1) < 0.5

    def operation(self, request: Request) -> Op:
        """As Liar's: a GET of a path that ends in '/' lists."""
        kind = VERBS.get(request.method)
        if kind is None:
            raise BadRequest(405, "not a method of ours")
        if not request.path.startswith((ROOT, ELSEWHERE)):
            return Op(kind="stray", name=request.path)
        name = unquote(request.path.removeprefix(ROOT).removeprefix(ELSEWHERE))
        if kind in ("get", "head") and (name.endswith("/") or not name):
            return Op(kind="list" if kind == "get" else "folder", name=name)
        return Op(
            kind=kind, name=name, upload="moved" if request.path.startswith(ELSEWHERE) else ""
        )

    def respond(self, op: Op, request: Request, body: bytes) -> Answer:
        """As Liar's."""
        if op.kind == "stray":
            return plain(200, TRAP.decode())
        asked, op = op, replace(op, name=self.meant_name(op.name))
        answer = self._answer_request(op, request, body)
        if op.name != asked.name and answer.status < 300:
            answer.put("Content-Location", quote(op.name.rpartition("/")[2]))
        return answer

    def meant_name(self, name: str) -> str:
        """Return the name of the object that the store serves for a name: if no object has it, that
        of an object with the same name and an ending."""
        if not self.store_habits.has("negotiates") or not name or name.endswith("/"):
            return name
        if self.shelf.get(name) is not None or self.shelf.has_folder(name):
            return name
        starts = (one for one in self.shelf.names() if one.startswith(f"{name}."))
        found = next((one for one in starts if "/" not in one[len(name) :]), None)
        if found is not None and self.store_habits.does("negotiates"):
            return found
        return name

    def _answer_request(self, op: Op, request: Request, body: bytes) -> Answer:
        if op.kind in ("list", "folder"):
            return self.answer_listing(op, request)
        if op.kind in ("get", "head"):
            if self.shelf.has_folder(op.name) and self.shelf.get(op.name) is None:
                return plain(301, "", [("Location", f"{ROOT}{quote(op.name)}/")])
            if not op.upload and self.store_habits.does("redirects"):
                return plain(302, "", [("Location", f"{ELSEWHERE}{quote(op.name)}")])
            return self.read(op, request)
        if op.kind == "put":
            return self._put(op, request, body)
        return self.answer_delete(op, request)

    def broken(self, op: Op, request: Request, body: bytes) -> None:
        """As Liar's: some keep the received bytes."""
        if op.kind == "put" and self.store_habits.does("keeps-piece"):
            self.shelf.put(op.name, body, "relay", whole=False, why="an upload that broke off")

    def _put(self, op: Op, request: Request, body: bytes) -> Answer:
        if self.forbidden(request, self.shelf.get(op.name)):
            return self.refusal(412)
        if self.store_habits.picks("put-307", op.name):
            return plain(307, "", [("Location", f"{ELSEWHERE}{quote(op.name)}")])
        if ODD.search(op.name) and self.store_habits.does("names-refused"):
            return self.refusal(400)
        old = self.shelf.get(op.name)
        held = self.store_upload(
            op, body, {"Content-Type": request.get("content-type") or "application/octet-stream"}
        )
        tag = held and self.tag(held)
        fields = [("ETag", tag)] if tag and self.reports_tags else []
        if self.store_habits.does("put-202"):
            return plain(202, "", fields)
        if self.store_habits.does("put-page"):
            return Answer(
                200, [*fields, ("Content-Type", "text/html")], [Text(b"<p>Thank you!</p>")]
            )
        if self.store_habits.does("digest-of-nothing"):
            return Answer(201, [*fields, ("Content-MD5", EMPTY_MD5)])
        return plain(204 if old else 201, "", fields)

    def answer_delete(self, op: Op, request: Request) -> Answer:
        """Answer a DELETE."""
        for status in (403, 405):
            if self.store_habits.does(f"delete-{status}"):
                return self.refusal(status)
        if self.forbidden(request, self.shelf.get(op.name)):
            return self.refusal(412)
        done = self.shelf.delete(op.name, "relay", asked_tag=request.get("if-match"))
        return plain(204) if done else self.refusal(404)

    # -- folders

    def answer_listing(self, op: Op, request: Request) -> Answer:
        """Answer the GET of a folder with a page of links, as nginx writes one."""
        folder = op.name
        for status in (403, 404, 500):
            if self.store_habits.does(f"folder-{status}"):
                return self.refusal(status)
        if self.store_habits.does("folder-page"):
            return Answer(
                200, [("Content-Type", "text/html")], [Text(b"<html><h1>Welcome</h1></html>")]
            )
        if not self.shelf.has_folder(folder.rstrip("/")):
            return self.refusal(404)
        if folder and self.store_habits.does("subfolder-403"):
            return self.refusal(403)
        if folder and self.store_habits.does("subfolder-page"):
            return Answer(
                200, [("Content-Type", "text/html")], [Text(b"<html><h1>Welcome</h1></html>")]
            )
        if self.store_habits.does("list-json"):
            return self._json(folder)
        if self.store_habits.does("list-error"):
            return Answer(200, [("Content-Type", "text/html")], [Text(LOGIN)])
        rows = list(self.rows(folder))
        head = (
            f"<html>\r\n<head><title>Index of {escape(ROOT + folder)}</title></head>\r\n<body>\r\n"
        )
        head += f'<h1>Index of {escape(ROOT + folder)}</h1><hr><pre><a href="../">../</a>\r\n'
        lines = "".join(self._row(row, folder) for row in rows) + "".join(self._stray_rows(folder))
        page = (head + lines + "</pre><hr></body>\r\n</html>\r\n").encode()
        answer = Answer(200, [("Content-Type", "text/html; charset=utf-8")], [Text(page)])
        if rows and self.store_habits.does("list-cut"):
            # The page ends within its last row.
            middle = len(page) - len("</pre><hr></body>\r\n</html>\r\n") - 40
            answer.framing, answer.body, answer.after = (
                "close",
                [Text(page[:middle])],
                [End("finish")],
            )
        return answer

    def _stray_rows(self, folder: str) -> Iterator[str]:
        for href in self.stray_links() if not folder else ():
            yield f'<a href="{escape(href)}">more</a>          01-Jan-2026 00:00      9\r\n'

    def stray_links(self) -> Iterator[str]:
        """Yield the links of the root folder that lead elsewhere; record the unsafe names that it
        lists."""
        if self.role == "source":
            note(self.store_habits, self.kind)
            yield from links(
                self.store_habits, f"127.0.0.1:{self.port}", self.elsewhere, self.password
            )

    def _json(self, folder: str) -> Answer:
        rows = [
            {"name": name.rstrip("/"), "is_dir": True}
            if name.endswith("/")
            else {"name": name, "size": size}
            for name, size in self.rows(folder)
        ]
        return Answer(
            200, [("Content-Type", "application/json")], [Text(json.dumps(rows).encode())]
        )

    def href(self, name: str, folder: str) -> str:
        """Return how a page links a name of a folder."""
        if self.store_habits.does("href-absolute"):
            return ROOT + quote(folder + name)
        if self.store_habits.does("href-url"):
            return f"{self.scheme}://127.0.0.1:{self.port}{ROOT}{quote(folder + name)}"
        if self.store_habits.does("href-encoding"):
            return overencoded_path(name)
        if self.store_habits.does("href-query"):
            return f"?file={quote(name)}"
        if name.endswith("/") and self.store_habits.does("href-bare"):
            return quote(name.rstrip("/"))
        return quote(name)

    def _row(self, row: tuple[str, int], folder: str) -> str:
        name, size = row
        shown = "-" if name.endswith("/") else str(size)
        if not name.endswith("/") and self.store_habits.picks("list-bad-size", name):
            shown = ("9999999999999999999", "²", "-7")[
                int(self.store_habits.roll("size", name) * 3)
            ]
        link = f'<a href="{escape(self.href(name, folder))}">{escape(name)}</a>'
        return f"{link}          01-Jan-2026 00:00      {shown}\r\n"

    def rows(self, folder: str) -> Iterator[tuple[str, int]]:
        """Yield the names right below a folder, folders with their '/', and their lengths; as the
        habits have it."""
        seen: dict[str, int] = {}
        folder = self.shelf.spelling_of(folder)
        for name in self.shelf.names():
            held = self.shelf.get(name)
            if name.startswith(folder) and held is not None:
                first, slash, _ = name[len(folder) :].partition("/")
                if not (first.startswith(".") and self.store_habits.does("hides-names")):
                    seen.setdefault(first + slash, 0 if slash else len(held.data))
        if not folder and self.store_habits.does("list-ghost"):
            seen["ghost.bin"] = 9
        for name, size in seen.items():
            yield name, size
            if self.store_habits.picks("list-repeats", name):
                yield name, size


def overencoded_path(path: str) -> str:
    """Return a path with more percent-encoding than necessary, in lower-case digits."""
    # The letters g to z stay, so that a link has both forms.
    return "".join(
        char
        if char == "/" or "f" < char < "{"
        else "".join(f"%{byte:02x}" for byte in char.encode())
        for char in path
    )
