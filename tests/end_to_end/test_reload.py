"""State that a running server must not lose: its settings, after a mistake at SIGHUP, and its unix
socket, to another server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.test_serve import (
    GUNICORN,
    SERVE,
    WAYS,
    Server,
    await_workers,
    begin,
    environment,
    gated_source,
    order,
    run_server,
    start,
)
from tests.faults.scripted_peers import DATA, Cloud, destination_script
from tests.scripted import Peer

FREE = {"RELAY_BIND": "", "RELAY_LEDGER": ""}
"""Flags with which the address and the ledger come from relay.toml."""


class Config:
    """A relay.toml, written line by line."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "relay.toml"
        self._right = {
            "bind": '"127.0.0.1:0"',
            "ledger": f'"sqlite:///{folder}/ledger.db"',
            "slots": "3",
        }
        self.write()

    def write(self, raw: str = "", **values: str) -> None:
        """Write correct lines, except for `values` and a `raw` line."""
        lines = [f"{name} = {value}\n" for name, value in (self._right | values).items()]
        self.path.write_text("".join(lines) + raw, encoding="utf-8", errors="surrogateescape")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return a correct relay.toml."""
    return Config(tmp_path)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """Return a file with a token, which others may read."""
    path = tmp_path / "tokens"
    path.write_text("a-token-0123456789\n")
    path.chmod(0o644)
    return path


@pytest.fixture
def taken_address() -> Iterator[str]:
    """Return an address at which another process listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield f"127.0.0.1:{sock.getsockname()[1]}"


def line_about(server: Server, word: str) -> str:
    """Read the server's output up to a line with `word`."""
    assert server.process.stderr is not None
    for line in server.process.stderr:
        if word in line:
            return line
    raise AssertionError(f"no line with {word}")


MISTAKES = {
    "a word for a number": {"workers": '"two"'},
    "a number that is too small": {"slots": "0"},
    "an unknown setting": {"worker": "1"},
    "no TOML": {"workers": ""},
    "not UTF-8": {"raw": "# \udcff\n"},
    "an address that is taken": {"bind": '"{taken}"'},
    "no address": {"bind": '"8080"'},
    "open to others without tokens": {"bind": '"0.0.0.0:0"'},
    "no folder for a unix socket": {"bind": '"unix:{nowhere}/relay.sock"'},
    "a folder that is not there": {"local_folders": '"{nowhere}"'},
    "a ledger that can't be opened": {"ledger": '"sqlite:////proc/relay.db"'},
    "authorities that are not there": {"ca_bundle": '"{nowhere}"'},
    "tokens that are not there": {"tokens_file": '"{nowhere}"'},
    "tokens that others may read": {"tokens_file": '"{tokens}"'},
    "a word for a port": {"egress_ports": '"http"'},
    "tokens from a pipe into which nobody writes": {"tokens_file": '"{pipe}"'},
    "an IPv6 address without brackets": {"bind": '"::1:0"'},
    "no descriptor": {"bind": '"fd://x"'},
    "a descriptor that no system has": {"bind": '"fd://99999999999999999999"'},
    "a port that no system has": {"bind": '"127.0.0.1:70000:80"'},
    "a folder that takes no name": {"bind": '"unix:/proc/relay.sock"'},
    "a name that is too long": {"bind": f'"unix:/tmp/{"a" * 150}"'},
    "a NUL": {"ca_bundle": r'"\u0000"'},
    "brackets without an end": {"raw": "x = " + "[" * 5000 + "\n"},
    "a ledger in memory": {"ledger": '"sqlite:///:memory:"'},
    "a driver that is not here": {"ledger": '"postgresql+asyncpg://127.0.0.1/x"'},
}


