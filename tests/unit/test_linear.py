"""The cost of a peer's text grows with its length, and not with the square of that: nothing blocks
the hub."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from relay.engine.tree_listing import NAME_CHARACTERS, listed_object
from relay.errors import KeyTooLong, RelayError
from relay.file_names import safe_name
from relay.location import parse_location
from relay.name_folding import fold
from relay.redirects import redirect_target
from relay.stores import index_pages
from relay.stores.error_messages import message_of, without_query
from relay.stores.index_links import read_link, same_text
from relay.stores.index_pages import read_entries
from relay.stores.index_refusals import IndexPage
from relay.stores.interfaces import Entry

PAGE = IndexPage(shown="x", side="source", paths=("/a/",), host="h")
PLACE = parse_location("https://h/a/b")
MARKS = "\u0301\u0316"
MOST_SECONDS = 2.0
"""In CPU seconds, with room for a slow machine; each of these took from ten seconds to hours."""


def read_page(text: str) -> None:
    """Read a page that repeats this text without end."""
    data = f"<html><title>Index of /a</title>{text}".encode()
    with suppress(RelayError):
        list(read_entries((data[at : at + 8192] for at in range(0, len(data), 8192)), PAGE))


COSTLY: dict[str, Callable[[], object]] = {
    **{
        f"page {part!r}": (lambda part=part: read_page(part * (120_000 // len(part))))
        for part in ("<a ", "<a/", "<a x=")
    },
    **{
        f"page {part!r}": (lambda part=part: read_page(part * (120_000 // len(part))))
        for part in ("<!--", "<", "</", "<?")
    },
    **{
        f"error {part!r}": (lambda part=part: message_of(f'{{"detail": "{part * 65_000}"}}'))
        for part in "&;?"
    },
    "error in XML": lambda: message_of(
        f"<Error><Code>x</Code><Message>{';' * 65_000}</Message></Error>"
    ),
    "dots of a link": lambda: read_link("a/" * 64_000 + "../" * 42_000, ["a"], "h"),
    "dots of a redirect": lambda: redirect_target(PLACE, "/" + "a/" * 1300 + "../" * 1300),
    "marks of a link": lambda: read_link(f"/{MARKS * 64_000}/x", ["a"], "h"),
    "marks of a name": lambda: fold(f"a{MARKS * 64_000}"),
    "a name that is encoded again and again": lambda: fold("%" + "25" * 64_000 + "41"),
    "a disposition": lambda: safe_name("a" * 64_000 + " " * 64_000 + '"', PLACE),
}


@pytest.mark.parametrize("what", COSTLY)
def test_a_peers_text_costs_no_more_than_its_length(what: str) -> None:
    """Each text is the worst of its kind, at the permitted length."""
    began = time.process_time()
    COSTLY[what]()
    assert time.process_time() - began < MOST_SECONDS


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://h/a?b=c&d=e for more", "see https://h/a?… for more"),
        ("h/a?token&d=e x", "h/a?… x"),
        ("a?b?c=d", "a?b?…"),
        ("a;b=c", "a?…"),
        ("a & b = c", "a & b = c"),
        ("what? that; and & this", "what? that; and & this"),
        ("?=", "?…"),
        ("&&&a&&=b c=d", "?… c=d"),
    ],
)
def test_a_query_is_not_shown(text: str, shown: str) -> None:
    """From the mark before a '=' to the end of the word; a text without '=' is not a query."""
    assert without_query(text) == shown


def test_names_are_equal_in_each_form_up_to_a_length() -> None:
    """Longer names are equal only if they are the same text."""
    assert same_text("e\u0301" * 200, "\u00e9" * 200)
    assert fold("E\u0301" * 200 + "/%2541") == fold("\u00e9" * 200 + "/a")
    assert same_text("e\u0301" * 5000, "e\u0301" * 5000)
    assert not same_text("e\u0301" * 5000, "\u00e9" * 5000)


@pytest.mark.parametrize("mark", ["", "\x01"], ids=["plain", "odd"])
def test_a_name_of_any_length_is_an_entry_of_its_own(mark: str) -> None:
    """Two that differ at their ends stay two, and the ledger stores neither in full."""
    one, two = (listed_object(Entry(f"{mark}{'x' * NAME_CHARACTERS}{end}", 7)) for end in "yz")
    assert one.name != two.name
    assert one.identity != two.identity
    assert max(len(one.name), len(two.name)) < 300
    assert one.error is not None
    assert one.error["code"] == KeyTooLong.code
    assert listed_object(Entry("x" * NAME_CHARACTERS)).error is None


def test_a_page_remembers_names_up_to_a_number_of_characters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A repeated name counts once, as long as the memory for names has room."""
    monkeypatch.setattr(index_pages, "REMEMBERED_CHARACTERS", 10)
    text = "".join(f'<a href="{name}">x</a>' for name in ("long-enough", "b", "long-enough", "b"))
    page = f"<html><title>Index of /a</title>{text}</html>".encode()
    assert [entry.name for entry in read_entries([page], PAGE)] == ["long-enough", "b", "b"]
