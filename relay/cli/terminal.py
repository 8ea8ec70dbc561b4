"""Print to the terminal. A failed print never breaks a transfer.

The receipt (or one JSON object) goes to stdout, everything else to stderr. A closed stdout, an
ASCII terminal or a hostile store's escape sequences change nothing but the print. `tell` prints the
output for which a command is run (`relay ls`): the command ends if the reader has closed the pipe,
and fails if the write fails. `confirm` prints the result of finished work (`relay migrate`): a
closed reader changes nothing, and a failed write is a failure."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn, TextIO

from rich.filesize import decimal

from relay.cli.flags import in_flags
from relay.errors import OutputFailed, RelayError

# Importing the engine takes an eighth of a second, for which an error message should not wait.
if TYPE_CHECKING:
    from relay.engine.outcome import Outcome
    from relay.receipt import Receipt, Version


LINE_SECONDS: Final = 5.0
"""Time between two lines of progress where no bars are shown, in seconds."""

_ACTED_ON: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a terminal may act on: the control characters but tab and the end of a line."""


class ReaderGone(Exception):
    """The reader of the output has closed the pipe, as `| head` does. The command has not
    failed."""


def prepare(stdout_gone: bool = False) -> None:
    """Make stdout and stderr safe to write to; with `stdout_gone` the buffered output is
    discarded."""
    # Python has no sys.stdout if the descriptor was closed at its start (`>&-`).
    if stdout_gone or sys.stdout is None:
        _forget(1)
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        # Escape characters that the terminal's encoding lacks; the default raises an exception.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _forget(descriptor: int) -> None:
    # Python flushes stdout once more when it ends, and complains if the reader is gone.
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def leave(code: int) -> NoReturn:
    """End the process now, after its output is flushed. An ordinary exit would wait for a thread
    that resolves a name, and tear down every module, which is a tenth of a short command's
    time."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # it has no reader, or is closed
            stream.flush()
    os._exit(code)


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line to stdout, or to `stream`. A closed reader or a failed write changes nothing."""
    stream = stream or sys.stdout
    try:
        _write(text, stream)
    except (OSError, ValueError):
        _forget(2 if stream is sys.stderr else 1)


class Screen:
    """stderr for a display. A failed write changes nothing: the terminal may be closed while the
    command runs in it."""

    def __init__(self) -> None:
        """Take the current stderr, which a display may replace."""
        self._stream = sys.stderr

    def write(self, text: str) -> int:
        """Write a text."""
        with _forgetting_stderr():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write the buffered text."""
        with _forgetting_stderr():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the stream."""
        return getattr(self._stream, name)


@contextmanager
def _forgetting_stderr() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError):
        _forget(2)


def tell(text: str) -> None:
    """Print the command's output to stdout. Raises OutputFailed if the write fails, and ReaderGone
    if the reader has closed the pipe: the command can then stop."""
    _tell(text, None)


def tell_empty(text: str) -> None:
    """Print on stderr that the output is empty: otherwise it looks like lost output."""
    say(f"relay: {plain(text)}", sys.stderr)


def confirm(text: str) -> None:
    """Print the result of the command to stdout. A closed reader changes nothing. Raises
    OutputFailed if the write fails."""
    with suppress(ReaderGone):
        _tell(
            text,
            "Make room where the output goes. The work itself was done: `relay status` shows it.",
        )


ERRORS: Final = ("error", "failed", "hint")
"""The rows of a table that a quiet command prints too."""


def confirm_table(rows: Iterable[tuple[str, str]], quiet: bool) -> None:
    """Print the table of finished work, as `confirm` does. If `quiet`, print only its errors and
    their hints, to stderr."""
    for name, value in rows:
        if not quiet:
            confirm(in_columns(name, value))
        elif name in ERRORS:
            say(in_columns(name, value), sys.stderr)


def _tell(text: str, hint: str | None) -> None:
    try:
        _write(text, sys.stdout)
    except (OSError, ValueError) as error:
        _forget(1)
        # ValueError: the stream is closed.
        if isinstance(error, ValueError) or error.errno == errno.EPIPE:
            raise ReaderGone from None
        raise OutputFailed(f"the output can't be written ({error.strerror})", hint=hint) from None


