"""A terminal in which relay's commands are run, with a ledger of its own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import sqlite3
import struct
import termios
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests import forked
from tests.end_to_end.test_cli import environment
from tests.looks import looks

ROOT = Path(__file__).resolve().parent.parent.parent
AWAKE_SECONDS = 0.05
"""How soon the end of a command in a terminal is noticed, which writes nothing."""


class Terminal:
    """Runs relay's commands with one ledger."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home, self.ledger = home, home / "ledger.db"
        self._settings = {"RELAY_LEDGER": f"sqlite:///{self.ledger}", **settings}

    def start(self, *words: str, **more: str) -> Any:
        """Start a command; return it as `subprocess.Popen` would."""
        return forked.start(words, environment(**{**self._settings, **more}))

    def run(self, *words: str, **more: str) -> tuple[int, str, str]:
        """Run a command to its end; return its exit code and its output."""
        code, out, err = forked.run(words, environment(**{**self._settings, **more}), 100)
        assert "Traceback" not in out + err, err
        return code, out, err

    def run_on_tty(
        self, *words: str, columns: int = 100, typed: Sequence[tuple[str, bytes]] = (), **more: str
    ) -> tuple[int, str]:
        """Run a command with a terminal of `columns` columns; return its exit code and its output.

        `typed` are keys, each with the text that has to appear before it is pressed."""
        settings = environment(**{"TERM": "xterm", **self._settings, **more})
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        pieces, keys, code = [], list(typed), None
        with forked.run_on_terminal(os.ttyname(theirs), words, settings) as poll:
            while code is None:
                # The end is looked for first: all output is there by then, since `theirs` is open.
                code = poll()
                seconds = AWAKE_SECONDS if code is None else 0
                while select.select([ours], [], [], seconds)[0]:
                    pieces.append(os.read(ours, 65536))
                    if keys and keys[0][0].encode() in b"".join(pieces):
                        os.write(ours, keys.pop(0)[1])
        os.close(theirs)
        os.close(ours)
        text = b"".join(pieces).decode(errors="replace")
        assert "Traceback" not in text, text
        return code, text

    def tree(
        self, source: object, destination: object, *words: str, **more: str
    ) -> tuple[int, dict[str, Any]]:
        """Migrate a tree; return the exit code and the summary."""
        code, out, _ = self.run(
            "migrate", "-r", str(source), str(destination), "--json", *words, **more
        )
        return code, json.loads(out)

    def query(self, sql: str) -> Any:
        """Return one value of the ledger, or None while it does not exist yet."""
        try:
            with sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True, timeout=10) as connection:
                row = connection.execute(sql).fetchone()
        except sqlite3.OperationalError:
            return None
        return row and row[0]

    def wait_for(self, process: Any, sql: str, good: Callable[[Any], bool]) -> None:
        """Wait until a query of the ledger gives a value that passes. Fails if the process ends
        before."""
        for _ in looks():
            if (found := self.query(sql)) is not None and good(found):
                return
            assert process.poll() is None, process.communicate()
        raise TimeoutError(sql)


def eventually(good: Callable[[], bool]) -> None:
    """Poll until a condition holds: another process's work can only be polled."""
    for _ in looks():
        if good():
            return
    raise TimeoutError(good)


def bucket_terminal(home: Path, url: str, **settings: str) -> Terminal:
    """Return a terminal that has keys of the buckets at `url`."""
    return Terminal(
        home,
        AWS_ACCESS_KEY_ID="KEY",
        AWS_SECRET_ACCESS_KEY="SECRET",
        AWS_ENDPOINT_URL_S3=url,
        **settings,
    )
