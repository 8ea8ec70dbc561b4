"""A program in place of `ssh`, with an SFTP server that has bad habits, over its own pipes.

`python -m tests.sftp_peer ROOT HABIT… -- (arguments of ssh)`. It imports nothing of relay. The habits:

reorder        replies of up to eight requests in the reverse order
short          READs of at most 1,000 bytes
plain          no extensions
replacing      no extensions, and RENAME replaces
cut:N          ends after N bytes of output
die-on:TYPE:N  ends at the Nth request of a type, before it does it
die-after:TYPE:N  ends at the Nth request of a type, after it did it
lie:KIND       `length`, `huge`, `number`, `data`, `type`, `path`, `banner`, `text`: one wrong packet
modeless       refuses to set attributes
in-order       refuses a WRITE that does not follow the last one of its handle
no-reopen      refuses to open a file for writing that exists
full           no WRITE has room
password:TEXT  asks SSH_ASKPASS for a password, and refuses any other
once           has its habits in the first session only
frozen         answers nothing any more from the first READ on
silent:TYPE:N  does the Nth request of a type, and never answers it
stuck          never answers a READ
say:TEXT       ends at once, with this line on standard error
"""

from __future__ import annotations

import os
import re
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

EXTENSIONS = {
    b"posix-rename@openssh.com": b"1",
    b"fsync@openssh.com": b"1",
    b"hardlink@openssh.com": b"1",
    b"statvfs@openssh.com": b"2",
}
OK, EOF, NO_FILE, DENIED, FAILURE, UNSUPPORTED = 0, 1, 2, 3, 4, 8
ATTRS, HANDLE, DATA, NAME, STATUS, EXTENDED_REPLY = 105, 102, 103, 104, 101, 201


LIES: dict[str, Callable[[bytes], bytes]] = {
    "length": lambda packet: (len(packet) + 3).to_bytes(4, "big") + packet[4:],
    "huge": lambda packet: b"\x7f" + packet[1:],
    "number": lambda packet: packet[:5] + b"\x55" + packet[6:],
    "data": lambda packet: packet[:9] + b"\x7f" + packet[10:],
    "text": lambda packet: struct.pack(">IB", 7, STATUS) + packet[5:9] + b"\0\0",
    "type": lambda packet: packet[:4] + b"\x4d" + packet[5:],
}
"""Wrong packets in place of a right reply to a READ."""


