"""A folder's page that another folder's page links as an object is not moved as one; a page that is
an object is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.terminal import Terminal
from tests.scripted import Peer, Talk, length_of

INDEX = b"<html><title>Index of %s</title><a href='../'>up</a>%s</html>"
HTML, PLAIN = b"text/html; charset=utf-8", b"text/plain"


def links(*names: str) -> bytes:
    return b"".join(b"<a href='%s'>x</a>\n" % name.encode() for name in names)


class Server:
    """A server whose folders are linked without their '/', and answer without it too."""

    def __init__(self, *, knows_head: bool = True) -> None:
        self.asked: list[bytes] = []
        self.moved: dict[bytes, bytes] = {}
        """The target to which it redirects every request."""
        self.age = 0
        """Seconds for which a cache has had its pages."""
        self._knows_head = knows_head
        names = ("sub", "readme", "page.html", "about", "plain")
        sub = INDEX % (b"/f/sub/", links("inner"))
        self.pages = {
            b"/f/": (HTML, INDEX % (b"/f/", links(*names))),
            b"/f/sub": (HTML, sub),
            b"/f/sub/": (HTML, sub),
            b"/f/sub/inner": (PLAIN, b"inner"),
            b"/f/readme": (HTML, b"<p>a page"),
            b"/f/page.html": (HTML, b"<p>another page"),
            b"/f/about": (b"application/xhtml+xml", b"<p>a third page"),
            b"/f/plain": (PLAIN, b"plain"),
            b"/f/page": (HTML, b"<p>another page"),
        }

    def __call__(self, talk: Talk) -> None:
        while head := talk.head():
            method, path = head.split(b" ")[:2]
            self.asked.append(method + b" " + path)
            if path in self.moved:
                talk.send(
                    b"HTTP/1.1 302 No\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n"
                    % self.moved[path]
                )
            elif method == b"HEAD" and not self._knows_head:
                talk.send(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
            elif path not in self.pages:
                talk.send(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
            else:
                kind, data = self.pages[path]
                printed = (
                    b"HTTP/1.1 200 OK\r\nAge: %d\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
                    % (self.age, kind, len(data))
                )
                talk.send(printed + (data if method == b"GET" else b""))


@pytest.mark.parametrize("knows_head", [True, False])
def test_a_page_of_a_folder_is_not_an_object(tmp_path: Path, knows_head: bool) -> None:
    server = Server(knows_head=knows_head)
    with Peer(server) as peer:
        code, printed = Terminal(tmp_path).tree(peer.url("/f/"), tmp_path / "to")
    assert (code, printed["objects"]) == (1, {"failed": 1, "verified": 4})
    found = {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()}
    assert found == {
        "readme": b"<p>a page",
        "page.html": b"<p>another page",
        "about": b"<p>a third page",
    } | {"plain": b"plain"}
    doubted = {
        one.split(b" ")[1]
        for one in server.asked
        if one.endswith(b"/") and not one.endswith(b" /f/")
    }
    assert doubted == {b"/f/sub/", b"/f/readme/", b"/f/about/"}, (
        "an object that is not a page by its type or name is not requested"
    )


@pytest.mark.parametrize("age", [0, 80_000])
def test_an_index_page_named_as_an_object_is_refused(tmp_path: Path, age: int) -> None:
    """Also if it is named with its '/': then no redirect identifies it. Another page with one is an
    object."""
    server, terminal = Server(), Terminal(tmp_path)
    server.age = age
    with Peer(server) as peer:
        code, _, err = terminal.run("migrate", peer.url("/f/sub/"), str(tmp_path / "sub"))
        assert (code, "is a folder" in err, "-r" in err) == (1, True, True), err
        server.age = 0
        server.pages[b"/f/about/"] = (
            HTML,
            b"<html><title>Index of all</title><a href='/'>home</a></html>",
        )
        assert terminal.run("migrate", peer.url("/f/about/"), str(tmp_path / "about"))[0] == 0
    assert (not (tmp_path / "sub").exists(), b"home" in (tmp_path / "about").read_bytes()) == (
        True,
        True,
    )


def test_a_page_that_its_user_names_is_an_object(tmp_path: Path) -> None:
    """Many sites have their pages under both."""
    server = Server()
    with Peer(server) as peer:
        assert Terminal(tmp_path).run("migrate", peer.url("/f/sub"), str(tmp_path / "sub"))[0] == 0
    assert b"inner" in (tmp_path / "sub").read_bytes()
    assert not any(one.endswith(b"/") for one in server.asked)


LOGIN = b"/f/about"


@pytest.mark.parametrize("page", [LOGIN, b"/f/page"])
def test_a_page_behind_a_redirecting_link_is_not_an_object(tmp_path: Path, page: bytes) -> None:
    """A name that only loses its ending is an object."""
    server = Server()
    server.moved = {b"/f/readme": LOGIN, b"/f/plain": b"/f/sub/inner", b"/f/page.html": page}
    with Peer(server) as peer:
        code, printed = Terminal(tmp_path).tree(peer.url("/f/"), tmp_path / "to")
    assert (code, printed["objects"]) == (
        1,
        {"failed": 3, "verified": 2} if page == LOGIN else {"failed": 2, "verified": 3},
    )
    assert not (tmp_path / "to" / "readme").exists()
    assert (tmp_path / "to" / "page.html").exists() == (page != LOGIN)
    assert (tmp_path / "to" / "plain").read_bytes() == b"inner"


@pytest.mark.parametrize(
    ("name", "moved"),
    [("photo.jpg", False), ("all.tar.gz", False), ("one", True), ("a.html", True)],
)
@pytest.mark.parametrize("listed", [True, False])
def test_a_page_of_another_name_is_refused_too(
    tmp_path: Path, name: str, moved: bool, listed: bool
) -> None:
    server, terminal = Server(), Terminal(tmp_path, RELAY_EGRESS_ALLOW="127.0.0.0/8")
    server.moved = {f"/f/{name}".encode(): LOGIN}
    with Peer(server) as peer:
        (tmp_path / "list.csv").write_text(f"url,name\n{peer.url(f'/f/{name}')},there\n")
        words = ("-r", f"list+{tmp_path}/list.csv", f"{tmp_path}/to")
        words = words if listed else (peer.url(f"/f/{name}"), f"{tmp_path}/to/there")
        code, _, printed = terminal.run("migrate", *words)
    assert (code, (tmp_path / "to" / "there").exists()) == ((0, True) if moved else (1, False)), (
        printed
    )
    assert moved or "which is an HTML page" in printed


VIEWED = {
    "film.mp4": False,
    "data.zip": False,
    "all.tar.gz": False,
    "report.pdf": False,
    "feed.xml": True,
    "notes.txt": True,
    "draw.svg": True,
}


@pytest.mark.parametrize(("name", "moved"), VIEWED.items(), ids=VIEWED)
@pytest.mark.parametrize("to", ["", "saved.html", "saved"])
def test_the_page_of_a_viewer_is_not_its_object(
    tmp_path: Path, name: str, moved: bool, to: str
) -> None:
    """GitHub shows it below `blob/`, under the object's own name; other names are not there."""
    server, terminal = Server(), Terminal(tmp_path, RELAY_EGRESS_ALLOW="127.0.0.0/8")
    server.pages[f"/blob/{name}".encode()] = (HTML, b"\n<!DOCTYPE html><p>viewer")
    moved |= to == "saved.html"
    with Peer(server) as peer:
        call = "migrate", peer.url(f"/blob/{name}"), f"{tmp_path}/to/{to}"
        code, _, printed = terminal.run(*call)
    assert (code, (tmp_path / "to" / (to or name)).exists()) == ((0, True) if moved else (1, False))
    assert moved or f"{name}' is not the name of one" in printed


