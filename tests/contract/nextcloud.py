"""A program for tests: WsgiDAV behind Nextcloud's additions: it assembles chunks and refuses some
names and times.

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

_FILE = re.compile(r"/remote\.php/dav/uploads/[^/]+/[^/]+/\.file")


_REFUSED = (".part", ".filepart")
"""File name endings that it forbids (docs.nextcloud.com, "Forbidden file names")."""


def refusing(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
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


def dating(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Refuse a time of the first day of 1970, as its `MtimeSanitizer` does; pass every other
    request to `app`."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if int(environ.get("HTTP_X_OC_MTIME", "100000")) > 24 * 60 * 60:
            return app(environ, start)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start("500 Internal Server Error", [("Content-Length", "0")])
        return [b""]

    return answer


def assembling(root: Path, app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Assemble the chunks of an upload on a MOVE of its `.file`; pass every other request to
    `app`."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] != "MOVE" or not _FILE.fullmatch(path):
            return app(environ, start)
        folder = (root / path.lstrip("/")).parent
        target = root / unquote(urlsplit(environ["HTTP_DESTINATION"]).path).lstrip("/")
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
    app = refusing(dating(assembling(root, WsgiDAVApp(config))))
    server = Server(("127.0.0.1", port), app, numthreads=10)
    server.start()


if __name__ == "__main__":
    main()
