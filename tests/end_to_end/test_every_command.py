"""Rules for every command: an unwritable output, Ctrl-C at any time, files without an end, and
empty listings that are reported as such."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.cli.commands import COMMANDS
from tests import forked
from tests.end_to_end.terminal import ROOT, Terminal
from tests.end_to_end.test_cli import environment
from tests.end_to_end.test_serve import SERVE, Server, run_server
from tests.scripted import Peer, Talk, length_of
from tests.torture.commands import Streams

REPLY = b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n"
FULL = "the output can't be written (No space left on device)"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Return a server that moves nothing."""
    with run_server(SERVE) as made:
        yield made


@pytest.fixture(scope="module")
def used_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a ledger whose migration 1 has succeeded, and whose migration 2 has
    failed."""
    home = tmp_path_factory.mktemp("used")
    (home / "from").mkdir()
    (home / "from" / "one").write_text("one")
    made = Terminal(home)
    assert made.run("migrate", "-r", f"{home}/from", f"{home}/to", "-q")[0] == 0
    assert made.run("migrate", f"{home}/nosuch", f"{home}/to/", "-q")[0] == 1
    assert made.run("token", "create", "used")[0] == 0
    key = {"XDG_DATA_HOME": str(home)}
    assert made.run("keys", "new", **key)[0] == 0
    assert made.run("report", "1", "--sign", "--output", f"{home}/signed", **key)[0] == 0
    (home / "allowed").write_text(made.run("keys", "show", **key)[1])
    return home


@pytest.fixture
def terminal(used_home: Path, tmp_path: Path) -> Terminal:
    """Return a terminal with a copy of that."""
    return Terminal(Path(shutil.copytree(used_home, tmp_path / "home")))


def run_into(
    stdout: str | None, words: tuple[str, ...], cwd: Path, **settings: str
) -> tuple[int, str]:
    """Run a command whose stdout is a file or a device; without a name, a pipe without a reader.
    Return its exit code and its stderr."""
    typed = cwd / "typed"
    typed.write_text("a password\n")
    code, err = forked.run_with(Streams(typed, stdout), words, environment(**settings), cwd)
    assert "Traceback" not in err, err
    return code, err


SUBMIT = ("submit", "https://a.invalid/a", "https://b.invalid/b")
OUTPUTS: dict[tuple[str, ...], int] = {
    ("--help",): 0,
    ("--version",): 0,
    ("migrate", "--help"): 0,
    ("ls", "from/"): 0,
    ("ls", "-r", "--json", "from/"): 0,
    ("plan", "-r", "from/", "new/"): 0,
    ("plan", "--json", "--if-exists", "fail", "from/one", "to/one"): 1,
    ("verify", "from/", "to/"): 3,
    ("verify", "from/", "to/", "--json", "--read", "all"): 0,
    ("verify", "from/", "to/", "--format", "csv"): 3,
    ("doctor", "to/"): 0,
    ("doctor", "nosuch/"): 1,
    ("completion", "bash"): 0,
    ("remotes",): 0,
    ("remotes", "--json"): 0,
    ("obscure",): 0,
    ("status",): 0,
    ("status", "--json"): 0,
    ("status", "1"): 0,
    **{("report", "1", "--format", form): 0 for form in ("table", "jsonl", "csv", "html")},
    ("report", "1", "--sign"): 0,
    ("check-report", "signed", "--allowed-signers", "allowed"): 0,
    ("keys", "new"): 0,
    ("keys", "show"): 0,
    ("watch", "1"): 0,
    ("watch", "2", "--json"): 1,
    ("acknowledge", "2"): 0,
    ("retry", "2"): 0,
    ("migrate", "from/one", "new"): 0,
    ("migrate", "from/one", "new", "--json", "--verify", "size"): 3,
    ("migrate", "-r", "from/", "new/"): 0,
    ("migrate", "-r", "from/", "new/", "--json", "--verify", "size"): 3,
    ("move", "from/one", "new"): 0,
    ("move", "-r", "from/", "new/"): 0,
    ("move", "-r", "from/", "new/", "--json", "--verify", "size"): 3,
    ("follow", "from/", "kept/", "--every", "0s", "--passes", "1"): 0,
    ("cutover", "3", "--rehearse"): 0,
    ("cutover", "3", "--unrehearsed"): 0,
    ("feed", "3"): 0,
    ("abort", "3"): 0,
    ("reopen", "3"): 0,
    ("finish", "3"): 0,
    ("undo", "1"): 0,
    ("undo", "1", "--json"): 0,
    SUBMIT: 0,
    (*SUBMIT, "--json"): 0,
    (*SUBMIT, "--json", "--priority", "2"): 0,
    ("token", "create", "ops"): 0,
    ("token", "list"): 0,
    ("token", "list", "--json"): 0,
    ("token", "limit", "used", "--slots", "2"): 0,
    ("token", "rotate", "used"): 0,
    ("token", "revoke", "used"): 0,
    ("audit", "log"): 0,
    ("audit", "log", "--json"): 0,
    ("audit", "log", "--verify"): 0,
}
"""Commands that print something, and the exit code of each."""
AFTER = {
    "limit": ("retry",),
    "pause": ("retry",),
    "resume": ("retry", "pause"),
    "cancel": ("retry",),
}
"""Commands that bring migration 2 into the state that a command needs."""


STANDING = {
    "cutover": (),
    "feed": (),
    "abort": (),
    "reopen": ("cutover", "3", "--unrehearsed"),
    "finish": ("cutover", "3", "--unrehearsed"),
}
"""Commands about the standing migration 3, and the command before each."""


def begin_standing(terminal: Terminal, before: tuple[str, ...], **settings: str) -> None:
    """Make migration 3, a standing one, and run the command `before` another."""
    places = (f"{terminal.home}/from/", f"{terminal.home}/kept/")
    terminal.run("follow", *places, "--every", "0s", "--passes", "1", **settings)
    if before:
        report = ("--output", f"{terminal.home}/relay-3-report")
        assert terminal.run(*before, *report, **settings)[0] == 0


def test_no_command_is_left_out() -> None:
    assert set(COMMANDS) == {words[0] for words in OUTPUTS} - {"--help", "--version"} | {
        *AFTER,
        "serve",  # whose output is its log
    }


@pytest.mark.parametrize(
    "words",
    [
        *OUTPUTS,
        *((verb, "2") for verb in AFTER if verb != "limit"),
        ("limit", "2", "--priority", "3"),
    ],
    ids=" ".join,
)
def test_a_full_output_fails_and_a_closed_pipe_does_not(
    terminal: Terminal, server: Server, words: tuple[str, ...]
) -> None:
    """B87. With a closed reader the exit code is that of the work."""
    settings = {
        "RELAY_LEDGER": f"sqlite:///{terminal.ledger}",
        "XDG_DATA_HOME": str(terminal.home),
    }
    if words[0] == "submit":
        settings["RELAY_URL"] = f"http://{server.host}:{server.port}"
    if words[0] in STANDING:
        begin_standing(terminal, STANDING[words[0]], **settings)
    for stdout, code, is_named in ((None, OUTPUTS.get(words, 0), False), ("/dev/full", 1, True)):
        for verb in AFTER.get(words[0], ()):
            terminal.run(verb, "2")  # the second time it may have that state already
        if words[0] == "move":
            (terminal.home / "from" / "one").write_text("one")  # the first time moved it
        if words[:2] == ("token", "create"):
            terminal.run("token", "revoke", "ops")  # the first time there is none
        if words == ("keys", "new"):
            (terminal.home / "relay/report-key").unlink()
        shutil.rmtree(terminal.home / "relay-1-report", ignore_errors=True)
        got, err = run_into(stdout, words, terminal.home, **settings)
        assert (got, FULL in err) == (code, is_named), err
        assert not is_named or "hint: " in err
        if words[0] == "cancel":
            assert terminal.query("SELECT state FROM migrations WHERE number = 2") == "cancelled"


# -- Ctrl-C


INTERRUPT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in a shell's background it is ignored

def hook(event, arguments):
    global armed
    if armed and event == {event!r} and str(arguments[0]).startswith({prefix!r}):
        armed = False
        os.kill(os.getpid(), signal.SIGINT)

armed = True
sys.addaudithook(hook)
from relay.cli.__main__ import run
run()
"""


