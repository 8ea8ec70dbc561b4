"""Unusual terminals: closed, full, without a locale; and wrong settings, named by file and line."""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from relay import config
from relay.errors import ConfigError
from relay.settings_sources import load_settings
from relay.stores import rclone_conf
from tests import forked
from tests.end_to_end.terminal import Terminal
from tests.end_to_end.test_cli import environment
from tests.scripted import Peer, Talk, answer

NAMES = ["ü", "🦜", "plain"]
PLAIN_C = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A locale of ASCII, with Python's own fallback disabled."""


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    (tmp_path / "from").mkdir()
    for name in NAMES:
        (tmp_path / "from" / name).write_text(name)
    return Terminal(tmp_path)


PRINTING = (("ls", "from/"), ("status",), ("report", "1"), ("migrate", "-r", "from/", "to/"))


@pytest.mark.parametrize(
    ("words", "stdout"),
    [
        *((words, ">&-") for words in PRINTING),
        *((PRINTING[-1], stdout) for stdout in ("> /dev/full", "| true")),
    ],
)
def test_b87_a_closed_output_pipe(terminal: Terminal, words: tuple[str, ...], stdout: str) -> None:
    """As a shell makes it; `test_every_command.py` has the last two for every command."""
    assert (
        terminal.run("migrate", "-r", f"{terminal.home}/from", f"{terminal.home}/to", "-q")[0] == 0
    )
    command = " ".join([sys.executable, "-m", "relay", *words])
    environment = {
        **os.environ,
        "RELAY_LEDGER": f"sqlite:///{terminal.ledger}",
        "PYTHONPATH": os.getcwd(),
    }
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} {stdout}"],
        cwd=terminal.home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # Output that a full disk refuses is a failure; the objects were still moved, and the hint says
    # so.
    code = 1 if stdout == "> /dev/full" else 0
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert ("No space left" in done.stderr) == bool(code)


def test_an_abandoned_listing_ends(terminal: Terminal) -> None:
    """As in front of `| head`: this one has no end of its own."""
    program = """
from itertools import count
from relay.cli.__main__ import run
from relay.stores.interfaces import Entry
from relay.stores.local import LocalStore
LocalStore.list = lambda *_: (Entry(str(number)) for number in count())
run()
"""
    command = f"{sys.executable} -c '{program}' ls -r from/ | head -1"
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=terminal.home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_ls_names_unmovable_entries_and_unlisted_folders(
    terminal: Terminal,
) -> None:
    here = terminal.home / "from"
    os.mkfifo(here / "pipe")
    (here / "link").symlink_to(".")
    code, out, err = terminal.run("ls", "-r", f"{here}")
    assert (code, sorted(out.split())) == (0, sorted([*NAMES, "pipe", "link"]))
    assert "link: " in err and "pipe: " in err
    rows = [
        json.loads(line) for line in terminal.run("ls", "-r", "--json", f"{here}")[1].splitlines()
    ]
    assert {row["name"] for row in rows if "error" in row} == {"pipe", "link"}
    program = """
import os
from relay.cli.__main__ import run
from relay.stores import local_files
listed = os.listdir
def listdir(folder):
    if isinstance(folder, int) and os.readlink(f"/proc/self/fd/{folder}").endswith("closed"):
        raise PermissionError(13, "Permission denied")
    return listed(folder)
os.listdir = listdir
run()
"""
    (here / "closed").mkdir()
    words = [program, "ls", "-r", str(here)]
    code, out, err = forked.run(words, environment(), 60, program="-c")
    assert (code, "closed/: " in err, "plain" in out.split()) == (1, True, True), err


@pytest.mark.parametrize("name", ["caf\udce9", "a\udc80b"])
def test_a_path_that_is_not_utf_8_is_a_path(terminal: Terminal, name: str) -> None:
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    (terminal.home / name).mkdir()
    (terminal.home / name / "a").write_text("a")
    code, _, err = terminal.run(
        "migrate", f"{terminal.home}/{name}/a", f"{terminal.home}/to-{name}"
    )
    assert code == 0, err
    assert (terminal.home / f"to-{name}").read_text() == "a"
    assert (
        terminal.run("migrate", "-r", f"{terminal.home}/{name}", f"{terminal.home}/tree-{name}")[0]
        == 0
    )
    assert (terminal.home / f"tree-{name}" / "a").read_text() == "a"
    assert shown in terminal.run("status")[1]
    assert terminal.run("ls", f"{terminal.home}/{name}")[1] == "a\n"
    assert f"{shown}/\n" in terminal.run("ls", f"{terminal.home}")[1]