def text(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


class Cursor:
    """Reads the fields of a request."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self, size: int = 4) -> int:
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at], "big")

    def text(self) -> bytes:
        length = self.number()
        self.at += length
        return self.data[self.at - length : self.at]


class Peer:
    """One session."""

    def __init__(self, root: str, habits: list[str]) -> None:
        self.root, self.habits = os.fsencode(root), habits
        self.handles: dict[bytes, object] = {}
        self.ends: dict[int, int] = {}
        self.counts: dict[int, int] = {}
        self.written = 0
        self.held: list[bytes] = []
        self.lied = False

    def habit(self, name: str) -> str | None:
        """Return the rest of a habit, or None."""
        found = (one.partition(":")[2] for one in self.habits if one.partition(":")[0] == name)
        return next(found, None)

    # -- packets

    def run(self) -> None:
        said = self.habit("say")
        if said is not None:
            sys.stderr.write(f"{said}\n")
            raise SystemExit(255)
        password = self.habit("password")
        if password is not None and self.ask("user@host's password: ") != password:
            sys.stderr.write("user@host: Permission denied (password).\n")
            raise SystemExit(255)
        if self.habit("lie") == "banner":
            self.write(b"Welcome to this machine!\r\n")
        self.read(self.read_length())
        plain = self.habit("plain") is not None or self.habit("replacing") is not None
        rest = b"" if plain else b"".join(text(k) + text(v) for k, v in EXTENSIONS.items())
        self.write(struct.pack(">IBI", 5 + len(rest), 2, 3) + rest)
        while True:
            length = self.read_length()
            packet = self.read(length)
            kind, number = struct.unpack(">BI", packet[:5])
            self.counts[kind] = self.counts.get(kind, 0) + 1
            self.die("die-on", kind)
            if kind == 5 and self.habit("frozen") is not None:
                self.read(1 << 30)  # until the pipe is closed
            if kind == 5 and self.habit("stuck") is not None:
                continue
            reply = self.answer(kind, Cursor(packet[5:]))
            self.die("die-after", kind)
            if self.habit("silent") == f"{kind}:{self.counts[kind]}":
                continue
            self.send(kind, number, reply)

    @staticmethod
    def ask(prompt: str) -> str:
        program = os.environ["SSH_ASKPASS"]
        return subprocess.check_output([program, prompt], text=True).rstrip("\n")

    def die(self, habit: str, kind: int) -> None:
        found = self.habit(habit)
        if found is not None and found == f"{kind}:{self.counts[kind]}":
            raise SystemExit(1)

    def send(self, asked: int, number: int, reply: tuple[int, bytes]) -> None:
        kind, payload = reply
        packet = struct.pack(">IBI", 5 + len(payload), kind, number) + payload
        lie = self.habit("lie")
        if lie in LIES and not self.lied and asked == 5:
            self.lied = True
            packet = LIES[lie](packet)
        if self.habit("reorder") is None:
            return self.write(packet)
        self.held.append(packet)
        if len(self.held) >= 8 or not self.has_input():
            while self.held:
                self.write(self.held.pop())

    def has_input(self) -> bool:
        import select

        return bool(select.select([0], [], [], 0.005)[0])

    def read_length(self) -> int:
        return int.from_bytes(self.read(4), "big")

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = os.read(0, count - len(data))
            if not piece:
                raise SystemExit(0)
            data += piece
        return data

    def write(self, data: bytes) -> None:
        cut = self.habit("cut")
        if cut is not None and self.written + len(data) > int(cut):
            os.write(1, data[: int(cut) - self.written])
            raise SystemExit(1)
        self.written += len(data)
        while data:
            data = data[os.write(1, data) :]

    # -- answers

    def answer(self, kind: int, given: Cursor) -> tuple[int, bytes]:
        try:
            return getattr(self, f"do_{kind}")(given)  # type: ignore[no-any-return]
        except (FileNotFoundError, NotADirectoryError):
            return self.status(NO_FILE)
        except PermissionError:
            return self.status(DENIED)
        except OSError:
            return self.status(FAILURE)
        except AttributeError:
            return self.status(UNSUPPORTED)

    @staticmethod
    def status(code: int) -> tuple[int, bytes]:
        return STATUS, struct.pack(">I", code) + text(b"words") + text(b"en")

    def path(self, given: Cursor) -> bytes:
        name = given.text()
        return name if name.startswith(b"/") else os.path.join(self.root, name)

    @staticmethod
    def attributes(found: os.stat_result) -> bytes:
        times = (int(found.st_mtime) & 0xFFFFFFFF,) * 2
        return struct.pack(">IQIII", 0xD, found.st_size, found.st_mode, *times)

    def do_3(self, given: Cursor) -> tuple[int, bytes]:
        path, flags, known = self.path(given), given.number(), given.number()
        mode = given.number() if known & 4 else 0o666
        mine = {1: os.O_RDONLY, 2: os.O_WRONLY, 3: os.O_RDWR}[flags & 3]
        for one, other in ((8, os.O_CREAT), (16, os.O_TRUNC), (32, os.O_EXCL)):
            mine |= other if flags & one else 0
        if self.habit("no-reopen") is not None and flags & 2 and os.path.exists(path):
            return self.status(FAILURE)
        return self.handle(os.open(path, mine, mode))

    def handle(self, thing: object) -> tuple[int, bytes]:
        name = b"%d" % (len(self.handles) + sum(self.counts.values()))
        self.handles[name] = thing
        return HANDLE, text(name)

    def do_4(self, given: Cursor) -> tuple[int, bytes]:
        thing = self.handles.pop(given.text())
        if isinstance(thing, int):
            self.ends.pop(thing, None)
            os.close(thing)
        return self.status(OK)

    def do_5(self, given: Cursor) -> tuple[int, bytes]:
        thing, at, length = self.handles[given.text()], given.number(8), given.number()
        assert isinstance(thing, int)
        if self.habit("short") is not None:
            length = min(length, 1000)
        data = os.pread(thing, length, at)
        return (DATA, text(data)) if data else self.status(EOF)

    def do_6(self, given: Cursor) -> tuple[int, bytes]:
        thing, at, data = self.handles[given.text()], given.number(8), given.text()
        assert isinstance(thing, int)
        if self.habit("full") is not None:
            return self.status(FAILURE)
        if self.habit("in-order") is not None and at != self.ends.get(thing, 0):
            return self.status(FAILURE)
        self.ends[thing] = at + len(data)
        os.pwrite(thing, data, at)
        return self.status(OK)

    def do_7(self, given: Cursor) -> tuple[int, bytes]:
        return ATTRS, self.attributes(os.lstat(self.path(given)))

    def do_8(self, given: Cursor) -> tuple[int, bytes]:
        thing = self.handles[given.text()]
        assert isinstance(thing, int)
        return ATTRS, self.attributes(os.fstat(thing))

    def do_9(self, given: Cursor) -> tuple[int, bytes]:
        path = self.path(given)
        return self.set(path, given)

    def do_10(self, given: Cursor) -> tuple[int, bytes]:
        thing = self.handles[given.text()]
        assert isinstance(thing, int)
        return self.set(thing, given)

    def set(self, thing: bytes | int, given: Cursor) -> tuple[int, bytes]:
        if self.habit("modeless") is not None:
            return self.status(UNSUPPORTED)
        flags = given.number()
        if flags & 4:
            os.chmod(thing, stat.S_IMODE(given.number()))
        if flags & 8:
            os.utime(thing, (given.number(), given.number()))
        return self.status(OK)

    def do_11(self, given: Cursor) -> tuple[int, bytes]:
        path = self.path(given)
        return self.handle([path, sorted(os.listdir(path))])

    def do_12(self, given: Cursor) -> tuple[int, bytes]:
        thing = self.handles[given.text()]
        assert isinstance(thing, list)
        folder, names = thing
        if not names:
            return self.status(EOF)
        some, thing[1] = names[:50], names[50:]
        rows = [
            text(name) + text(b"line") + self.attributes(os.lstat(os.path.join(folder, name)))
            for name in some
        ]
        if self.habit("lie") == "path":
            rows[0] = text(b"../../etc/passwd") + rows[0][4 + len(some[0]) :]
        return NAME, struct.pack(">I", len(rows)) + b"".join(rows)

    def do_13(self, given: Cursor) -> tuple[int, bytes]:
        os.unlink(self.path(given))
        return self.status(OK)

    def do_14(self, given: Cursor) -> tuple[int, bytes]:
        os.mkdir(self.path(given))
        return self.status(OK)

    def do_16(self, given: Cursor) -> tuple[int, bytes]:
        path = os.path.realpath(self.path(given))
        os.lstat(os.path.dirname(path))
        return NAME, struct.pack(">I", 1) + text(path) + text(path) + struct.pack(">I", 0)

    def do_17(self, given: Cursor) -> tuple[int, bytes]:
        return ATTRS, self.attributes(os.stat(self.path(given)))

    def do_18(self, given: Cursor) -> tuple[int, bytes]:
        old, new = self.path(given), self.path(given)
        if self.habit("replacing") is None and os.path.lexists(new):
            return self.status(FAILURE)
        os.rename(old, new)
        return self.status(OK)

    def do_19(self, given: Cursor) -> tuple[int, bytes]:
        target = os.readlink(self.path(given))
        return NAME, struct.pack(">I", 1) + text(target) + text(target) + struct.pack(">I", 0)

    def do_200(self, given: Cursor) -> tuple[int, bytes]:
        name = given.text()
        if name.startswith(b"posix-rename"):
            os.rename(self.path(given), self.path(given))
        elif name.startswith(b"hardlink"):
            os.link(self.path(given), self.path(given))
        elif name.startswith(b"fsync"):
            thing = self.handles[given.text()]
            assert isinstance(thing, int)
            os.fsync(thing)
        elif name.startswith(b"statvfs"):
            free = 0 if self.habit("full") is not None else 1 << 30
            return EXTENDED_REPLY, struct.pack(">11Q", 1, 1, free, free, free, *[0] * 6)
        else:
            return self.status(UNSUPPORTED)
        return self.status(OK)


def main(arguments: list[str]) -> None:
    """Print the settings of a host as `ssh -G` does, or serve one session."""
    root, *habits = arguments[: arguments.index("--")]
    rest = arguments[arguments.index("--") + 1 :]
    with Path(root, "..", "log").open("a") as log:
        log.write(" ".join(rest) + "\n")
    if "-G" in rest:
        sys.stdout.write("hostname 127.0.0.1\nport 22\nproxycommand none of relay's\n")
        return
    once = next((one for one in habits if re.fullmatch(r"once", one)), None)
    used = Path(root, "..", "used")
    if once is not None and used.exists():
        habits = []
    used.touch()
    Peer(root, habits).run()


if __name__ == "__main__":
    main(sys.argv[1:])
