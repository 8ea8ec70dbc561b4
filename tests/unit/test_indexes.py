# ruff: noqa: E501 - pages as servers print them
"""The pages on which web servers list a folder, as those servers print them."""

from __future__ import annotations

from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import StoreError, Unsupported
from relay.stores import index_json
from relay.stores.index_links import LinkTarget, read_link, segments_of
from relay.stores.index_pages import read_entries
from relay.stores.index_parser import IndexParser
from relay.stores.index_refusals import IndexPage
from relay.stores.interfaces import Entry


def read_index(text: str, path: str, step: int = 7) -> list[Entry] | None:
    """Return the entries of a page that comes in small pieces; None if it is not a list."""
    data = text.encode("utf-8", "surrogatepass")
    pieces = (data[first : first + step] for first in range(0, len(data), step))
    try:
        return list(
            read_entries(
                pieces, IndexPage(shown="the page", side="source", paths=(path,), host="a.example")
            )
        )
    except (StoreError, Unsupported):
        return None


def name_of_link(href: str, path: str) -> str | None:
    """Return the name that a link leads to, right below the path."""
    link = read_link(href, segments_of(path), "a.example")
    return link.name if link.leads is LinkTarget.BELOW else None


NGINX = """<html>
<head><title>Index of /pub/</title></head>
<body>
<h1>Index of /pub/</h1><hr><pre><a href="../">../</a>
<a href="in/">in/</a>                                                23-Nov-2026 22:48                   -
<a href="a%20b.txt">a b.txt</a>                                      23-Nov-2026 22:48                1234
<a href="rounded.iso">rounded.iso</a>                                23-Nov-2026 22:48                 12M
<a href="long-name-that-nginx-cuts-because-it-does-not-fit-in.txt">long-name-that-nginx-cuts-because-it-does-not-..&gt;</a> 23-Nov-2026 22:48 7
</pre><hr></body>
</html>"""

APACHE_TABLE = """<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">
<html><head><title>Index of /pub</title></head><body><h1>Index of /pub</h1>
<table><tr><th valign="top"><img src="/icons/blank.gif" alt="[ICO]"></th><th><a href="?C=N;O=D">Name</a></th>
<th><a href="?C=M;O=A">Last modified</a></th><th><a href="?C=S;O=A">Size</a></th></tr>
<tr><td><a href="/">Parent Directory</a></td><td>&nbsp;</td><td align="right">  - </td></tr>
<tr><td valign="top"><img src="/icons/folder.gif" alt="[DIR]"></td><td><a href="in/">in/</a></td><td align="right">2026-11-23 22:48  </td><td align="right">  - </td><td>&nbsp;</td></tr>
<tr><td valign="top"><img src="/icons/text.gif" alt="[TXT]"></td><td><a href="a%20b.txt">a b.txt</a></td><td align="right">2026-11-23 22:48  </td><td align="right">123 </td><td>photo 2024</td></tr>
<tr><td valign="top"><img src="/icons/text.gif" alt="[TXT]"></td><td><a href="rounded.iso">rounded.iso</a></td><td align="right">2026-11-23 22:48  </td><td align="right">1.2K</td><td>&nbsp;</td></tr>
</table></body></html>"""

APACHE_PLAIN = """<html><head><title>Index of /pub</title></head><body><h1>Index of /pub</h1>
<ul><li><a href="/"> Parent Directory</a></li>
<li><a href="in/"> in/</a></li>
<li><a href="a%20b.txt"> a b.txt</a></li></ul></body></html>"""

PYTHON = """<!DOCTYPE HTML>
<html lang="en"><head><meta charset="utf-8"><title>Directory listing for /pub/</title></head>
<body><h1>Directory listing for /pub/</h1><hr><ul>
<li><a href="in/">in/</a></li>
<li><a href="a%20b.txt">a b.txt</a></li>
</ul><hr></body></html>"""

CADDY_JSON = """[{"name":"in/","size":4096,"url":"./in/","mod_time":"2026-11-23T22:48:09.123456789Z","mode":2147484141,
"is_dir":true,"is_symlink":false},{"name":"a b.txt","size":1234,"url":"./a%20b.txt",
"mod_time":"2026-11-23T22:48:09Z","mode":420,"is_dir":false,"is_symlink":false}]"""

