"""Start a simulator in a process of its own, for as long as a `with` block lasts."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_ROOT: Final = Path(__file__).resolve().parent.parent
_LISTENING: Final = re.compile(r"\S+ listening on ((https?|tcp)://(\S+):(\d+))")
_CA: Final = re.compile(r"CA certificate written to (.+)")
_STOP_SECONDS: Final = 5.0


class NotStarted(RuntimeError):
    """The simulator ended before it listened; its stderr has the reason."""


@dataclass(frozen=True)
class Spawned:
    """A running simulator. `ca` is the file of the authority to trust, if it uses TLS."""

    process: subprocess.Popen[str]
    base: str
    scheme: str
    host: str
    port: int
    ca: str | None

    def url(self, path: str = "") -> str:
        """Return the URL of a path on it."""
        return self.base + path

    def request(self, method: str, path: str) -> tuple[int, bytes]:
        """Make one small request and return status and body. Certificates are not checked."""
        host = self.host.strip("[]")
        connection = (
            http.client.HTTPSConnection(host, self.port, timeout=10, context=_trusting_context())
            if self.scheme == "https"
            else http.client.HTTPConnection(host, self.port, timeout=10)
        )
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get_json(self, path: str) -> Any:
        """Return the document at a control path. Raises ValueError when it is not JSON."""
        return json.loads(self.request("GET", path)[1])

    def clear(self, path: str) -> None:
        """Empty `/_received` or `/_journal`."""
        self.request("DELETE", path)


@contextmanager
def spawn(*arguments: str) -> Iterator[Spawned]:
    """Run `python -m simulators ARGUMENTS` on a free port, unless one is said, and stop it at the
    end.

    The first argument is `src`, `dst`, `proxy` or `bucket`. Raises NotStarted.
    """
    command = [sys.executable, "-m", "simulators", *_with_port(arguments)]
    process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield _await_start(process)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _with_port(arguments: tuple[str, ...]) -> tuple[str, ...]:
    word, *rest = arguments
    if rest and rest[0].isdigit():
        return arguments
    return (word, "0", *rest)


def _await_start(process: subprocess.Popen[str]) -> Spawned:
    ca = None
    for line in process.stdout or ():
        written = _CA.match(line)
        ca = written[1] if written else ca
        found = _LISTENING.match(line)
        if found:
            return Spawned(process, found[1], found[2], found[3], int(found[4]), ca)
    raise NotStarted(f"the simulator ended with {process.wait()}")


def _trusting_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