@pytest.mark.parametrize("setting", ["RELAY_LEDGER", "HOME"])
def test_a_ledger_path_that_is_not_utf_8_is_a_wrong_setting(
    terminal: Terminal, setting: str
) -> None:
    place = f"{terminal.home}/\udce9"
    text = f"sqlite:///{place}.db" if setting == "RELAY_LEDGER" else place
    code, _, err = terminal.run(
        "status", **{"RELAY_LEDGER": "", "XDG_DATA_HOME": "", setting: text}
    )
    assert code == 2 and "RELAY_LEDGER" in err


@pytest.mark.parametrize(
    ("setting", "text"), [("HOME", ""), ("HOME", "."), ("XDG_DATA_HOME", "data")]
)
def test_the_ledgers_path_never_depends_on_the_working_folder(
    terminal: Terminal, setting: str, text: str
) -> None:
    """It would be another ledger in each folder. The user database gives the home then."""
    program = "import os, sys; from relay.config import Settings; os.chdir(sys.argv[1]); print(Settings().ledger_url())"
    clean = {
        name: value for name, value in os.environ.items() if name not in ("XDG_DATA_HOME", "HOME")
    }
    known = pwd.getpwuid(os.getuid()).pw_dir
    done = subprocess.run(
        [sys.executable, "-c", program, str(terminal.home)],
        env=clean | {"HOME": "/homes/one", setting: text},
        capture_output=True,
        text=True,
        check=True,
    )
    there = "/homes/one" if setting == "XDG_DATA_HOME" else known
    assert done.stdout == f"sqlite:///{there}/.local/share/relay/ledger.db\n"


def test_an_unknown_user_must_name_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: int) -> Any:
        raise KeyError("uid not found")

    monkeypatch.setattr(config, "getpwuid", unknown)
    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    with pytest.raises(ConfigError, match="HOME"):
        config.Settings().ledger_url()
    assert config.Settings(ledger="sqlite:////x.db").ledger_url() == "sqlite:////x.db"
    assert rclone_conf.find_config({}, config.home()) is None


HOSTILE = [
    "a[/b]",
    "[red]x[/red]",
    "[link=https://evil.example]y",
    ":smile:",
    "esc\x1b]0;owned\x07",
    "c1\x9b31m",
    "two\nlines",
    "wide" + "\u5bbd" * 60,
    "l" * 250,
    "\u202ebidi",
    "-rf",
    "%s{}",
    "~",
    "caf\udce9",
]
"""Names that a terminal, or a program that draws in it, might interpret."""


@pytest.fixture
def hostile_terminal(tmp_path: Path) -> Terminal:
    for name in HOSTILE:
        path = tmp_path / "from" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return Terminal(tmp_path)


@pytest.mark.parametrize(
    ("columns", "more"),
    [(40, {"NO_COLOR": "1"}), (100, {**PLAIN_C, "TERM": "dumb"})],
    ids=["narrow", "dumb"],
)
def test_no_name_acts_on_a_terminal(
    hostile_terminal: Terminal, columns: int, more: dict[str, str]
) -> None:
    here = f"{hostile_terminal.home}/from"
    printed = {
        words: hostile_terminal.run_on_tty(*words, columns=columns, **more)
        for words in [
            ("migrate", "-r", here, f"{hostile_terminal.home}/to"),
            ("migrate", f"{here}/a[/b]", f"{hostile_terminal.home}/to/"),
            ("migrate", f"{here}/esc\x1b]0;owned\x07", f"{hostile_terminal.home}/to/"),
            ("ls", "-r", "-l", here),
            ("ls", "--json", here),
            ("plan", "-r", here, f"{hostile_terminal.home}/new"),
            ("status",),
            ("status", "1"),
            ("watch", "1"),
            *(("report", "1", "--format", form) for form in ("table", "jsonl", "csv", "html")),
            ("report", "\x1b]0;owned\x07"),
            ("cancel", "\x1b]0;owned\x07"),
            ("migrate", "-r", here, "\x1b]0;owned\x07", "\x1b]0;owned\x07"),
            ("ls", "nowhere:\x1b]0;owned\x07"),
            ("\x1b]0;owned\x07",),
        ]
    }
    for words, (code, text) in printed.items():
        assert code in (0, 1, 2), (words, text)
        assert "\x1b]0;owned" not in text and "\x9b31m" not in text and "\u202e" not in text, (
            words,
            text,
        )
    moved = printed["migrate", "-r", here, f"{hostile_terminal.home}/to"]
    assert moved[0] == 1
    assert "9 verified" in moved[1] and "5 failed" in moved[1]
    listed = printed["ls", "-r", "-l", here][1].splitlines()
    assert len(listed) == len(HOSTILE)
    assert any(line.endswith("[red]x[/red]") for line in listed) and any(
        line.endswith(":smile:") for line in listed
    )


