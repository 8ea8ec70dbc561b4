"""The form that all names share which some store may take for one (case, Unicode form, trailing
characters).

Decided here: which names a store may fold into one. Never here: whether it does
(`relay/engine/transfer/folded_names.py`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

from relay.caseless import caseless_form
from relay.location import DECODINGS

LONGEST: Final = 1024
"""Longest segment that is folded, in letters: the stores that compose Unicode allow 255."""
_OWN: Final = re.compile(r"[a-z0-9_-]+(?:[./][a-z0-9_-]+)*+")
"""Names that are their own folded form. Most names are, and this check takes a tenth of the time of
the folding."""


def fold(name: str, letters: Callable[[str], str] = caseless_form) -> str:
    """Return the folded form of a name. All names that some store may treat as the same have one
    folded form: without case (NTFS, APFS, SMB), composed (APFS, HFS+; by compatibility ZFS
    and CephFS), without ignorable characters (ext4 with casefold, HFS+), decoded once more (servers
    behind proxies), with '+' for a blank (servers that decode a path as a form), without empty
    segments (file systems), without dots and blanks at the end of a segment (Windows), and without
    blanks at its beginning (servers that trim what they read).

    `letters` returns a segment without case."""
    if _OWN.fullmatch(name):
        return name
    plain = name.isascii() and not any(mark in name for mark in ("%", "+", "\\", "//"))
    # A compatible form may have a '+' or a '%', and a decoded name other letters.
    text = name.lower() if plain else _compose(_decode(_compose(name, letters)), letters)
    if not (text.startswith(" ") or any(end in f"{text}/" for end in ("./", " /", "//", "/ "))):
        return text
    segments = (segment.rstrip(". ").lstrip(" ") or segment for segment in text.split("/"))
    return "/".join(segment for segment in segments if segment)


def _compose(name: str, letters: Callable[[str], str]) -> str:
    """Return the form of a name without case. A segment longer than LONGEST stays as it is: no
    composing store takes it, and ordering combining marks takes quadratic time."""
    return "/".join(
        segment if len(segment) > LONGEST else letters(segment) for segment in name.split("/")
    )


def _decode(name: str) -> str:
    """Return a name percent-decoded. All invalid UTF-8 decodes to the same character: folding too
    much is harmless, since the destination is then asked
    (`relay/engine/transfer/folded_names.py`)."""
    for _ in range(DECODINGS):
        text = unquote(name)
        if text == name:
            break
        name = text
    return name.replace("\\", "/").replace("+", " ")
