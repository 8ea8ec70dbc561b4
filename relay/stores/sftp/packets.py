"""The packets of SFTP version 3 (draft-ietf-secsh-filexfer-02), and OpenSSH's extensions of it
(openssh-portable, `PROTOCOL` section 4).

Decided here: which bytes are a request, and which replies are well-formed. Never here: pipes, what
a status means (`status_errors.py`)."""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

VERSION: Final = 3
"""The version that OpenSSH and nearly all other servers speak."""
PACKET_BYTES: Final = 1 << 20
"""Maximum length of a packet that is accepted. OpenSSH's own limit is 256 KiB."""
HEAD: Final = struct.Struct(">IBI")
"""The head of a packet: the length of all that follows it, the type, and the request's number."""
_U32, _U64 = struct.Struct(">I"), struct.Struct(">Q")
_TIMES: Final = struct.Struct(">II")
MOST_SECONDS: Final = 2**32 - 1
"""The latest time of a file that version 3 can express."""


class PacketKind(IntEnum):
    """Types of packets (section 3)."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    REALPATH = 16
    STAT = 17
    RENAME = 18
    READLINK = 19
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class StatusCode(IntEnum):
    """Codes of a STATUS reply (section 7)."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    BAD_MESSAGE = 5
    NO_CONNECTION = 6
    CONNECTION_LOST = 7
    OP_UNSUPPORTED = 8


READ, WRITE, CREATE, TRUNCATE, EXCLUSIVE = 0x01, 0x02, 0x08, 0x10, 0x20
"""Flags of OPEN (section 6.3)."""
_SIZE, _OWNER, _MODE, _DATES, _EXTENDED = 0x01, 0x02, 0x04, 0x08, 0x80000000
"""Flags of attributes (section 5)."""

RENAME: Final = "posix-rename@openssh.com"
"""Renames, and replaces what has the new name, as rename(2) does."""
SYNC: Final = "fsync@openssh.com"
LINK: Final = "hardlink@openssh.com"
SPACE: Final = "statvfs@openssh.com"
LIMITS: Final = "limits@openssh.com"
ADVERTISED: Final = frozenset({RENAME, SYNC, LINK, SPACE, LIMITS})
"""The extensions that relay uses, if the server advertises them."""


class BadPacket(Exception):
    """A packet that breaks the protocol; its text is a fact for an error."""


@dataclass(frozen=True)
class FileAttributes:
    """The attributes of a file, as far as the server names them. `modified` is in seconds since
    1970, `mode` has the kind of the file and its permissions."""

    size: int | None = None
    mode: int | None = None
    modified: int | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.mode is not None and stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return self.mode is not None and stat.S_ISLNK(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file, as far as that is known."""
        return self.mode is None or not stat.S_IFMT(self.mode) or stat.S_ISREG(self.mode)


@dataclass(frozen=True)
class PacketSizes:
    """What a server accepts: lengths in bytes of a READ and of a WRITE."""

    read: int
    write: int


@dataclass(frozen=True)
class FreeSpace:
    """Room on a file system, in bytes, for an ordinary user."""

    free: int


# -- requests


def text(value: bytes) -> bytes:
    """Return a string of the protocol: its length, and its bytes."""
    return _U32.pack(len(value)) + value


def number(value: int) -> bytes:
    """Return a number of 32 bits."""
    return _U32.pack(value)


def number_64(value: int) -> bytes:
    """Return a number of 64 bits."""
    return _U64.pack(value)


def attributes(*, mode: int | None = None, modified: int | None = None) -> bytes:
    """Return attributes for OPEN, MKDIR and FSETSTAT: permissions, and both times of a file
    (version 3 sets the time of access only together with that of modification)."""
    flags, rest = 0, b""
    if mode is not None:
        flags, rest = flags | _MODE, rest + _U32.pack(mode)
    if modified is not None:
        flags, rest = flags | _DATES, rest + _TIMES.pack(modified, modified)
    return _U32.pack(flags) + rest


def request(kind: PacketKind, number_: int, payload: bytes, data_bytes: int = 0) -> bytes:
    """Return a request, `data_bytes` of whose payload follow behind these bytes."""
    return HEAD.pack(5 + len(payload) + data_bytes, kind, number_) + payload


INIT: Final = struct.pack(">IBI", 5, PacketKind.INIT, VERSION)


# -- replies


class PacketFields:
    """Reads the fields of one packet in order. Each method raises BadPacket where it is cut."""

    def __init__(self, data: bytes) -> None:
        """Start at the first byte."""
        self._data, self._at = data, 0

    def number(self) -> int:
        """Return a number of 32 bits."""
        found: int = _U32.unpack(self._take(4))[0]
        return found

    def number_64(self) -> int:
        """Return a number of 64 bits."""
        found: int = _U64.unpack(self._take(8))[0]
        return found

    def text(self) -> bytes:
        """Return a string."""
        return self._take(self.number())

    def attributes(self) -> FileAttributes:
        """Return attributes (section 5)."""
        flags = self.number()
        size = self.number_64() if flags & _SIZE else None
        if flags & _OWNER:
            self._take(8)
        mode = self.number() if flags & _MODE else None
        modified = None
        if flags & _DATES:
            modified = _TIMES.unpack(self._take(8))[1]
        if flags & _EXTENDED:
            for _ in range(self.number()):
                self.text()
                self.text()
        if size is not None and size >= 2**63:
            raise BadPacket(f"a file of {size} bytes, more than any file has")
        return FileAttributes(size, mode, modified)

    @property
    def is_at_end(self) -> bool:
        """Whether nothing is left."""
        return self._at >= len(self._data)

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise BadPacket(f"a packet of {len(self._data)} bytes that ends inside a field")
        piece, self._at = self._data[self._at : end], end
        return piece


@dataclass(frozen=True)
class StatusReply:
    """The content of a STATUS: its code, and the server's own words."""

    code: int
    words: str


def status_of(data: bytes) -> StatusReply:
    """Return the content of a STATUS. Old servers leave out the words."""
    fields = PacketFields(data)
    code = fields.number()
    words = "" if fields.is_at_end else fields.text().decode("utf-8", "replace")
    return StatusReply(code, words)


def names_of(data: bytes) -> list[tuple[bytes, FileAttributes]]:
    """Return the content of a NAME: names with their attributes. Without the line for people
    beside each, whose form each server chooses."""
    fields = PacketFields(data)
    found = []
    for _ in range(fields.number()):
        name = fields.text()
        fields.text()
        found.append((name, fields.attributes()))
    return found


def extensions_of(data: bytes) -> dict[str, str]:
    """Return the extensions in a VERSION, behind its number."""
    fields, found = PacketFields(data), {}
    while not fields.is_at_end:
        name, value = fields.text(), fields.text()
        found[name.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
    return found


def limits_of(data: bytes) -> PacketSizes:
    """Return the content of a reply to `limits@openssh.com`; 0 means that none is known."""
    fields = PacketFields(data)
    fields.number_64()
    return PacketSizes(fields.number_64(), fields.number_64())


def space_of(data: bytes) -> FreeSpace:
    """Return the content of a reply to `statvfs@openssh.com`."""
    fields = PacketFields(data)
    numbers = [fields.number_64() for _ in range(11)]
    return FreeSpace(free=numbers[4] * numbers[1])