NGINX_JSON = """[
{ "name":"in", "type":"directory", "mtime":"Mon, 23 Nov 2026 22:48:09 GMT" },
{ "name":"a b.txt", "type":"file", "mtime":"Mon, 23 Nov 2026 22:48:09 GMT", "size":1234 },
{ "name":"pipe", "type":"other", "mtime":"Mon, 23 Nov 2026 22:48:09 GMT" }
]"""

ROUNDED = {"rounded.iso": None}


@pytest.mark.parametrize(
    ("text", "more", "size"),
    [
        (NGINX, {**ROUNDED, "long-name-that-nginx-cuts-because-it-does-not-fit-in.txt": 7}, 1234),
        (APACHE_TABLE, ROUNDED, 123),
        (APACHE_PLAIN, {}, None),
        (PYTHON, {}, None),
        (CADDY_JSON, {}, 1234),
        (NGINX_JSON, {}, 1234),
    ],
)
def test_the_list_of_each_server(text: str, more: dict[str, int | None], size: int | None) -> None:
    found = read_index(text, "/pub/")
    assert found is not None
    shown = {entry.name: entry.size for entry in found if entry.error is None}
    assert shown == {"in/": None, "a b.txt": size, **more}


@pytest.mark.parametrize(
    ("href", "inside", "is_entry"),
    [
        ("?dir=sub", "sub", True),
        ("?dir=sub", "sub/", True),
        ("?dir=pub%2Fsub", "[sub]", True),
        ("/index.php?dir=/pub/sub", "sub/", True),
        ("?C=N;O=D", "Name", False),
        ("/index.php?dir=/", "..", False),
        ("/about?lang=en", "About", False),
    ],
)
def test_a_folder_that_is_linked_by_a_query_is_not_left_out(
    href: str, inside: str, is_entry: bool
) -> None:
    """Scripts in PHP list their folders so, and the files by their paths."""
    link = f'<a href="{href}">{inside}</a>'
    page = f"<html><title>Index of /pub/</title>{link}<a href='file.txt'>file.txt</a></html>"
    found = read_index(page, "/pub/")
    assert (found is None) is is_entry
    assert found is None or [entry.name for entry in found] == ["file.txt"]


def test_a_link_of_caddys_list_has_no_date() -> None:
    """The list has the link's own date: a new target of the same size would look unchanged."""
    found = read_index(CADDY_JSON.replace("false}]", "true}]"), "/pub/")
    assert found is not None
    dates = {entry.name: entry.modified for entry in found}
    assert (dates["in/"] is None, dates["a b.txt"]) == (False, None)


def test_names_that_are_not_utf8_stay_apart() -> None:
    """nginx writes the bytes of a name into its JSON as they are."""
    rows = b'[{"name":"caf\xe9","type":"file"},{"name":"caf\xe8","type":"file"}]'
    page = IndexPage(shown="the page", side="source", paths=("/pub/",))
    assert len(list(read_entries([rows], page))) == 2


def test_a_row_that_is_no_file_is_an_entry_with_an_error() -> None:
    """nginx shows a link without a target so, and the server may have lost that file's disk."""
    found = read_index(NGINX_JSON, "/pub/")
    assert found is not None
    assert [entry.name for entry in found if isinstance(entry.error, Unsupported)] == ["pipe"]


@pytest.mark.parametrize(
    ("rows", "text", "is_cut"),
    [(2, CADDY_JSON, True), (3, CADDY_JSON, False), (3, NGINX_JSON, False)],
)
def test_a_list_with_caddys_maximum_of_rows_may_be_cut(
    monkeypatch: pytest.MonkeyPatch, rows: int, text: str, is_cut: bool
) -> None:
    """Caddy omits the rest of the folder without a sign."""
    monkeypatch.setattr(index_json, "CADDY_ROWS", rows)
    page = IndexPage(shown="http://host/pub/", side="source", paths=("/pub/",))
    if is_cut:
        with pytest.raises(Unsupported, match="cuts"):
            list(read_entries([text.encode()], page))
    else:
        assert list(read_entries([text.encode()], page))


def page_of(*links: str) -> str:
    return f"<html><head><title>Index of /pub/</title></head><body>{''.join(links)}</body></html>"