def test_mistakes_change_nothing(config: Config, tokens: Path, taken_address: str) -> None:
    """The same worker serves on, one line names the mistake, and the next correct settings are
    applied."""
    named = {
        "tokens": tokens,
        "taken": taken_address,
        "nowhere": tokens.parent / "nowhere",
        "pipe": tokens.parent / "pipe",
    }
    os.mkfifo(named["pipe"], 0o600)
    with run_server(SERVE, RELAY_CONFIG=str(config.path), **FREE) as server:
        await_workers(server.process.pid, 1)
        (worker,) = psutil.Process(server.process.pid).children()
        for mistake, values in MISTAKES.items():
            config.write(**{name: text.format(**named) for name, text in values.items()})
            server.process.send_signal(signal.SIGHUP)
            line = line_about(server, "relay: ")
            assert line.startswith("relay: not reloaded: ") and line.endswith(
                "The old settings stay.\n"
            ), mistake
            assert server.ask("GET", "/readyz")[1]["slots"]["free"] == 3, mistake
            assert psutil.Process(server.process.pid).children() == [worker], mistake
        config.write(slots="4")
        server.process.send_signal(signal.SIGHUP)
        worker.wait(20)
        assert server.ask("GET", "/readyz")[1]["slots"]["free"] == 4
        assert server.stop() == 0


@WAYS
def test_a_transfer_goes_on_through_a_mistake(command: tuple[str, ...], config: Config) -> None:
    """And a worker that is killed while the file is wrong is replaced by one with the settings in
    effect."""
    gate, begun, kept, answers = threading.Event(), threading.Event(), Cloud(), []
    with (
        Peer(gated_source(Cloud(), gate, begun)) as source,
        Peer(destination_script(kept)) as destination,
        run_server(command, RELAY_CONFIG=str(config.path)) as server,
    ):
        asked = threading.Thread(
            target=lambda: answers.append(
                server.ask("POST", "/migrate", order(source, destination))
            )
        )
        asked.start()
        assert begun.wait(10)
        config.write(slots="0")
        server.process.send_signal(signal.SIGHUP)
        line_about(server, "not reloaded")
        gate.set()
        asked.join(20)
        assert answers[0][0] == 200
        (worker,) = psutil.Process(server.process.pid).children()
        worker.kill()
        worker.wait(10)
        await_workers(server.process.pid, 1)
        assert server.ask("GET", "/readyz")[1]["slots"]["free"] == 3
        assert server.stop() == 0
    assert kept.objects == {b"/b": DATA}


def test_a_stop_right_after_a_reload_acts_at_once(config: Config) -> None:
    """gunicorn waits in its reload for the old workers, one of which has a client, and obeys no
    signal meanwhile."""
    gate, begun, kept, answers = threading.Event(), threading.Event(), Cloud(), []
    with (
        Peer(gated_source(Cloud(), gate, begun)) as source,
        Peer(destination_script(kept)) as destination,
        run_server(SERVE, RELAY_CONFIG=str(config.path), RELAY_GRACEFUL_TIMEOUT="100") as server,
    ):
        asked = threading.Thread(
            target=lambda: answers.append(
                server.ask("POST", "/migrate", order(source, destination))
            )
        )
        asked.start()
        assert begun.wait(10)
        server.process.send_signal(signal.SIGHUP)
        await_workers(server.process.pid, 2)
        server.process.send_signal(signal.SIGTERM)
        await_closed(server.port)
        gate.set()
        asked.join(20)
        assert answers[0][0] == 200
        assert server.process.wait(20) == 0


def await_closed(port: int) -> None:
    """Wait until a port takes no connection any more."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.05)
    raise AssertionError("the port still takes connections")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(SERVE, id="relay serve"),
        pytest.param(GUNICORN, id="gunicorn -c", marks=pytest.mark.campaign),
    ],
)
def test_many_reloads_in_a_row_and_then_an_end(command: tuple[str, ...]) -> None:
    """Workers that are stopped while they load, or while they wait for a file that they load, end
    as quickly."""
    with run_server(command, True, RELAY_GRACEFUL_TIMEOUT="300", RELAY_WORKERS="2") as server:
        await_workers(server.process.pid, 2)
        assert server.ask("GET", "/readyz")[0] == 200
        for _ in range(6):
            server.process.send_signal(signal.SIGHUP)
            server.ask("GET", "/healthz")
        begun = psutil.Process(server.process.pid).children()
        assert server.stop(60) == 0  # and not after three hundred
        assert psutil.wait_procs(begun, timeout=10)[1] == []


SLOW_FORK = """
import sys, time
from gunicorn import util
from relay.cli.__main__ import run

