"""Text of users and of stores, as a page shows it: never HTML, and never invisible.

An object's name may have control characters, and characters that reverse the direction of the text
behind them (Unicode Standard Annex #9, "Explicit Directional Embeddings"): `exe.gpj` reads as
`jpg.exe`. A page shows each of them as an escape. Never here: the templates."""

from __future__ import annotations

import re
from typing import Final

from markupsafe import Markup, escape

_UNSEEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)
"""Control, format and bidi characters, line separators, tags, and halves of surrogate pairs."""
_CHANGED: Final = re.compile("[\0\r\n\ud800-\udfff]")
"""Characters that a browser changes in the fields of a form, or that are not UTF-8."""


def visible(text: str) -> str:
    """Return text with its control, bidi and invisible characters as escapes of Python."""
    # Most texts are such, and a page has thousands.
    is_plain = text.isascii() and text.isprintable()
    return text if is_plain else _UNSEEN.sub(_escape, text)


def is_sent_exactly(text: str) -> bool:
    """Return whether a form sends a text back as it is."""
    return _CHANGED.search(text) is None


def exact(text: object) -> Markup:
    """Return the value of a form's field as HTML: escaped, and with its invisible characters, since
    the form sends it back. A text that no form sends back exactly is shown instead."""
    shown = str(text)
    return escape(shown if is_sent_exactly(shown) else visible(shown))


def _escape(found: re.Match[str]) -> str:
    char = found[0]
    byte = ord(char) - 0xDC00  # of a name that is not UTF-8 (PEP 383)
    if 0x80 <= byte <= 0xFF:
        return f"\\x{byte:02x}"
    return char.encode("unicode_escape").decode()


def bdi_of(text: object) -> Markup:
    """Return text of a user or of a store as HTML: escaped, its invisible characters shown, and
    isolated from the direction of the text around it (HTML, section 4.5.24, `bdi`)."""
    return Markup("<bdi>{}</bdi>").format(escape(visible(str(text))))
