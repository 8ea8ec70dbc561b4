"""XML that stores answer with: read in pieces of any size, whole or an error, and never more in
memory than one row."""

from __future__ import annotations

from collections.abc import Iterator
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import ConnectionLost, ProtocolViolation, StoreError
from relay.stores.xml_documents import CHILD_BYTES, Document, plain_name


def cut(text: str | bytes, step: int) -> Iterator[bytes]:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return (data[first : first + step] for first in range(0, len(data), step))


def read(text: str | bytes, step: int = 5) -> tuple[str, list[tuple[str, str | None]]]:
    """Return the root's name, and its children's names and texts."""
    document = Document(cut(text, step), "the answer", "source")
    return document.root, [(row.tag, row.text) for row in document]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_children_are_the_same_however_a_document_is_cut(step: int) -> None:
    text = '\n <?xml version="1.0"?><D:r xmlns:D="DAV:" xmlns="x">ü<D:a>b&amp;<![CDATA[<ü>]]>&#228;</D:a> <c/></D:r>'
    assert read(text, step) == ("{DAV:}r", [("{DAV:}a", "b&<ü>ä"), ("{x}c", "")])
    assert read("\ufeff<r><a>1</a></r>", step) == ("r", [("a", "1")])
    assert plain_name("{DAV:}r") == "r"


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("a\x01b", "a\x01b"),
        ("&#1;", "\x01"),
        ("&#x1F;", "\x1f"),
        ("&#0000;", "\0"),
        ("&#xD800;", "\ud800"),
        ("\ufffe&#65535;", "\ufffe\uffff"),
        ("\ufdd01\ufdd1", "\ufdd01\ufdd1"),
        ("&#xFDD0;1&#xFDD1;", "\ufdd01\ufdd1"),
        (b"\xff\xc3", "\udcff\udcc3"),
        ("&#x110000;", "\ud800"),
    ],
)
def test_a_character_invalid_in_xml_fails_that_text_alone(
    written: str | bytes, means: str, step: int
) -> None:
    data = written if isinstance(written, bytes) else written.encode()
    found = read(b"<r><Key>" + data + b"</Key><Key>good</Key></r>", step)
    assert found == ("r", [("Key", means), ("Key", "good")])


WHOLE = "<r><a>1</a><b>2</b></r>"


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_document_without_its_end_is_always_detected(length: int) -> None:
    with pytest.raises(ConnectionLost):
        read(WHOLE[:length])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "no XML",
        WHOLE + "<again/>",
        "<r><a></r></a>",
        "<r>&undefined;</r>",
        "<p:r/>",
        '<!DOCTYPE a [<!ENTITY b "x">]><a>&b;</a>',
        "<!DOCTYPE html><html></html>",
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_invalid_xml_and_doctypes_are_refused(text: str, step: int) -> None:
    with pytest.raises(ConnectionLost):
        read(text, step)


@pytest.mark.parametrize(
    "row",
    [
        "<a>" + "x" * (2 * CHILD_BYTES),
        "<a>" * 10_000,
        f"<a b='{'x' * 2 * CHILD_BYTES}'/>",
        "<a" * 200_000,
    ],
)
def test_one_row_has_its_limits(row: str) -> None:
    with pytest.raises(StoreError) as caught:
        read(f"<r>{row}", 16 << 10)
    assert isinstance(caught.value, ProtocolViolation | ConnectionLost)


def test_a_page_of_any_length_takes_little_at_a_time() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"<r>"
        for _ in range(500):
            yield b"<a/>" * 4096
        yield b"</r>"

    document = Document(pieces(), "the answer", "source")
    longest, began = 0.0, process_time()
    for number, _ in enumerate(document, start=1):
        if number % 4096 == 0:
            longest, began = max(longest, process_time() - began), process_time()
    assert number == 500 * 4096
    assert longest < 0.5  # CPU seconds; it takes some milliseconds


@given(st.text())
def test_every_text_comes_back(text: str) -> None:
    written = (
        text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")
    )
    assert read(f"<r><a>{written}</a></r>", 3)[1][0][1] == text.encode(
        "utf-8", "surrogatepass"
    ).decode("utf-8", "surrogateescape")