@pytest.mark.parametrize(
    "query", ["?file={}", "?{}", "?a=b&amp;f={}", "/pub/?file={}", "./?download={}&amp;raw=1"]
)
@pytest.mark.parametrize("name", ["a b.txt", "sub/", "\u00fc", "name", "1"])
@pytest.mark.parametrize("others", ["", '<a href="whole.txt">whole.txt</a>'])
def test_a_page_of_query_links_is_refused(query: str, name: str, others: str) -> None:
    link = f'<a href="{query.format(quote(name))}"> {name} </a>'
    assert read_index(page_of('<a href="../">../</a>', link, others), "/pub/") is None
    cut = f'<a href="{query.format(quote(name))}">{name[:2]}..&gt;</a>'
    if not others:
        assert read_index(page_of('<a href="../">../</a>', cut), "/pub/") is None


@pytest.mark.parametrize(
    "links",
    [
        ("?C=N;O=D", "?C=M;O=A", "?C=S;O=A", "?C=D;O=A"),
        ("?C=N&amp;O=A", "?C=M&amp;O=D", "./?N=D"),
        (
            "?sort=name&amp;order=desc",
            "?sort=size&amp;order=asc",
            "?layout=grid",
            "?limit=100",
            "/pub/?sort=time",
        ),
        ("?dir=asc", "?direction=desc&amp;sortby=name"),
    ],
)
def test_an_empty_sortable_page_is_an_empty_folder(
    links: tuple[str, ...],
) -> None:
    text = page_of(*(f'<a href="{href}">name</a><a href="{href}"><img></a>' for href in links))
    assert read_index(text, "/pub/") == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no page",
        "<html><title>My shop</title><a href='x'>x</a></html>",
        "{}",
        "[1, 2]",
        '[{"no": "name"}]',
        "[" * 5000,
        "<title>Indexing of things</title><a href='x'>x</a>",
    ],
)
def test_an_invalid_list(text: str) -> None:
    assert read_index(text, "/pub/") is None


@pytest.mark.parametrize(
    "href",
    [
        "../",
        "..",
        "./",
        "/",
        "/pub/",
        "/pub",
        "/etc/passwd",
        "/pub/../x",
        "..%2f..%2fetc",
        "%2e%2e/",
        "%2E%2E",
        "a/b",
        "a%2fb",
        "a\\b",
        "?C=N;O=D",
        "x?y",
        "x#y",
        "https://elsewhere/x",
        "//elsewhere/x",
        "javascript:x",
        "mailto:x",
        "",
    ],
)
def test_links_that_are_not_entries_of_the_folder(href: str) -> None:
    assert name_of_link(href, "/pub/") is None


@pytest.mark.parametrize(("href", "name"), [("%ff", "\udcff"), ("a%5cb", "a\\b"), ("%00", "\0")])
def test_b61_a_name_that_cannot_be_moved_is_named(href: str, name: str) -> None:
    assert name_of_link(href, "/pub/") == name


@given(st.text(min_size=1).filter(lambda name: name not in (".", "..") and "/" not in name))
def test_every_name_is_found_again(name: str) -> None:
    try:
        href = quote(name, safe="")
    except UnicodeEncodeError:
        return
    assert (
        name_of_link(f"./{href}", "/pub/")
        == name_of_link(f"/pub/{href}", "/pub/")
        == name_of_link(href, "/pub/")
        == name
    )
    assert name_of_link(f"{href}/", "/pub/") == f"{name}/"


@given(st.text())
def test_no_link_ever_leaves_the_folder(href: str) -> None:
    name = name_of_link(href, "/pub/")
    assert name is None or (
        name.removesuffix("/") not in ("", ".", "..") and "/" not in name.removesuffix("/")
    )


