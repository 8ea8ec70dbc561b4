"""A planted secret is found in every form, and nothing else is."""

from __future__ import annotations

import base64
from urllib.parse import quote_from_bytes

import pytest

from tests.log_lines import strange_lines
from tests.markers import Markers

FORMS = {
    "plain": lambda text: text,
    "base64": base64.b64encode,
    "base64url": base64.urlsafe_b64encode,
    "hex": lambda text: text.hex().encode(),
    "HEX": lambda text: text.hex().upper().encode(),
    "hex with colons": lambda text: text.hex(":").encode(),
    "percent": lambda text: "".join(f"%{byte:02X}" for byte in text).encode(),
    "quoted": lambda text: quote_from_bytes(text, safe="").encode(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("before", [b"", b"a", b"ab", b"abc", b"Bearer "])
def test_a_marker_is_found_in_every_form(form: str, before: bytes) -> None:
    markers = Markers()
    hidden = FORMS[form](before + markers["token"].encode() + b" and more")
    assert any(found.startswith("token ") for found in markers.find(b"x=" + hidden + b";"))
    assert markers.find(b"nothing " + base64.b64encode(before)) == []


def test_only_the_kinds_that_are_asked_for() -> None:
    markers = Markers()
    text = markers["one"] + markers["two"]
    assert markers.find(text, ["two"]) == ["two (plain)"]
    assert len(markers.find(text)) == 2


def test_a_strange_line_is_found() -> None:
    good = '{"time": "now", "level": "info", "event": "server.stopped", "pid": 1}'
    assert strange_lines(f"{good}\nTraceback\n") == []
    for wrong in (
        good.replace("server.stopped", "server.gone"),
        good.replace('"pid"', '"secret"'),
        good.replace("}", ', "secret": 1}'),
        "{",
    ):
        assert strange_lines(wrong) == [wrong]