def _write(text: str, stream: TextIO) -> None:
    if stream.isatty():  # a file, or another program, gets the text unchanged
        text = _ACTED_ON.sub(lambda found: _escape(found[0]), text)
    stream.write(text + "\n")
    stream.flush()


def has_bars() -> bool:
    """Return whether stderr is a terminal that can draw bars."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def show_cursor() -> None:
    """Show the cursor, which bars hide, before a process ends at once and leaves its bars."""
    if has_bars():
        with suppress(OSError):
            os.write(2, b"\x1b[?25h\n")


def say_error(error: RelayError) -> None:
    """Print an error and what to do about it to stderr."""
    side = side_of(error)
    say(f"relay: {f'{side}: ' if side else ''}{plain(without_secrets(error.message))}", sys.stderr)
    say(f"hint: {plain(in_flags(error.hint, side))}", sys.stderr)


def side_of(error: RelayError) -> str | None:
    """Return the side that an error is about: the store that failed, or the location that is wrong.
    None if it is about neither."""
    named = (error.pointer or "").split("/")[1:2]
    return next((side for side in (error.side, *named) if side in ("source", "destination")), None)


_EXTRA: Final = re.compile(r"(unexpected extra arguments?) \(.*\)", re.S)
_USER: Final = re.compile(r"(://)[^\s/'\"]*@")
_QUERY: Final = re.compile(r"(://[^\s?'\"]*)\?[^\s'\")]*")


def without_secrets(text: str) -> str:
    """Return a message about a command line without possible secrets: the query of a URL, which may
    sign it, its user, and surplus arguments, such as the rest of an unquoted header."""
    text = _EXTRA.sub(r"\1; is something not quoted?", text)
    return _QUERY.sub(r"\1?…", _USER.sub(r"\1…@", text))


def plain(text: str) -> str:
    """Return text with the characters escaped that a terminal might act on: stores choose etags and
    error texts."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    byte = ord(char) - 0xDC00  # of a name that is not UTF-8 (PEP 383)
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else char.encode("unicode_escape").decode()


def in_columns(name: str, value: str) -> str:
    """Return one line of a table of two columns."""
    return f"{name:<12} {plain(value)}"


def size(count: int) -> str:
    """Return a number of bytes, with the rounded one if that is shorter to read."""
    return f"{count:,} ({decimal(count)})" if count >= 1000 else f"{count:,}"


def resent_note(count: int) -> str:
    """Return the end of a line about bytes that were sent again, '' without any. The number is a
    lower bound: what a killed process had sent of an unfinished object or part is unknown."""
    return f", at least {decimal(count)} sent again" if count else ""


def receipt_lines(outcome: Outcome) -> Iterable[str]:
    """Return the receipt as a table of two columns."""
    rows = [
        ("state", outcome.state.value),
        ("source", outcome.source.in_full),
        ("destination", outcome.destination.in_full),
    ]
    if outcome.receipt is not None:
        rows += _rows(outcome, outcome.receipt)
    else:  # a skip: its reason, and what earlier attempts may have left
        rows += [("note", note) for note in outcome.notes]
    return [in_columns(name, value) for name, value in rows]


def _rows(outcome: Outcome, receipt: Receipt) -> Iterable[tuple[str, str]]:
    seconds = max(outcome.seconds, 0.001)
    yield "level", receipt.level.value
    yield "bytes", size(receipt.bytes)
    yield "time", f"{outcome.seconds:.2f} s, {decimal(int(receipt.bytes / seconds))}/s"
    yield from receipt.to_json()["digests"].items()
    yield from _version("read", receipt.source)
    yield from _version("written", receipt.destination)
    yield "attempts", f"{receipt.attempts}{resent_note(receipt.bytes_resent)}"
    for note in receipt.notes:
        yield "note", note


def _version(name: str, version: Version) -> Iterable[tuple[str, str]]:
    if version.etag is not None:
        yield name, f"etag {version.etag}"
    elif version.last_modified is not None:
        yield name, f"last modified {version.last_modified}"
