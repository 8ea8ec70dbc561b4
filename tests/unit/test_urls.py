"""The meaning of a list of URLs, line by line."""

from __future__ import annotations

import base64
import hashlib

import pytest

from relay.digest import ALGORITHMS
from relay.errors import InvalidURL, Unsupported
from relay.stores.interfaces import Entry
from relay.stores.remotes import Remotes
from relay.stores.url_lists import entries

MD5 = hashlib.md5(b"x").digest()


def read(*lines: str) -> list[Entry]:
    return list(entries(iter(lines)))


def names(*lines: str) -> list[str]:
    return [entry.name for entry in read(*lines)]


def test_a_text_has_a_url_on_each_line() -> None:
    found = read("# mine", "https://a.example/x/y%20z.bin", "", "  http://b.example:8080/q  ")
    assert [(entry.name, entry.url) for entry in found] == [
        ("a.example/x/y z.bin", "https://a.example/x/y%20z.bin"),
        ("b.example_8080/q", "http://b.example:8080/q"),
    ]
    assert not read()
    assert not read("", "# nothing")


def test_a_query_tells_objects_apart_and_a_signature_does_not() -> None:
    one, two, signed, again = names(
        "https://a.example/get?id=1",
        "https://a.example/get?id=2",
        "https://a.example/b?X-Amz-Signature=abc&X-Amz-Date=1",
        "https://a.example/b?X-Amz-Signature=def&X-Amz-Date=2",
    )
    assert one != two
    assert one.startswith("a.example/get~")
    assert signed == again == "a.example/b"


def test_googles_format() -> None:
    text = base64.b64encode(MD5).decode()
    (found, bare) = read(
        "TsvHttpData-1.0", f"https://a.example/x\t123\t{text}", "https://a.example/y"
    )
    assert (found.name, found.size, found.digests) == ("a.example/x", 123, {"md5": MD5})
    assert (bare.size, bare.digests) == (None, {})


def test_a_csv_file_names_its_columns() -> None:
    (found,) = read(
        "Name, size,URL,sha-256",
        f'"a, b/c",7,https://a.example/x,{hashlib.sha256(b"x").hexdigest()}',
    )
    assert (found.name, found.size, found.url) == ("a, b/c", 7, "https://a.example/x")
    assert found.digests == {"sha-256": hashlib.sha256(b"x").digest()}


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_a_digest_is_in_hex_or_in_base64(name: str) -> None:
    value = bytes(range(150, 150 + ALGORITHMS[name].width))
    for text in (value.hex(), value.hex().upper(), base64.b64encode(value).decode()):
        (found,) = read(f"url,{name}", f"https://a.example/x,{text}")
        assert found.error is None and found.digests == {name: value}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not a url,1,", "not absolute"),
        ("ftp://a.example/x,1,", "scheme"),
        ("https://u:secret@a.example/x,1,", "user name or a password"),
        ("https://a.example/,1,", "names no object"),
        ("https://a.example/x,-1,", "not a number of bytes"),
        ("https://a.example/x,1,zz", "md5 is not 16 bytes"),
        ("https://a.example/x", "columns instead of"),
    ],
)
def test_a_line_that_cannot_be_used_fails_by_its_number(line: str, message: str) -> None:
    bad, good = read("url,size,md5", line, "https://a.example/good,1,")
    assert bad.error is not None
    assert message in bad.error.message
    assert bad.name == "line 2"
    assert "line 2 of the list" in bad.error.message
    assert "secret" not in bad.error.message
    assert good.error is None


def test_a_column_that_is_not_known_is_refused_whole() -> None:
    with pytest.raises(Unsupported, match="'checksum'"):
        read("url,checksum", "https://a.example/x,1")


def test_a_list_is_only_a_source_and_only_a_tree() -> None:
    remotes = Remotes(folders=None)
    assert str(remotes.locate("list+https://a.example/urls.txt?token=secret", folder=True)) == (
        "list+https://a.example/urls.txt?…"
    )
    for text, options in (
        ("list+https://a.example/x", {"destination": True, "folder": True}),
        ("list+https://a.example/x", {}),
        ("list+list+https://a.example/x", {"folder": True}),
    ):
        with pytest.raises(InvalidURL):
            remotes.locate(text, **options)  # type: ignore[arg-type]


def test_a_url_of_a_list_has_no_fragment() -> None:
    """A fragment is not sent: two lines would be one object under two names."""
    found = read("url,name", "https://h/a#1.jpg,one.jpg", "https://h/a%232.jpg,two.jpg")
    assert [entry.name for entry in found] == ["line 2", "two.jpg"]
    assert found[0].error is not None
    assert "'#'" in found[0].error.message