@pytest.mark.parametrize(
    "links",
    [
        ("b.bin?X-Amz-Signature=S3CR3T1", "b.bin?X-Amz-Signature=S3CR3T2"),
        ("b.bin?S3CR3T1", "b.bin?S3CR3T2#x"),
        ("/a/?file=b&sig=S3CR3T1",),
        ("http://me:S3CR3T1@h/a/b", "http://me:S3CR3T2@h/a/b"),
        ("http://me:S3CR3T1@other.example/a/b", "http://S3CR3T2@other.example/a/b"),
        ("//me:S3CR3T1@h/a/b",),
        ("http://me:S3CR3T1@h/a/in/b?x=S3CR3T2",),
    ],
)
def test_the_query_of_a_link_is_not_shown(links: tuple[str, ...]) -> None:
    """It may be a signature; two links that differ in it alone stay two."""
    anchors = "".join(f'<a href="{link}">b</a>' for link in links)
    text = f"<html><title>Index of /a</title>{anchors}</html>"
    page = IndexPage(shown="https://h/a/", side="source", paths=("/a/",), host="h")
    shown: list[str] = []
    try:
        for entry in read_entries([text.encode()], page):
            assert entry.error is not None
            shown += [entry.name, entry.error.message]
    except Unsupported as error:
        shown += [error.message, error.hint]
    assert "S3CR3T" not in "".join(shown)
    assert len(set(shown)) == 2 * len(links)


@pytest.mark.parametrize("host", ["", "http://a.example"])
def test_files_below_another_path_are_not_omitted(host: str) -> None:
    """Sonatype Nexus shows folders by their names, and files by the path of their downloads."""
    links = (
        f'<a href="{host}/repository/pub/top.bin">top.bin</a>',
        '<a href="sub/">sub</a>',
        f'<a href="{host}/about">about</a><a href="/about/pub/">all</a>',
    )
    found = read_index(page_of(*links), "/browse/pub/")
    assert found is not None
    assert [(entry.name, entry.error is None) for entry in found] == [
        (f"{host}/repository/pub/top.bin", False),
        ("sub/", True),
    ]
    alone = page_of('<a href="../">../</a>', links[0])
    assert read_index(alone, "/browse/pub/") is None


def test_a_sentence_that_comes_in_pieces_is_read() -> None:
    warning = "<h3>\n There may be additional items to display.\n</h3>"
    text = page_of(warning, '<a href="sub/">sub</a>')
    assert all(read_index(text, "/pub/", step) is None for step in range(1, 40))


BASES = {
    "/pub/": ["a", "in/", "/pub/b"],
    "http://a.example/pub/": ["a", "in/", "b"],
    "//A.example/pub/index.html": ["a", "in/", "./b"],
    "./": ["a", "in/", "b"],
    "/": ["pub/a", "pub/in/", "/pub/b"],
    "deeper/": ["../a", "../in/", "../b"],
    "": ["a", "in/", "b"],
    "http://[": ["a", "in/", "b"],
}


@pytest.mark.parametrize("base", BASES)
def test_a_base_resolves_relative_links(base: str) -> None:
    links = "".join(f'<a href="{href}">x</a>\n' for href in ("../", *BASES[base]))
    page = f'<html><head><title>Index of /pub/</title><base href="{base}"></head><body>{links}</body></html>'
    found = read_index(page, "/pub/")
    assert found is not None
    assert [entry.name for entry in found] == ["a", "in/", "b"]


@pytest.mark.parametrize(
    "base", ["http://inside.example:8080/pub/", "/elsewhere/", "sub/", "ftp://x/"]
)
def test_a_page_with_a_foreign_base_is_not_an_empty_folder(base: str) -> None:
    page = f'<html><head><title>Index of /pub/</title><base href="{base}"></head><body><a href="a">a</a></body></html>'
    assert read_index(page, "/pub/") is None


def test_an_empty_folder_may_have_a_base() -> None:
    page = '<html><head><title>Index of /pub/</title><base href="/pub/"></head><body><a href="../">..</a></body></html>'
    assert read_index(page, "/pub/") == []


def test_a_base_after_links_is_not_ignored() -> None:
    page = '<html><head><title>Index of /pub/</title></head><body><a href="a">a</a><base href="/x/"></body></html>'
    assert read_index(page, "/pub/", 4000) is None


ABROAD = (
    "http://inside.example:8080",
    "//inside.example",
    "https://a.example:8443",
    "HTTP://10.0.0.7",
)