@pytest.mark.parametrize(
    ("event", "prefix"),
    [
        *(
            ("import", name)
            for name in ("gevent", "gevent._", "zope", "importlib.metadata", "click", "rich")
        ),
        *(("import", name) for name in ("relay.errors", "relay.cli.exits", "relay.config")),
        *(("import", name) for name in ("sqlalchemy", "relay.ledger")),
        ("sqlite3.connect", ""),
        ("open", "/proc/"),
    ],
)
def test_ctrl_c_ends_a_command_wherever_it_is(terminal: Terminal, event: str, prefix: str) -> None:
    """Also in the middle of an import: from its first line on it ends with 130, and prints
    nothing."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPT.format(event=event, prefix=prefix), "status"],
        cwd=terminal.home,
        env=environment(PYTHONPATH=str(ROOT), RELAY_LEDGER=f"sqlite:///{terminal.ledger}"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    "words",
    [
        ("ls",),
        ("plan", "-r"),
        ("verify",),
        ("migrate",),
        ("migrate", "-r"),
        ("doctor", "--read-only"),
        ("status", "--url"),
        ("report", "1", "--url"),
        ("watch", "1", "--url"),
        ("retry", "1", "--url"),
        ("submit", "https://a.invalid/a", "https://b.invalid/b", "--url"),
    ],
    ids=" ".join,
)
def test_ctrl_c_while_a_store_or_a_server_does_not_answer(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    def stay_silent(talk: Talk) -> None:
        talk.head()
        asked.set()
        talk.linger()

    asked = threading.Event()
    terminal = Terminal(tmp_path)
    with Peer([stay_silent] * 9) as peer:
        url = peer.url("" if "--url" in words else "/f/")
        process = terminal.start(
            *words, url, *([f"{tmp_path}/to"] if words[0] in ("plan", "verify", "migrate") else [])
        )
        assert asked.wait(20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert not any(word in out + err for word in ("Traceback", "KeyboardInterrupt", "Exception"))


BEFORE_A_WAIT = """
import ctypes, os, signal
from relay.cli.__main__ import run
import gevent