def wait(title):
    if title.startswith("worker"):
        print("forked", file=sys.stderr, flush=True)
        time.sleep(1)

util._setproctitle = wait
sys.argv = ["relay", "serve"]
run()
"""
"""A server whose workers set their handlers of signals a second after the fork."""


def test_a_stop_right_after_a_fork_ends_the_worker() -> None:
    """The signal waits for the handlers of the new worker."""
    command = (sys.executable, "-c", SLOW_FORK)
    with run_server(command, RELAY_GRACEFUL_TIMEOUT="100") as server:
        while "forked" not in server.process.stderr.readline():
            pass
        assert server.stop(30) == 0


# -- unix sockets


def ask_over_unix(path: Path, line: str = "GET /openapi.json") -> int:
    """Make a request over a unix socket; return the status."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        sock.sendall(f"{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return int(sock.makefile("rb").readline().split()[1])


@contextmanager
def run_on_socket(path: Path, *command: str, **settings: str) -> Iterator[None]:
    """Run a server on a unix socket."""
    ledger = f"sqlite:///{path.parent}/{path.name}.db"
    wanted = {"RELAY_BIND": f"unix:{path}", "RELAY_LEDGER": ledger} | settings
    process = begin(command or SERVE, environment(**wanted))
    try:
        assert f"unix:{path}" in process.stdout.readline()
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)


@WAYS
def test_a_second_server_does_not_take_a_unix_socket(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    """It is refused in one line, and the first keeps its socket; the leftover of a killed server is
    replaced."""
    path = tmp_path / "relay.sock"
    with run_on_socket(path, *command):
        code, stderr = start(
            command, RELAY_BIND=f"unix:{path}", RELAY_LEDGER=f"sqlite:///{tmp_path}/other.db"
        )
        assert (code, stderr.count("\n")) == (1, 1), stderr
        assert "a server listens there" in stderr
        assert ask_over_unix(path) == 200
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with run_on_socket(path, *command):
        assert ask_over_unix(path) == 200


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link", "busy"])
def test_an_entry_of_another_owner_is_not_replaced(kind: str, tmp_path: Path) -> None:
    """Neither a file, nor a link, nor a socket whose server is too busy to accept."""
    path = tmp_path / "relay.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        if kind == "file":
            path.write_text("precious")
        elif kind == "folder":
            path.mkdir()
        elif kind == "dangling link":
            path.symlink_to(tmp_path / "nowhere")
        else:
            busy.bind(str(path))
            busy.listen(0)
            client.connect(str(path))
        before = path.lstat()
        code, stderr = start(
            SERVE, RELAY_BIND=f"unix:{path}", RELAY_LEDGER=f"sqlite:///{tmp_path}/l.db"
        )
        assert (code, stderr.count("\n")) == (1, 1), stderr
        assert path.lstat().st_ino == before.st_ino


def test_without_tokens_a_unix_socket_is_its_owners(open_folder: Path, tokens: Path) -> None:
    """By its mode, and by the peer's user if the mode admits others; with tokens a token
    decides."""
    path = open_folder / "relay.sock"
    with run_on_socket(path):
        assert path.stat().st_mode & 0o777 == 0o600
        assert ask_over_unix(path) == 200
        path.chmod(0o777)
        assert os.geteuid() != 0 or ask_as_nobody(path) == 403
    tokens.chmod(0o600)
    with run_on_socket(path, RELAY_TOKENS_FILE=str(tokens)):
        assert path.stat().st_mode & 0o777 == 0o666
        assert ask_over_unix(path) == 401


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that every user may enter; pytest's own are its user's."""
    with tempfile.TemporaryDirectory(prefix="relay-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def ask_as_nobody(path: Path) -> int:
    """Make a request over a unix socket as another user; return the status."""
    program = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX); os.chdir(sys.argv[1]); os.setgid(65534);"
        " os.setuid(65534); s.connect('relay.sock');"
        " s.sendall(b'GET /migrations HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n');"
        " print(s.makefile('rb').readline().split()[1].decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path.parent)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return int(done.stdout)
