"""A program for tests: WsgiDAV behind Nextcloud's additions: it assembles chunks, refuses some
names and times, and gives a chunk no tag.

Usage: python -m tests.contract.nextcloud ROOT PORT"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from cheroot.wsgi import Server
from wsgidav.fs_dav_provider import FilesystemProvider
from wsgidav.wsgidav_app import WsgiDAVApp

_FOLDER = re.compile(r"/remote\.php/dav/uploads/[^/]+/[^/]+/?")
_FILE = re.compile(r"/remote\.php/dav/uploads/[^/]+/[^/]+/\.file")
_CHUNK = re.compile(r"/remote\.php/dav/uploads/(?P<user>[^/]+)/[^/]+/[0-9]+")
HIDDEN = "cat"
"""The user whose chunks are in a bucket: PROPFIND does not show them, and the server forgets the
first upload once, as its cache does."""


_REFUSED = (".part", ".filepart")
"""File name endings that it forbids (docs.nextcloud.com, "Forbidden file names")."""


def refuse_names(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Refuse to create a forbidden name; pass every other request to `app`."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        made = environ["PATH_INFO"] if environ["REQUEST_METHOD"] in ("PUT", "MKCOL") else ""
        names = (made, unquote(urlsplit(environ.get("HTTP_DESTINATION", "")).path))
        if any(name.rstrip("/").lower().endswith(_REFUSED) for name in names):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("400 Bad Request", [("Content-Length", "0")])
            return [b""]
        return app(environ, start)

    return answer


def refuse_early_times(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Refuse a time of the first day of 1970, as its `MtimeSanitizer` does; pass every other
    request to `app`."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if int(environ.get("HTTP_X_OC_MTIME", "100000")) > 24 * 60 * 60:
            return app(environ, start)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start("500 Internal Server Error", [("Content-Length", "0")])
        return [b""]

    return answer


def leave_out_tags(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Leave the tag out of an answer about a chunk (apps/dav/lib/Upload/UploadFolder.php)."""
    forgotten: list[str] = []

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        chunk = _CHUNK.fullmatch(environ["PATH_INFO"])
        if chunk is None:
            return app(environ, start)
        refused = {"PROPFIND": "404 Not Found"}
        if environ["PATH_INFO"].endswith("2") and not forgotten:
            refused["PUT"] = "412 Precondition Failed"
        if chunk["user"] == HIDDEN and (status := refused.get(environ["REQUEST_METHOD"])):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            forgotten.extend([status] if status.startswith("412") else [])
            start(status, [("Content-Length", "0")])
            return [b""]

        def untagged(status: str, fields: list[tuple[str, str]], *more: Any) -> Any:
            return start(status, [pair for pair in fields if pair[0].lower() != "etag"], *more)

        return app(environ, untagged)

    return answer


def assemble_chunks(
    root: Path, app: Callable[..., Iterable[bytes]]
) -> Callable[..., Iterable[bytes]]:
    """Assemble the chunks of an upload on a MOVE of its `.file`; pass every other request to
    `app`.

    If the upload began with the name of an existing file, that file gets the bytes, and is moved
    (apps/dav/lib/Upload/ChunkingV2Plugin.php)."""
    begun: dict[Path, Path] = {}

    def path_of(environ: dict[str, Any]) -> Path:
        return root / unquote(urlsplit(environ["HTTP_DESTINATION"]).path).lstrip("/")

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] == "MKCOL" and _FOLDER.fullmatch(path):
            begun[root / path.strip("/")] = path_of(environ)
        if environ["REQUEST_METHOD"] != "MOVE" or not _FILE.fullmatch(path):
            return app(environ, start)
        if not path_of(environ).parent.is_dir():
            start("409 Conflict", [("Content-Length", "0")])
            return [b""]
        folder = (root / path.lstrip("/")).parent
        target, first = path_of(environ), begun.pop((root / path.lstrip("/")).parent, None)
        if first is not None and first.is_file():
            first.replace(target)
        chunks = sorted(folder.iterdir())
        if sum(chunk.stat().st_size for chunk in chunks) != int(environ["HTTP_OC_TOTAL_LENGTH"]):
            start("400 Bad Request", [("Content-Length", "0")])
            return [b""]
        with target.open("wb") as file:
            for chunk in chunks:
                file.write(chunk.read_bytes())
        shutil.rmtree(folder)
        start("201 Created", [("Content-Length", "0")])
        return [b""]

    return answer


def main() -> None:
    """Serve until killed."""
    root, port = Path(sys.argv[1]), int(sys.argv[2])
    config = {
        "provider_mapping": {"/": FilesystemProvider(str(root))},
        "simple_dc": {"user_mapping": {"*": True}},
        "http_authenticator": {"accept_basic": True},
        "logging": {"enable": False},
        "verbose": 0,
    }
    app = refuse_names(
        refuse_early_times(assemble_chunks(root, leave_out_tags(WsgiDAVApp(config))))
    )
    server = Server(("127.0.0.1", port), app, numthreads=10)
    server.start()


if __name__ == "__main__":
    main()
