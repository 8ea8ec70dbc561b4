"""The form that names share if a store without case takes them for one.

Theory of operation. The form is a compatibility caseless match (Unicode 15.0, section 3.13, D146):
ZFS (`normalization=formKC` or `formKD`) and CephFS compare names by NFKC or NFKD, where U+00B2 is a
2, and a no-break space a blank. It leaves out characters that have no width of their own, such as
U+FE0F behind a symbol: the casefold of ext4 and f2fs ignores them in a name (docs.kernel.org, "ext4
Case-insensitive file name lookups"), and so does HFS+. The dotless i of Turkish is an i, since ZFS
compares capital letters (`casesensitivity=insensitive`), and both have the capital I. No other
letter has an equal capital and a casefold of its own.

Decided here: which letters may be one. Never here: other parts of a name, as blanks
(`name_folding.py`)."""

from __future__ import annotations

import re
from typing import Final
from unicodedata import normalize

_IGNORABLE: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
"""Characters with the property Default_Ignorable_Code_Point (Unicode 15.0,
DerivedCoreProperties.txt)."""
DOTLESS_I: Final = "\u0131"


def caseless_form(text: str) -> str:
    """Return a text composed, without case, and without ignorable characters."""
    form = former_form(text)
    return normalize("NFKC", form.replace(DOTLESS_I, "i")) if DOTLESS_I in form else form


def former_form(text: str) -> str:
    """Return the form of an older relay, which leaves a dotless i as it is."""
    return normalize("NFKC", normalize("NFKD", _IGNORABLE.sub("", text)).casefold())
