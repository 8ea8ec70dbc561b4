"""A store's own message for a refusal: found in each of its forms, short, printable, and without
possible secrets."""

from __future__ import annotations

import pytest

from relay.stores.error_messages import MESSAGE_CHARACTERS, may_have_message, message_of
from relay.wire.http1 import Head


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<Error><Code>EntityTooSmall</Code><Message>Too small</Message></Error>", "EntityTooSmall: Too small"),
        ("\ufeff<?xml version='1.0'?><Error><Code>X</Code></Error>", "X"),
        ("<E:Error xmlns:E='urn:x'><E:Code>A</E:Code><E:Message>b</E:Message></E:Error>", "A: b"),
        ("<ErrorResponse><Error><Code>Denied</Code></Error></ErrorResponse>", "Denied"),
        ("<d:error xmlns:d='DAV:' xmlns:s='http://sabredav.org/ns'><s:message>No files here</s:message></d:error>",
         "No files here"),
        ("<D:error xmlns:D='DAV:'><D:lock-token-submitted/></D:error>", "lock-token-submitted"),
        ('{"title": "Full", "detail": "no room", "status": 507}', "Full: no room"),
        ('{"error": {"code": 403, "message": "quota"}}', "quota"),
        ('{"message": "no"}', "no"),
        ("no such thing\nand more", "no such thing"),
        ("<html><body>Error</body></html>", ""),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><Error><Code>&a;</Code></Error>", ""),
        ("<Error><Code>cut", ""),
        ("[1]", "[1]"),
        ("{broken", ""),
        ("", ""),
        ("<Error><Code>A\x1b[31m</Code></Error>", ""),
        ("<Error><Message>https://h/k?X-Amz-Signature=abc&amp;b=1 failed</Message></Error>", "https://h/k?… failed"),
    ],
)  # fmt: skip
def test_the_message_of_a_store(text: str, message: str) -> None:
    assert message_of(text) == message


def test_it_is_short_and_printable() -> None:
    found = message_of(f"<Error><Code>A</Code><Message>{'x' * 9000}\u202e</Message></Error>")
    assert len(found) <= MESSAGE_CHARACTERS + 1
    assert found.isprintable()
    assert message_of("{" * 100_000) == ""


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("application/xml", True),
        ("application/problem+json", True),
        ("text/plain; charset=x", True),
        ("text/html", False),
    ],
)
def test_pages_for_people_are_not_read(kind: str, says: bool) -> None:
    assert may_have_message(Head(400, "X", "1.1", (("Content-Type", kind),))) is says
