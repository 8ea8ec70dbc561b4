"""Read XML documents as they arrive: one child of the root after the other.

Theory of operation. The parser (expat) gets small pieces, and each child of the root is yielded
once the next one begins, so memory does not grow with the document. The tree is built by the C code
of the standard library alone: Python code for each element would take half of a listing's time.
Reading ends without an error only after the end of the root: then the document is complete. A
document type is refused, so entities can't be declared: no store's answer has one, and entities may
grow without end, or fetch files (docs.python.org, "XML vulnerabilities").

A key may contain characters that XML 1.0 does not allow (section 2.2), and some servers send them
nevertheless, plain or as a reference. That must not end a whole listing. So such a character is
escaped before the parser and restored after it; it only makes that one name invalid.

Decided here: which XML is accepted, and how large one child may be. Never here: what a document
means."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

from relay.errors import ConnectionLost, ProtocolViolation, Side

CHILD_BYTES: Final = 256 << 10
"""Maximum size of one child of the root: the longest key has 1,024 bytes, and all its properties a
few more."""
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
"""Delimiters of an escaped character, which is written in hex between them: noncharacters, which
are reserved for internal use (Unicode 15.0, section 23.7)."""
_FORBIDDEN: Final = re.compile(
    f"[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff{_OPEN}{_CLOSE}]"
)
_REFERENCE: Final = re.compile(r"&#(?!3[49];)(?:x0{0,6}([0-9A-Fa-f]{1,6})|0{0,7}([0-9]{1,7}));")
"""A reference to a character, except for quotes: they are allowed, and some servers refer to both
quotes of each ETag so."""
_CODED: Final = re.compile(f"{_OPEN}([0-9a-f]{{1,6}}){_CLOSE}")
_LONGEST_REFERENCE: Final = 18
_TYPE: Final = "<!DOCTYPE"
"""The beginning of a document type declaration (XML 1.0, section 2.8)."""


class Document:
    """One document. `root` is the name of its root, and iteration yields the root's children. Names
    have the form {namespace}name.

    Both read `pieces` as needed. They raise the errors of `pieces`, ConnectionLost if the document
    is cut off or not XML, ProtocolViolation for a child that is too large. `what` names the
    document in a message."""

    def __init__(self, pieces: Iterable[bytes], what: str, side: Side) -> None:
        self._pieces, self._what, self._side = iter(pieces), what, side
        self._readable = _Readable()
        builder = TreeBuilder()
        self._above = builder.start("document", {})
        """An element above the root: by it the root is known before its end."""
        self._parser = XMLParser(target=builder)
        self._before = ""
        """The last characters before the root, which may be the beginning of a document type."""
        self._over = False
        self._ended: list[Element] = []
        self._since = 0
        self._is_coded = False
        """Whether any text has escaped characters."""

    @property
    def root(self) -> str:
        """The name of the root."""
        while not self._above:
            self._read()
        return self._above[0].tag

    def __iter__(self) -> Iterator[Element]:
        """Yield the children, to the proven end of the document. A child without text gets an empty
        one."""
        while True:
            ended, self._ended = self._ended, []
            yield from ended
            if self._over:
                return
            self._read()

    def _read(self) -> None:
        """Read one more piece, or the end."""
        piece = next(self._pieces, None)
        self._since += len(piece or b"")
        text = self._readable.text(piece or b"", final=piece is None)
        self._is_coded |= _OPEN in text
        self._refuse_type(text)
        try:
            self._parser.feed(text)
            if piece is None:
                self._parser.close()
            self._take(is_last=piece is None)
        except (ParseError, ValueError):
            raise self._cut() from None
        self._over = piece is None
        if self._ended:
            self._since = 0
        if self._since > CHILD_BYTES:
            message = f"{self._what} has one element of more than {CHILD_BYTES} bytes"
            raise ProtocolViolation(message, side=self._side)

    def _refuse_type(self, text: str) -> None:
        """Raise ConnectionLost for a document type, before the parser sees it."""
        if not self._above:  # a document type can only precede the root
            text = self._before + text
            if _TYPE in text:
                raise self._cut()
            self._before = text[1 - len(_TYPE) :]

    def _take(self, *, is_last: bool) -> None:
        """Take the children that have ended out of the tree, so that memory does not grow: all of
        them after the `is_last` piece, else all before the newest one."""
        if not self._above:
            return
        root = self._above[0]
        count = len(root) if is_last else max(0, len(root) - 1)
        self._ended = [self._ready(child) for child in root[:count]]
        del root[:count]

    def _ready(self, child: Element) -> Element:
        child.text = child.text or ""
        if self._is_coded:
            for element in child.iter():
                element.text = _CODED.sub(_decode_reference, element.text or "")
        return child

    def _cut(self) -> ConnectionLost:
        return ConnectionLost(f"{self._what} is cut off or not XML", side=self._side)


class _Readable:
    """Decodes arbitrary bytes to text that the parser accepts; pieces may end anywhere."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._held = ""
        self._begun = False

    def text(self, piece: bytes, *, final: bool) -> str:
        """Return the text of a piece. An unfinished reference at its end is kept for the next
        piece."""
        text = self._held + self._decoder.decode(piece, final)
        self._held = ""
        if not self._begun:  # some servers send blanks before the XML declaration
            text = text.lstrip()
            self._begun = bool(text)
        begun = text.rfind("&", max(0, len(text) - _LONGEST_REFERENCE))
        if begun >= 0 and not final and ";" not in text[begun:]:
            text, self._held = text[:begun], text[begun:]
        if not text.isprintable():  # no forbidden character is; in a tenth of the time
            text = _FORBIDDEN.sub(_coding, text)
        return _REFERENCE.sub(_check_reference, text) if "&#" in text else text


def _coding(found: re.Match[str]) -> str:
    return f"{_OPEN}{ord(found[0]):x}{_CLOSE}"


def _check_reference(found: re.Match[str]) -> str:
    """Return a reference unchanged, or escaped if its character is not allowed, or is a
    delimiter."""
    number = int(found[1], 16) if found[1] else int(found[2])
    if number > 0x10FFFF:
        number = 0xD800  # not a character: a lone surrogate stands for it
    return f"{_OPEN}{number:x}{_CLOSE}" if _FORBIDDEN.match(chr(number)) else found[0]


def _decode_reference(found: re.Match[str]) -> str:
    return chr(int(found[1], 16))


@lru_cache(maxsize=256)  # a page repeats a few names thousands of times
def plain_name(name: str) -> str:
    """Return an element's name without its namespace."""
    return name.rpartition("}")[2]
