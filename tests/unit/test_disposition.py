"""Names from Content-Disposition and paths: RFC 6266's examples and the bad-input table's B64."""

from __future__ import annotations

import time

import pytest

from relay.file_names import safe_name
from relay.location import parse_location

HERE = parse_location("https://host/dir/path%20name.bin?sig=x")
PATH = "path name.bin"

VECTORS: list[tuple[str | None, str]] = [
    (None, PATH),
    ("", PATH),
    ("attachment", PATH),
    ("inline; filename=x.txt", "x.txt"),
    ('Attachment; FileName = "x.txt"', "x.txt"),
    ("; filename=x", "x"),
    ('attachment; filename="x.txt";', "x.txt"),
    ('attachment;; filename="x.txt" ; size=10', "x.txt"),
    ('attachment; filename="a;b.txt"; x="y"', "a;b.txt"),
    ("attachment; filename=a b (1).txt", "a b (1).txt"),
    ('attachment; filename="100%25.txt"', "100%25.txt"),
    # traversal: the last part is the name
    ('attachment; filename="../../x"', "x"),
    ("attachment; filename=../../x", "x"),
    ("attachment; filename*=UTF-8''..%2f..%2fx", "x"),
    ("attachment; filename*=UTF-8''..%5c..%5cx", "x"),
    ('attachment; filename="..\\\\..\\\\x"', "x"),
    ('attachment; filename="C:\\dir\\x.txt"', "x.txt"),
    ('attachment; filename="/etc/passwd"', "passwd"),
    # nothing usable: the next source of a name decides
    ('attachment; filename=""', PATH),
    ("attachment; filename=", PATH),
    *(
        (f'attachment; filename="{name}"', PATH)
        for name in (".", "..", "...", " . ", "a/", "a/..", "/", " ")
    ),
    *((f'attachment; filename="a{c}b"', PATH) for c in "\0\n\r\x1f\x7f\x85"),
    ("attachment; filename*=UTF-8''a%00b", PATH),
    ("attachment; filename*=UTF-8''a%0d%0ab", PATH),
    ("attachment; filename*=UTF-8''a%E2%80%AEtxt.exe", PATH),
    ("attachment; filename*=UTF-8''a%E2%80%A8b", PATH),
    # both forms, in both orders
    ("attachment; filename=\"plain.txt\"; filename*=UTF-8''%e2%82%ac.txt", "€.txt"),
    ("attachment; filename*=UTF-8''%e2%82%ac.txt; filename=\"plain.txt\"", "€.txt"),
    ("attachment; filename*=UTF-8''..; filename=\"plain.txt\"", "plain.txt"),
    ("attachment; filename*=UTF-8''%ff%fe; filename=plain.txt", "plain.txt"),
    ("attachment; filename*=utf-16''%ff%fea%00; filename=plain.txt", "plain.txt"),
    # RFC 8187
    ("attachment; filename*=utf-16''%ff%fea%00", PATH),
    ("attachment; filename*=UTF-8''%ff%fe", PATH),
    ("attachment; filename*=UTF-8''%zz", PATH),
    ("attachment; filename*=UTF-8'en'%c2%a3%20rates", "£ rates"),
    ("attachment; filename*=iso-8859-1'en'%A3%20rates", "£ rates"),
    ("attachment; filename*=x", PATH),
    ("attachment; filename*=''x", PATH),
    # quotes and escapes
    ('attachment; filename="a\\"b.txt"', 'a"b.txt'),
    ('attachment; filename="it\'s.txt"', "it's.txt"),
    ('attachment; filename="x', PATH),
    ('attachment; filename="x"y', PATH),
    ('attachment; filename="x\\"', PATH),
    ('filename="x"', PATH),
    # ambiguous names
    ("attachment; filename=a; filename=b", PATH),
    ('attachment; filename*0="a"; filename*1="b.txt"', PATH),
    # bytes that are UTF-8, as HTTP passes them on, and bytes that are Latin-1
    (f'attachment; filename="{"é€.txt".encode().decode("latin-1")}"', "é€.txt"),
    ('attachment; filename="caf\xe9.txt"', "café.txt"),
    # sizes
    (f'attachment; filename="{"a" * 255}"', "a" * 255),
    (f'attachment; filename="{"a" * 256}"', PATH),
    (f"attachment; filename*=UTF-8''{'%c3%a9' * 127}", "é" * 127),
    (f"attachment; filename*=UTF-8''{'%c3%a9' * 128}", PATH),
    (f'attachment; filename="{"a" * 10 * 1024}"', PATH),
    (f'attachment; x="{"a" * 10 * 1024}"; filename=x', PATH),
]


@pytest.mark.parametrize(
    ("header", "name"), VECTORS, ids=[f"B64-{str(header)[:50]!a}" for header, _ in VECTORS]
)
def test_B64_names(header: str | None, name: str) -> None:
    assert safe_name(header, HERE) == name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b", "b"),
        ("/a/caf%C3%A9.txt", "café.txt"),
        ("/a/caf%E9.txt", "caf%E9.txt"),
        ("/a%2fb", "b"),
        ("/a/", None),
        ("", None),
        ("/a%2f", None),
        ("/a%00b", None),
        ("/a%0ab", None),
        ("/%20", None),
        ("/...", None),
        ("/" + "a" * 256, None),
    ],
)
def test_B64_falls_back_to_the_path(path: str, name: str | None) -> None:
    assert safe_name(None, parse_location(f"https://host{path}")) == name
    assert safe_name('attachment; filename=".."', parse_location(f"https://host{path}")) == name


@pytest.mark.parametrize(
    "hostile",
    [
        'a; b=" ' + "\\" * 8100,
        "; a=" + " " * 8100 + '"',
        "; a" + " " * 8100 + "x",
        "; " * 4000 + '"',
        "; filename*=UTF-8''" + "%" * 8100,
        "a" * 8192,
        ";a=" * 2700 + '"',
    ],
)
def test_B64_every_header_is_parsed_quickly(hostile: str) -> None:
    started = time.process_time()
    assert safe_name(hostile, HERE) == PATH
    assert time.process_time() - started < 0.1


def test_a_safe_name_can_be_given() -> None:
    folder = parse_location("https://host/dir/", destination=True)
    for header, _ in VECTORS:
        name = safe_name(header, HERE)
        assert name is not None
        assert folder.object_named(name).name == name
