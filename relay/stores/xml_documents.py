"""Read XML documents as they arrive: one child of the root after the other.

Theory of operation. The parser (expat) is fed small pieces, and each child of the root is given
away as soon as it has ended, so that nothing grows with the document. The document is whole once
its root has ended, and only then does the reading end without an error. Entities can't be declared,
since a declaration of the type is refused: no store's answer has one, and they may grow without
end, or fetch files (docs.python.org, "XML vulnerabilities").

A key may hold characters that XML 1.0 does not allow (section 2.2), and some servers write them all
the same, plain or as a reference. That must not end a whole listing: on the way to the parser such
a character is written in another way, and what comes back has it again. It makes that one name
unfit, and nothing else.

Decided here: what of XML is taken, and how much one child may hold. Never here: what a document
means."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import Final, cast
from xml.etree.ElementTree import Element, ParseError, XMLPullParser

from relay.errors import ConnectionLost, ProtocolViolation, Side

CHILD_BYTES: Final = 256 << 10
"""The most that one child of the root may take: the longest key has 1,024 bytes, and all its
properties a few more."""
DEEPEST: Final = 64
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
"""What a character that XML has no place for stands between, in hex. They are for such use inside a
program (Unicode
15.0, section 23.7)."""
_FORBIDDEN: Final = re.compile(
    f"[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff{_OPEN}{_CLOSE}]"
)
_REFERENCE: Final = re.compile(r"&#(?:x0{0,6}([0-9A-Fa-f]{1,6})|0{0,7}([0-9]{1,7}));")
_CODED: Final = re.compile(f"{_OPEN}([0-9a-f]{{1,6}}){_CLOSE}")
_LONGEST_REFERENCE: Final = 18
_TYPE: Final = "<!DOCTYPE"
"""What begins the declaration of a type (XML 1.0, section 2.8)."""


class Document:
    """One document. `root` is its root's name, and iterating gives the root's children; names are
    written {space}name.

    Both read what they need of `pieces`. They raise what those raise, ConnectionLost for what is
    cut off or is no XML, ProtocolViolation for a child that is too large. `what` names the document
    in a message."""

    def __init__(self, pieces: Iterable[bytes], what: str, side: Side) -> None:
        self._pieces, self._what, self._side = iter(pieces), what, side
        self._readable = _Readable()
        self._parser: XMLPullParser[Element] = XMLPullParser(("start", "end"))
        self._root: Element | None = None
        self._before = ""
        """The last characters that came before the root: they may be the beginning of a type's
        declaration."""
        self._over = False
        self._depth = 0
        self._ended: list[Element] = []
        self._since = 0
        self._is_coded = False
        """Whether any text has characters that are written in another way on their way to the
        parser."""

    @property
    def root(self) -> str:
        """The name of the root."""
        while self._root is None:
            self._read()
        return self._root.tag

    def __iter__(self) -> Iterator[Element]:
        """Yield the children, to the proven end of the document. The text of one that has none is
        empty."""
        while True:
            ended, self._ended = self._ended, []
            yield from ended
            if self._over:
                return
            self._read()

    def _read(self) -> None:
        """Read one piece more, or the end."""
        piece = next(self._pieces, None)
        self._since += len(piece or b"")
        text = self._readable.text(piece or b"", final=piece is None)
        self._is_coded |= _OPEN in text
        self._refuse_type(text)
        try:
            self._parser.feed(text)
            if piece is None:
                self._parser.close()
            self._take()
        except (ParseError, ValueError):
            raise self._cut() from None
        self._over = piece is None
        if self._ended:
            self._since = 0
        if self._since > CHILD_BYTES or self._depth - 1 > DEEPEST:
            message = (
                f"{self._what} has one element of more than {CHILD_BYTES} bytes, or {DEEPEST}"
                " levels"
            )
            raise ProtocolViolation(message, side=self._side)

    def _refuse_type(self, text: str) -> None:
        """Raise ConnectionLost for a document that declares its type, before the parser sees
        that."""
        if self._root is None:  # it can be declared nowhere else
            text = self._before + text
            if _TYPE in text:
                raise self._cut()
            self._before = text[1 - len(_TYPE) :]

    def _take(self) -> None:
        """Take what has ended out of what the parser has read. (It tells of all elements at once,
        in C: a Python call at the beginning and the end of each costs twice as much.) Raises
        ParseError."""
        for event, element in cast(Iterator[tuple[str, Element]], self._parser.read_events()):
            if event == "start":
                self._depth += 1
                self._root = element if self._root is None else self._root
                continue
            self._depth -= 1
            if self._depth == 1:
                self._ended.append(self._readied(element))
        if self._root is not None:
            self._root.clear()  # what has ended is given away, and nothing grows with the document

    def _readied(self, child: Element) -> Element:
        child.text = child.text or ""
        if self._is_coded:
            for element in child.iter():
                element.text = _CODED.sub(_decoded, element.text or "")
        return child

    def _cut(self) -> ConnectionLost:
        return ConnectionLost(f"{self._what} is cut off, or is no XML", side=self._side)


class _Readable:
    """Bytes as text that a parser takes, whatever they are; pieces may end anywhere."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._held = ""
        self._begun = False

    def text(self, piece: bytes, *, final: bool) -> str:
        """Return what can be read so far. An unfinished reference at the end waits for the next
        piece."""
        text = self._held + self._decoder.decode(piece, final)
        self._held = ""
        if not self._begun:  # nothing may stand before an XML declaration, and blanks do
            text = text.lstrip()
            self._begun = bool(text)
        begun = text.rfind("&", max(0, len(text) - _LONGEST_REFERENCE))
        if begun >= 0 and not final and ";" not in text[begun:]:
            text, self._held = text[:begun], text[begun:]
        text = _FORBIDDEN.sub(_coded, text)
        return _REFERENCE.sub(_checked, text) if "&#" in text else text


def _coded(found: re.Match[str]) -> str:
    return f"{_OPEN}{ord(found[0]):x}{_CLOSE}"


def _checked(found: re.Match[str]) -> str:
    """Return a reference as it is, or coded where it is one to a character that is not allowed, or
    that codes."""
    number = int(found[1], 16) if found[1] else int(found[2])
    if number > 0x10FFFF:
        number = 0xD800  # it is none at all, and neither is this
    return f"{_OPEN}{number:x}{_CLOSE}" if _FORBIDDEN.match(chr(number)) else found[0]


def _decoded(found: re.Match[str]) -> str:
    return chr(int(found[1], 16))


def plain_name(name: str) -> str:
    """Return an element's name without its name space."""
    return name.rpartition("}")[2]