@pytest.mark.parametrize("host", ABROAD)
@pytest.mark.parametrize("path", ["/", "/pub/", "/pub/in%20it/"])
def test_a_page_of_foreign_links_is_not_an_empty_folder(host: str, path: str) -> None:
    """A server behind a proxy may have another name for itself."""
    links = "".join(f'<a href="{host}{path}{name}">{name}</a>\n' for name in ("a", "in/"))
    assert read_index(page_of('<a href="../">../</a>', links), path) is None
    inside = links.replace(f"{host}/", f"{host}/internal/")
    assert read_index(page_of('<a href="../">../</a>', inside), path) is None
    found = read_index(page_of('<a href="../">../</a>', links, '<a href="b">b</a>'), path)
    assert found is not None
    assert [(entry.name, entry.error is None) for entry in found] == [
        (f"{host}{path}a", False),
        (f"{host}{path}in/", False),
        ("b", True),
    ]


@pytest.mark.parametrize("path", ["/", "/pub/"])
def test_links_to_a_pages_maker_are_not_entries(path: str) -> None:
    links = (
        '<a href="https://nginx.org/">nginx</a><a href="https://nginx.org">nginx</a>',
        '<a href="https://github.com/mar10/wsgidav/">WsgiDAV/4.3.3</a><a href="https://larsjung.de/h5ai">thanks</a>',
        f'<a href="https://mirror.example{path}">mirror</a>',
    )
    assert read_index(page_of('<a href="../">../</a>', *links), path) == []


@pytest.mark.parametrize("path", ["/", "/pub/", "/pub/http-server/"])
def test_a_page_that_names_its_maker_is_an_empty_folder(path: str) -> None:
    """Like Node.js's http-server, whose own name is the last part of its address."""
    made = '<address>Node.js <a href="https://github.com/http-party/http-server">http-server</a> running</address>'
    assert read_index(page_of('<a href="./../">../</a>', made), path) == []
    found = read_index(page_of("<address>", '<a href="a">a</a>', '<a href="./b/">b/</a>'), path)
    assert found is not None
    assert [entry.name for entry in found] == ["a", "b/"], (
        "what lies in the folder is listed wherever it stands"
    )


@pytest.mark.parametrize(
    "row",
    ['{"name": "in/"}', '{"name": "in", "type": "dir"}', '{"name": "in/", "type": "directory"}'],
)
def test_a_folder_in_json_is_not_one_of_its_objects(row: str) -> None:
    found = read_index(f"[{row}]", "/pub/")
    assert found is not None
    assert [entry.name for entry in found] == ["in/"]


class SlowParser(IndexParser):
    """Reads each element as HTML."""

    def _feed(self, text: str) -> None:
        self.feed(text)


LINE = '<a href="b.txt">b.txt</a>     23-Nov-2026 22:48      12\n'
MARKUP = st.sampled_from(
    [
        *(LINE, LINE, LINE, '<a href="in/">in/</a>    -\n', '<a href="a&amp;b">a&amp;b</a> 1\n'),
        *("<a href='q'>q</a>\n", "<h1>Index of /t/</h1>\n", f"<!-- {LINE} -->", "<!-- "),
        *(f"<script>{LINE}</script>", f"<title>{LINE}</title>", '<base href="/t/">', "</html>"),
        *("<div title='<a href=\"'>", "<td>a</td>", "more & ", "&am", "p; \n", "<", "<a href="),
        *(f"<address>{LINE}</address>", "<a>", "</a>", "<html>", f"<a href=z>{LINE}", "\r\n"),
    ]
)


@given(st.lists(MARKUP, max_size=12), st.lists(st.integers(0, 400), max_size=5))
def test_plain_lines_are_read_as_their_markup(parts: list[str], cuts: list[int]) -> None:
    """Whatever stands around them, and wherever the page comes in pieces."""
    text = "".join(["<html><title>Index of /t/</title>\n", *parts])
    ends = sorted({0, *cuts, len(text)})
    pieces = [text[first:last] for first, last in pairwise(ends)]
    page = IndexPage(shown="the page", side="source", paths=("/t/",))
    seen = []
    for parser in (IndexParser(), SlowParser()):
        try:
            for piece in (*pieces, None):
                parser.read(piece, page)
        except (StoreError, Unsupported) as error:
            seen.append((type(error),))
            continue
        seen.append((parser.take_links(), parser.ended, parser.begun, parser.is_list, parser.base))
    assert seen[0] == seen[1]
