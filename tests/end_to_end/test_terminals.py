"""What a terminal may be like: closed, full, without a locale; and settings that are wrong, by their file and line."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from relay.config import load_settings
from relay.errors import ConfigError
from tests.end_to_end.terminal import Terminal

NAMES = ["ü", "🦜", "plain"]
PLAIN_C = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A locale of ASCII, with Python's own way out of it closed."""


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    (tmp_path / "from").mkdir()
    for name in NAMES:
        (tmp_path / "from" / name).write_text(name)
    return Terminal(tmp_path)


@pytest.mark.parametrize("words", [("ls", "from/"), ("status",), ("report", "1"), ("migrate", "-r", "from/", "to/")])
@pytest.mark.parametrize("stdout", [">&-", "> /dev/full", "| true"])
def test_b87_nobody_reads_what_is_printed(terminal: Terminal, words: tuple[str, ...], stdout: str) -> None:
    assert terminal.run("migrate", "-r", f"{terminal.home}/from", f"{terminal.home}/to", "-q")[0] == 0
    command = " ".join([sys.executable, "-m", "relay", *words])
    environment = {**os.environ, "RELAY_LEDGER": f"sqlite:///{terminal.ledger}", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} {stdout}"],
        cwd=terminal.home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


def test_b87_names_are_what_they_are_in_every_locale(terminal: Terminal) -> None:
    """They are UTF-8 on the disk, whatever the terminal can print."""
    code, out, _ = terminal.run("ls", f"{terminal.home}/from/", **PLAIN_C)
    assert (code, sorted(out.split())) == (0, ["\\U0001f99c", "\\xfc", "plain"])
    code, out, said = terminal.run("migrate", "-r", f"{terminal.home}/from", f"{terminal.home}/to", **PLAIN_C)
    assert code == 0, out + said
    assert {path.name: path.read_text() for path in (terminal.home / "to").iterdir()} == {name: name for name in NAMES}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("slots = 3\nslotz = 4\n", ":2"),
        ("\nslots = 0\n", ":2"),
        ("slots = \n", "line 1, column 9"),
        ("[remotes.a]\ntype = 3\n", ":1"),
        ("slots = 3\n[slotz]\n", ":2"),
    ],
)
def test_b85_a_setting_that_is_wrong_is_told_by_its_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    (tmp_path / "mine.toml").write_text(text)
    monkeypatch.setenv("RELAY_CONFIG", f"{tmp_path}/mine.toml")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert "mine.toml" in caught.value.message
    assert told in caught.value.message


def test_b85_a_setting_that_is_wrong_in_the_environment_is_told_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text("slots = 3\n")
    monkeypatch.setenv("RELAY_CONFIG", f"{tmp_path}/mine.toml")
    monkeypatch.setenv("RELAY_SLOTS", "0")
    with pytest.raises(ConfigError, match="RELAY_SLOTS"):
        load_settings()


@pytest.mark.parametrize("what", ["a folder", "nothing"])
def test_b85_settings_that_are_no_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setenv("RELAY_CONFIG", str(tmp_path if what == "a folder" else tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="RELAY_CONFIG"):
        load_settings()


def test_b86_a_ledger_of_a_newer_relay_is_left_alone(terminal: Terminal) -> None:
    words = ("migrate", "-r", f"{terminal.home}/from", f"{terminal.home}/to")
    assert terminal.run(*words)[0] == 0
    with closing(sqlite3.connect(terminal.ledger)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for command in (words, ("status",)):
        code, _, said = terminal.run(*command)
        assert code == 2
        assert "newer relay" in said and str(terminal.ledger) in said
    assert terminal.query("SELECT version_num FROM alembic_version") == "9999"