def arm():
    gevent.get_hub().loop.prepare(ref=False, priority=-2).start(ctypes.CDLL(None).kill, os.getpid(), signal.SIGINT)

gevent.signal_handler(signal.SIGUSR1, arm)
run()
"""
"""A process that gets Ctrl-C right before it waits in the kernel, from SIGUSR1 on: after gevent
checked for signals."""


def test_ctrl_c_right_before_a_wait(tmp_path: Path) -> None:
    """That wait has no end: nothing follows."""

    def stay_silent(talk: Talk) -> None:
        talk.head()
        asked.set()
        talk.linger(60)

    asked = threading.Event()
    with Peer([stay_silent]) as peer:
        process = subprocess.Popen(
            [sys.executable, "-c", BEFORE_A_WAIT, "retry", "1", "--url", peer.url("")],
            cwd=ROOT,
            env=environment(RELAY_LEDGER=f"sqlite:///{tmp_path}/l.db"),
            stderr=subprocess.PIPE,
        )
        assert asked.wait(20)
        process.send_signal(signal.SIGUSR1)
        err = process.communicate(timeout=20)[1]
    assert (process.returncode, err) == (130, b"")


@pytest.mark.parametrize("most", [5, 6, 10])
@pytest.mark.parametrize(
    "words", [("status",), ("migrate", "from/one", "new"), ("serve", "--bind", "127.0.0.1:0")]
)
def test_too_few_open_files_are_one_clear_line(
    terminal: Terminal, most: int, words: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            'ulimit -n "$0"; exec "$@"',
            str(most),
            sys.executable,
            "-m",
            "relay",
            *words,
        ],
        cwd=terminal.home,
        env=environment(PYTHONPATH=str(ROOT), RELAY_LEDGER=f"sqlite:///{terminal.ledger}"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        f"at most {most} files" in done.stderr
        and "ulimit -n" in done.stderr
        and "Traceback" not in done.stderr
    )


def test_a_command_opens_as_many_files_as_it_may(terminal: Terminal) -> None:
    """Many slots need more than a low soft limit allows, such as 1,024 for 300 slots."""
    code = "import resource, relay.__main__; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    words = (
        "bash",
        "-c",
        'ulimit -Sn 64; ulimit -Hn 200; exec "$@"',
        "-",
        sys.executable,
        "-c",
        code,
    )
    done = subprocess.run(
        words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("200 200\n", "")


@pytest.mark.parametrize(
    ("count", "message"), [("1", "cannot listen on fd://3"), ("x", "LISTEN_FDS")]
)
def test_invalid_inherited_sockets_are_one_clear_line(
    terminal: Terminal, count: str, message: str
) -> None:
    """`exec` keeps the process id of the shell, which the sockets are for."""
    command = 'exec 3</dev/null; export LISTEN_FDS="$0" LISTEN_PID=$$; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", command, count, sys.executable, "-m", "relay", "serve"],
        cwd=terminal.home,
        env=environment(PYTHONPATH=str(ROOT), RELAY_LEDGER=f"sqlite:///{terminal.ledger}"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (1, 2)
    assert message in done.stderr and "Traceback" not in done.stderr, done.stderr


# -- files that a flag or a setting names


@pytest.mark.parametrize(
    "words",
    [
        ("migrate", "--source-headers-file", "/dev/zero", "https://a.invalid/", "to"),
        ("migrate", "--destination-headers-file", "/dev/zero", "from/one", "https://a.invalid/"),
        ("migrate", "--source-header", "X: @/dev/zero", "https://a.invalid/", "to"),
        ("migrate", "--ca-bundle", "/dev/zero", "https://a.invalid/", "to"),
        ("plan", "--source-headers-file", "/dev/zero", "https://a.invalid/", "to"),
        ("submit", "--url", "http://127.0.0.1:9", "--source-headers-file", "/dev/zero", "a", "b"),
        ("retry", "2", "https://a.invalid/", "to", "--source-headers-file", "/dev/zero"),
        ("migrate", "-r", "list+/dev/zero", "to/"),
        ("serve", "--tokens-file", "/dev/zero"),
        ("serve", "--ca-bundle", "/dev/zero"),
        ("serve", "--config", "/dev/zero"),
    ],
    ids=" ".join,
)
def test_a_file_without_an_end_is_not_read_to_it(
    terminal: Terminal, words: tuple[str, ...]
) -> None:
    program = "import resource, relay.cli.__main__ as main; resource.setrlimit(resource.RLIMIT_AS, (3 << 30,) * 2)"
    code, out, err = forked.run(
        [f"{program}; main.run()", *words],
        environment(RELAY_LEDGER=f"sqlite:///{terminal.ledger}"),
        60,
        terminal.home,
        program="-c",
    )
    assert code in (1, 2)
    assert "/dev/zero" in err + out and "Traceback" not in err, err


def test_a_secret_may_come_through_a_pipe(tmp_path: Path) -> None:
    """As with `<(pass show store)`: it has no size, and is read to its end."""
    asked: list[bytes] = []

    def source(talk: Talk) -> None:
        while head := talk.head():
            asked.append(head)
            talk.send(
                b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n",
                b"" if head.startswith(b"HEAD") else b"1",
            )

    with Peer([source] * 9) as peer:
        command = f'relay() {{ {sys.executable} -m relay "$@"; }}; relay migrate -q {peer.url("/a")} {tmp_path}/a'
        done = subprocess.run(
            ["bash", "-c", f"{command} --source-headers-file <(echo 'X-Key: planted')"],
            cwd=ROOT,
            env=environment(RELAY_LEDGER=f"sqlite:///{tmp_path}/l.db"),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert asked and all(b"X-Key: planted" in head for head in asked)


# -- nothing to print


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("status",), "no migrations in"),
        (("status", "--json"), "no migrations in"),
        (("ls", "empty/"), "/empty is empty"),
        (("ls", "-r", "--json", "empty/"), "/empty is empty"),
        (("report", "1"), "migration 1 has no objects so far"),
        (
            ("report", "1", "--state", "failed", "--state", "queued"),
            "no objects that are failed or queued",
        ),
        (("report", "1", "--format", "csv", "--state", "failed"), "no objects that are failed"),
    ],
)
def test_an_empty_listing_says_so_and_not_on_stdout(
    tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    (tmp_path / "empty").mkdir()
    terminal = Terminal(tmp_path)
    if words[0] == "report":
        assert terminal.run("migrate", "-r", f"{tmp_path}/empty", f"{tmp_path}/to", "-q")[0] == 0
    words = tuple(str(tmp_path / word) if word == "empty/" else word for word in words)
    code, out, err = terminal.run(*words)
    assert (code, out.count("\n")) == (0, 1 if "csv" in words else 0), out
    assert says in err


def test_a_server_without_migrations_says_so(tmp_path: Path) -> None:
    with run_server(SERVE) as empty:
        url = f"http://{empty.host}:{empty.port}"
        code, out, err = Terminal(tmp_path).run("status", RELAY_URL=url)
    assert (code, out) == (0, "") and f"no migrations in {url}" in err


# -- doctor


@pytest.mark.parametrize("place", ["nosuch/", "nosuch/below/", "nosuch"])
def test_doctor_makes_no_folder(tmp_path: Path, place: str) -> None:
    code, out, _ = Terminal(tmp_path).run("doctor", f"{tmp_path}/{place}", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert (code, [row["what"] for row in found]) == (1, ["folder", "delete"])
    assert "is not there" in found[0]["means"] or "No such file" in found[0]["means"]
    assert {path.name for path in tmp_path.iterdir()} <= {"ledger.db"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_doctor_removes_its_objects(tmp_path: Path, number: int) -> None:
    kept: dict[str, bytes] = {}
    begun, gate = threading.Event(), threading.Event()

    def shelf(talk: Talk) -> None:
        while head := talk.head():
            method, path = head.decode().split()[:2]
            if method == "PUT":
                kept[path] = b""
                talk.body(length_of(head))
                talk.send(REPLY % b"201 Created")
            elif method == "DELETE":
                talk.send(
                    REPLY
                    % (b"404 Not Found" if kept.pop(path, None) is None else b"204 No Content")
                )
            else:  # it never answers
                begun.set()
                gate.wait(20)
                return

    with Peer([shelf] * 50) as peer:
        process = Terminal(tmp_path).start("doctor", peer.url("/f/"))
        assert begun.wait(20) and kept
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        gate.set()
    assert process.returncode == 128 + number, err
    assert "removing the test objects" in err and "Traceback" not in out + err
    assert kept == {}