@pytest.mark.parametrize("columns", [40, 80, 100])
def test_active_objects_fit_a_narrow_terminal(tmp_path: Path, columns: int) -> None:
    (tmp_path / "from").mkdir()
    for name in ("a[/b]:smile:".replace("/", ""), "b" * 200):
        (tmp_path / "from" / name).write_bytes(bytes(700_000))
    os.mkfifo(tmp_path / "from" / "pipe")
    terminal = Terminal(tmp_path)
    words = ("migrate", "-r", "--bytes-per-second", "1M", f"{tmp_path}/from", f"{tmp_path}/to")
    code, text = terminal.run_on_tty(*words, columns=columns)
    drawn = re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", text.partition("migration ")[0])
    assert code == 1
    assert "a[b]:smile:" in drawn
    assert "1 failed" in " ".join(drawn.split())
    assert all(len(line) <= columns for line in drawn.replace("\r", "\n").split("\n"))
    assert "━" in drawn


def test_b87_names_are_the_same_in_every_locale(terminal: Terminal) -> None:
    """They are UTF-8 on the disk, in any locale of the terminal."""
    code, out, _ = terminal.run("ls", f"{terminal.home}/from/", **PLAIN_C)
    assert (code, sorted(out.split())) == (0, ["\\U0001f99c", "\\xfc", "plain"])
    code, out, err = terminal.run(
        "migrate", "-r", f"{terminal.home}/from", f"{terminal.home}/to", **PLAIN_C
    )
    assert code == 0, out + err
    assert {path.name: path.read_text() for path in (terminal.home / "to").iterdir()} == {
        name: name for name in NAMES
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slots = 3\nslotz = 4\n", ":2"),
        ("\nslots = 0\n", ":2"),
        ("slots = \n", "line 1, column 9"),
        ("[remotes.a]\ntype = 3\n", ":1"),
        ("slots = 3\n[slotz]\n", ":2"),
    ],
)
def test_b85_a_wrong_setting_is_named_by_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    (tmp_path / "mine.toml").write_text(text)
    monkeypatch.setenv("RELAY_CONFIG", f"{tmp_path}/mine.toml")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert "mine.toml" in caught.value.message
    assert message in caught.value.message


def test_b85_a_wrong_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text("slots = 3\n")
    monkeypatch.setenv("RELAY_CONFIG", f"{tmp_path}/mine.toml")
    monkeypatch.setenv("RELAY_SLOTS", "0")
    with pytest.raises(ConfigError, match="RELAY_SLOTS"):
        load_settings()


@pytest.mark.parametrize("what", ["a folder", "nothing"])
def test_b85_a_settings_path_that_is_not_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv(
        "RELAY_CONFIG", str(tmp_path if what == "a folder" else tmp_path / "none.toml")
    )
    with pytest.raises(ConfigError, match="RELAY_CONFIG"):
        load_settings()


