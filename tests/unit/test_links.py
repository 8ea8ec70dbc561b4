"""The targets of the links of a folder's page, in any spelling."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from relay.errors import ConnectionLost, ProtocolViolation, Unsupported
from relay.stores.index_links import LinkTarget, read_link, segments_of
from relay.stores.index_pages import read_entries
from relay.stores.index_refusals import PENDING_CHARACTERS, IndexPage

FOLDER = "/a b (c)/ü/"
ASKED = "/a%20b%20(c)/%C3%BC/"


@pytest.mark.parametrize(
    "href",
    [
        "x",
        "./x",
        "/a%20b%20(c)/%C3%BC/x",
        "/a%20b%20%28c%29/%c3%bc/x",
        "/a b (c)/ü/x",
        "/a%20b%20(c)//%C3%BC/./x",
        "http://Host.Example/a%20b%20(c)/%C3%BC/x",
        "HTTP://HOST.EXAMPLE:80/a%20b%20(c)/%C3%BC/x",
        "//host.example/a%20b%20(c)/%C3%BC/x",
        "../%C3%BC/x",
        "/a%20b%20(c)/u%CC%88/x",
        " x ",
        "%78",
    ],
)
def test_a_link_is_understood_however_it_is_spelled(href: str) -> None:
    link = read_link(href, segments_of(ASKED), "host.example")
    assert (link.leads, link.name) == (LinkTarget.BELOW, "x")
    assert read_link(href.rstrip() + "/", segments_of(ASKED), "host.example").name == "x/"


@pytest.mark.parametrize(
    ("href", "leads"),
    [
        ("../", LinkTarget.AWAY),
        ("/", LinkTarget.AWAY),
        ("?C=N;O=D", LinkTarget.ITSELF),
        ("/a%20b%20(c)/%C3%BC/?C=N", LinkTarget.ITSELF),
        ("#top", LinkTarget.ITSELF),
        ("mailto:me@host.example", LinkTarget.AWAY),
        ("https://nginx.org/", LinkTarget.AWAY),
        ("/other/x", LinkTarget.ASTRAY),
        ("/proxied/a%20b%20(c)/%C3%BC/x", LinkTarget.ASTRAY),
        ("x/y", LinkTarget.ASTRAY),
        ("x?y", LinkTarget.ODD),
        ("x#y", LinkTarget.ODD),
        ("x\\y", LinkTarget.ODD),
        ("x%2fy", LinkTarget.ODD),
        ("note:x", LinkTarget.ODD),
        ("12:30.log", LinkTarget.BELOW),
    ],
)
def test_other_links(href: str, leads: LinkTarget) -> None:
    assert read_link(href, segments_of(ASKED), "host.example").leads is leads


def read_links(text: str | bytes, framed: bool = True, path: str = "/t/") -> list[tuple[str, bool]]:
    data = text if isinstance(text, bytes) else text.encode()
    pieces = (data[first : first + 11] for first in range(0, len(data), 11))
    page = IndexPage(
        shown="the page", side="source", paths=(path,), host="a.example", framed=framed
    )
    return [(entry.name, entry.error is not None) for entry in read_entries(pieces, page)]


HEAD = "<html><title>Index of /t/</title>"


def test_a_page_without_an_understood_link_is_an_error() -> None:
    with pytest.raises(Unsupported, match="none of the 2 links"):
        read_links(
            HEAD + '<a href="../">up</a><a href="/in/t/x">x</a><a href="/in/t/y">y</a></html>'
        )
    assert (
        read_links(
            HEAD
            + '<a href="../">up</a><a href="?C=N">Name</a><a href="https://nginx.org/">nginx</a></html>'
        )
        == []
    )
    assert read_links(HEAD + '<a href="/style/">s</a><a href="x">x</a></html>') == [("x", False)]


def test_an_ambiguous_link_fails_alone() -> None:
    found = read_links(
        HEAD + '<a href="x?id=1">x</a><a href="note:y">y</a><a href="z">z</a></html>'
    )
    assert found == [("x?~d9fc91d4", True), ("note:y", True), ("z", False)]


def test_the_icon_of_a_file_is_a_link_too() -> None:
    text = (
        HEAD
        + "".join(
            f'<a href="{n}"><img></a> <a href="{n}">{n}</a> 23-Nov-2026 22:48 7\n' for n in "abc"
        )
        + "</html>"
    )
    data = text.encode()
    page = IndexPage(shown="the page", side="source", paths=("/t/",))
    assert [(entry.name, entry.size) for entry in read_entries(iter([data]), page)] == [
        (n, 7) for n in "abc"
    ]


@pytest.mark.parametrize("framed", [True, False])
def test_a_page_must_have_its_own_end(framed: bool) -> None:
    whole = HEAD + '<a href="x">x</a></html>'
    assert read_links(whole, framed) == [("x", False)]
    with pytest.raises(ConnectionLost):
        read_links(whole.removesuffix("</html>"), framed)
    without = whole.removeprefix("<html>").removesuffix(
        "</html>"
    )  # HTML permits it, and only the framing shows the end
    if framed:
        assert read_links(without) == [("x", False)]
    else:
        with pytest.raises(ConnectionLost):
            read_links(without, framed)


@pytest.mark.parametrize("length", range(1, 40))
def test_a_list_in_json_is_whole_or_cut(length: int) -> None:
    whole = '[{"name": "a"}, {"name": "b", "size": 2}]\n'
    assert read_links(whole) == [("a", False), ("b", False)]
    with pytest.raises(ConnectionLost):
        read_links(whole[:length])


def test_one_bad_row_of_a_list_in_json_is_its_own_failure() -> None:
    text = (
        '[{"name": "a", "size": 1e400}, {"nome": "b"}, {"name": "x/y"}, {"name": "d", "size": '
        + "9" * 5000
        + "}]"
    )
    assert read_links(text) == [
        ("a", False),
        ("row 2 of the list", True),
        ("row 3 of the list", True),
        ("d", False),
    ]
    assert read_links("[]") == []
    for no_list in ('[{"name": "a"}, 1]', '[{"name": "a"}] more', "[" * 5000, '[{"a":' * 4000):
        with pytest.raises((Unsupported, ConnectionLost)):
            read_links(no_list)


@pytest.mark.parametrize(
    "element", ["<!--", "<a href='", "<script>", "<![CDATA[", "&", "<a " + "b" * 100]
)
def test_an_element_without_an_end_is_refused(element: str) -> None:
    data = (HEAD + element).encode() + b"x" * (16 << 10)

    def pieces() -> object:
        yield data
        for _ in range(64):
            yield b"x" * (16 << 10)

    page = IndexPage(shown="the page", side="source", paths=("/t/",))
    try:
        found = list(read_entries(pieces(), page))  # type: ignore[arg-type]
    except (ProtocolViolation, Unsupported, ConnectionLost):
        return
    assert all(len(entry.name) <= PENDING_CHARACTERS for entry in found)


def test_every_name_is_understood_in_every_folder() -> None:
    for folder in ("", "a", "a b/ü", "%41/(x)"):
        path = "/" + "".join(
            f"{quote(segment, safe='')}/" for segment in folder.split("/") if segment
        )
        for name in ("x", "ü", "a b", "?#", "%41", "a:b"):
            assert read_link(quote(name, safe=""), segments_of(path), "").name == name
            assert read_link(path + quote(name, safe=""), segments_of(path), "").name == name
