"""Ctrl-C before a command has anything to clean up: the process ends with 130 and prints nothing.

Python itself raises KeyboardInterrupt wherever the main thread is: in the middle of an import, or
in gevent's hub, and prints a traceback. A command that has something to clean up catches the signal
meanwhile (`relay/cli/interrupt.py`).

Decided here: what Ctrl-C does from the first line of the program on (Python's own start, before it,
is Python's). Never here: anything that takes time to import."""

from __future__ import annotations

import os
import signal

CODE = 130
"""The exit code of a command that Ctrl-C ended: 128 and the signal's number, as in shells."""


def end_on_interrupt(prints: bytes = b"") -> None:
    """Let Ctrl-C end this process at once, after it `prints` something to stdout. Where it is
    ignored, as in the background of a shell, it stays ignored."""

    def end(number: int, frame: object) -> None:
        try:
            os.write(1, prints)
        except OSError:  # stdout has no reader
            pass
        os._exit(CODE)

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, end)