def test_b86_a_ledger_of_a_newer_relay_is_left_alone(terminal: Terminal) -> None:
    words = ("migrate", "-r", f"{terminal.home}/from", f"{terminal.home}/to")
    assert terminal.run(*words)[0] == 0
    with closing(sqlite3.connect(terminal.ledger)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for command in (words, ("status",)):
        code, _, err = terminal.run(*command)
        assert code == 2
        assert "newer relay" in err and str(terminal.ledger) in err
    assert terminal.query("SELECT version_num FROM alembic_version") == "9999"


@pytest.mark.parametrize("columns", [40, 100])
def test_a_terminal_shows_each_retry_with_its_reason(tmp_path: Path, columns: int) -> None:
    """Also if the reason is longer than a line, and the name would be markup."""

    busy = answer(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", keep=True)
    terminal = Terminal(tmp_path, RELAY_EGRESS_ALLOW="127.0.0.1", RELAY_RETRY_BUDGET="9")
    with Peer([busy] * 80) as peer:
        (tmp_path / "list.csv").write_text(f"url,name\n{peer.url('/one')},a[/b]\n")
        words = ("migrate", "-r", f"list+{tmp_path}/list.csv", f"{tmp_path}/to")
        code, text = terminal.run_on_tty(*words, columns=columns)
    drawn = re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", text.partition("migration ")[0])
    assert code == 1
    assert re.search(r"a\[/b\] is retried (now|in \d+ s): source: .* 503", " ".join(drawn.split()))
    assert all(len(line) <= columns for line in drawn.replace("\r", "\n").split("\n"))


CTRL_C = b"\x03"


@pytest.mark.parametrize("tree", [False, True], ids=["one object", "a tree"])
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_leaves_a_terminal_as_it_was(tmp_path: Path, tree: bool, times: int) -> None:
    """The cursor comes back too, even if a second Ctrl-C ends the command at once; and a stopped
    object is not retried."""

    def slow(talk: Talk) -> None:
        while head := talk.head():
            talk.send(b'HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\nETag: "1"\r\n\r\n')
            if not head.startswith(b"HEAD"):
                talk.send(bytes(1_000_000))
                talk.linger()

    terminal = Terminal(tmp_path, RELAY_EGRESS_ALLOW="127.0.0.1")
    with Peer([slow] * 9) as peer:
        (tmp_path / "list.csv").write_text(f"url,name\n{peer.url('/one')},one\n")
        words = ("-r", f"list+{tmp_path}/list.csv") if tree else (peer.url("/one"),)
        typed = [
            ("1.0 MB" if tree else "1.0/9.0 MB", CTRL_C),
            ("again to stop at once", CTRL_C),
        ][:times]
        code, text = terminal.run_on_tty("migrate", *words, f"{tmp_path}/to", typed=typed)
    assert code == 130, text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l"), text
    assert "is retried" not in text and '"event"' not in text


def test_ctrl_c_during_a_listing_prints_nothing_of_python(tmp_path: Path) -> None:
    def stay_silent(talk: Talk) -> None:
        talk.head()
        asked.set()
        talk.linger()

    asked = threading.Event()
    terminal = Terminal(tmp_path)
    with Peer(stay_silent) as peer:
        process = terminal.start("ls", peer.url("/f/"))
        assert asked.wait(20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err.strip()) == (130, "", "")


@pytest.mark.parametrize("words", [("ls",), ("plan", "-r")], ids=" ".join)
def test_a_wait_for_a_store_is_reported(tmp_path: Path, words: tuple[str, ...]) -> None:
    """The command prints nothing before the store has answered, for the whole retry budget."""
    page = b"<html><title>Index of /f/</title><a href='one'>one</a></html>"

    def folder(talk: Talk) -> None:
        while head := talk.head():
            if len(asked) < 2 and head.startswith(b"GET /f/ "):
                asked.append(head)
                talk.send(b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")
            else:
                talk.send(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n"
                    % len(page)
                )
                talk.send(b"" if head.startswith(b"HEAD") else page)

    asked: list[bytes] = []
    terminal = Terminal(tmp_path, RELAY_RETRY_BUDGET="60")
    with Peer([folder] * 20) as peer:
        code, out, err = terminal.run(
            *words, peer.url("/f/"), *([f"{tmp_path}/to"] if "plan" in words else [])
        )
    assert code == 0 and ("one" in out or "objects      1," in out), out + err
    lines = err.splitlines()
    assert len(lines) == len(asked) == 2, err
    assert all(
        re.fullmatch(r"relay: the listing is retried (now|in \d+ s): source: .*503.*", line)
        for line in lines
    )


@pytest.mark.parametrize(
    ("source", "flags"), [("from", ()), ("from/plain", ("-r",))], ids=["a folder", "a file"]
)
def test_a_folder_in_the_place_of_a_file_names_the_flag(
    terminal: Terminal, source: str, flags: tuple[str, ...]
) -> None:
    code, out, err = terminal.run(
        "migrate", *flags, f"{terminal.home}/{source}", f"{terminal.home}/to"
    )
    assert code == 1
    assert re.search("hint.*-r", out + err), out + err