@pytest.mark.parametrize("url", ["/get.php?id=5", "/f/film.mp4", "/away?id=5"])
def test_data_that_a_script_sends_as_html_is_an_object(tmp_path: Path, url: str) -> None:
    """PHP names that type unless the script names one."""
    server, terminal = Server(), Terminal(tmp_path, RELAY_EGRESS_ALLOW="127.0.0.0/8")
    server.pages[url.encode()] = (HTML, b"\0\0\0\x20ftypisom")
    with Peer(server) as peer:
        assert terminal.run("migrate", peer.url(url), f"{tmp_path}/film.mp4")[0] == 0
    assert (tmp_path / "film.mp4").read_bytes().endswith(b"ftypisom")


SHARED = {
    "film.mp4": False,
    "backup.zst": False,
    "a page.html": True,
    "uc": True,
    "of 2026.11": True,
}


@pytest.mark.parametrize(("name", "moved"), SHARED.items(), ids=SHARED)
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("url", ["/uc?id=5", "/d/download.php?id=5", "/get.pl?id=5"])
def test_the_page_of_a_share_link_is_no_film(
    tmp_path: Path, url: str, name: str, moved: bool, listed: bool
) -> None:
    """Google Drive warns of large files so; the name that the caller gave decides."""
    server, terminal = Server(), Terminal(tmp_path, RELAY_EGRESS_ALLOW="127.0.0.0/8")
    server.pages[url.encode()] = (HTML, b"<p>Google Drive can't scan this file for viruses.")
    with Peer(server) as peer:
        (tmp_path / "list.csv").write_text(f"url,name\n{peer.url(url)},{name}\n")
        words = ("-r", f"list+{tmp_path}/list.csv", f"{tmp_path}/to")
        words = words if listed else (peer.url(url), f"{tmp_path}/to/{name}")
        code, _, printed = terminal.run("migrate", *words)
    assert (code, (tmp_path / "to" / name).exists()) == ((0, True) if moved else (1, False)), (
        printed
    )
    assert moved or "is not the name of one" in printed


ROWS = (
    b'<d:multistatus xmlns:d="DAV:"><d:response><d:href>/d/</d:href><d:propstat><d:prop>'
    b"<d:resourcetype><d:collection/></d:resourcetype></d:prop></d:propstat></d:response>"
    b"<d:response><d:href>/d/photo.jpg</d:href><d:propstat><d:prop><d:resourcetype/>"
    b'<d:getcontentlength>9</d:getcontentlength><d:getetag>"p"</d:getetag></d:prop></d:propstat>'
    b"</d:response></d:multistatus>"
)


def serve_login_page(talk: Talk) -> None:
    """A WebDAV server behind a proxy that redirects readers to its login page: their session has
    ended since the folder was listed."""
    while head := talk.head():
        method, path = head.split(b" ")[:2]
        talk.body(length_of(head))
        if method == b"PROPFIND":
            status, data = b"207 X", ROWS
        elif path == b"/login":
            status, data = b'200 X\r\nETag: W/"l"\r\nContent-Type: %s' % HTML, b"<p>Log in"
        else:
            status, data = b"302 X\r\nLocation: /login", b""
        printed = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status, len(data))
        talk.send(printed + (data if method != b"HEAD" else b""))


@pytest.mark.parametrize("words", [["-r", "/d/"], ["/d/photo.jpg"]])
def test_a_login_page_before_a_webdav_source_is_not_an_object(
    tmp_path: Path, words: list[str]
) -> None:
    terminal = Terminal(tmp_path, RELAY_EGRESS_ALLOW="127.0.0.0/8")
    with Peer([serve_login_page] * 20) as peer:
        source = f"webdav+{peer.url(words[-1])}"
        code, out, err = terminal.run("migrate", *words[:-1], source, f"{tmp_path}/to/")
    assert (code, list(tmp_path.glob("to/*"))) == (1, [])
    assert "redirect to a login page" in out + err
