"""The errors of a terminal name the side, the mistake and the remedy, without a traceback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import forked
from tests.end_to_end.terminal import Terminal

NOWHERE = "http://127.0.0.1:1/x"


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    """Return a terminal with a file `one`, a migration 1 that failed, and one 2 that succeeded."""
    home = tmp_path_factory.mktemp("bad")
    (home / "one").write_text("one")
    (home / "folder").mkdir()
    made = Terminal(home)
    assert made.run("migrate", f"{home}/nosuch", f"{home}/to", "-q")[0] == 1
    assert made.run("migrate", f"{home}/one", f"{home}/two", "-q")[0] == 0
    return made


@pytest.mark.parametrize(
    ("words", "code", "says", "hints"),
    [
        # the side, for every mistake
        (("migrate", "", "{}/to"), 2, "source: it is empty", "a URL, or a path"),
        (("migrate", "{}/one", ""), 2, "destination: it is empty", "a URL, or a path"),
        (("migrate", "http://h:99999/a", "{}/to"), 2, "source: the port", "http://"),
        (
            ("migrate", "{}/one", "http://h/a b"),
            2,
            "destination: the URL has U+0020",
            "percent-encoded",
        ),
        (("plan", "{}/one", "ftp://h/a"), 2, "destination: the scheme 'ftp'", "https://"),
        (
            ("migrate", "nosuch:a", "{}/to"),
            2,
            "source: there is no remote 'nosuch'",
            "`relay remotes`",
        ),
        (
            ("migrate", "{}/one", "s3://b/x"),
            2,
            "destination: there are no credentials",
            "AWS_ACCESS_KEY_ID",
        ),
        (
            ("migrate", "http://u:p@h/a", "{}/to"),
            2,
            "source: the URL has a user name",
            "--source-headers-file",
        ),
        (
            ("migrate", "{}/one", "http://u:p@h/a"),
            2,
            "destination: the URL has",
            "--destination-headers-file",
        ),
        (
            ("plan", "http://u:p@h/a", "{}/to"),
            2,
            "source: the URL has a user name",
            "--source-headers-file",
        ),
        # headers
        (
            ("migrate", "{}/one", NOWHERE, "--destination-header", "Host: x"),
            2,
            "destination: 'Host' can't",
            "Leave",
        ),
        (
            ("migrate", NOWHERE, "{}/to", "--source-header", "nothing"),
            2,
            "--source-header: a header is",
            "Name: value",
        ),
        (
            ("plan", "{}/one", NOWHERE, "--destination-header", "x"),
            2,
            "--destination-header: a header is",
            "Name: ",
        ),
        (
            ("migrate", NOWHERE, "{}/to", "--source-header", "A b: x"),
            2,
            "source: the name of a header",
            "letters",
        ),
        (
            ("migrate", NOWHERE, "{}/to", "--source-header", "X: @{}/no"),
            2,
            "--source-header {}/no can't be",
            "Name a",
        ),
        (
            ("migrate", NOWHERE, "{}/to", "--source-headers-file", "{}/one"),
            2,
            "{}/one is open to others",
            "chmod 600",
        ),
        # settings
        (
            ("migrate", "{}/one", "{}/to", "--connect-seconds", "0"),
            2,
            "(--connect-seconds): it must be greater",
            "Corr",
        ),
        (
            ("migrate", "{}/one", "{}/to", "--stall-seconds", "9e9"),
            2,
            "(--stall-seconds): it must be at most",
            "Corr",
        ),
        # states
        (("pause", "1"), 1, "migration 1 can't be paused: its state is failed", "`relay retry`"),
        (
            ("resume", "2"),
            1,
            "migration 2 can't be resumed: its state is succeeded",
            "another migration",
        ),
        (
            ("cancel", "2"),
            1,
            "migration 2 can't be cancelled: its state is succeeded",
            "another migration",
        ),
        (
            ("limit", "1", "--slots", "2"),
            1,
            "migration 1 can't be limited: its state is failed",
            "`relay retry`",
        ),
        (("status", ""), 1, "there is no migration ''", "`relay status` lists"),
        (("report", "99"), 1, "there is no migration '99'", "`relay status` lists"),
        # -- state that exists already
        (
            ("migrate", "{}/folder", "{}/to"),
            1,
            "source: {}/folder: it is a folder",
            "move all of it (-r), or",
        ),
        (
            ("migrate", "{}/one", "{}/two", "--if-exists", "fail"),
            1,
            "destination: {}/two exists",
            "--if-exists overwrite",
        ),
    ],
)
def test_a_mistake_names_its_side_and_a_remedy(
    terminal: Terminal, words: tuple[str, ...], code: int, says: str, hints: str
) -> None:
    home = str(terminal.home)
    got, out, err = terminal.run(*(word.replace("{}", home) for word in words))
    assert (got, out) == (code, "")
    mistake, hint = err.splitlines()[-2:]
    assert mistake.startswith("relay: ") and says.replace("{}", home) in mistake, err
    assert hint.startswith("hint: ") and hints in hint, err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('slots = "x"\n', "slots (relay.toml:1): it is not a whole number"),
        ("\nslots = 0\n", "slots (relay.toml:2): it must be at least 1"),
        ("nosuch = 1\n", "nosuch (relay.toml:1): there is no such setting"),
        ("connect_seconds = 'soon'\n", "connect_seconds (relay.toml:1): it is not a number"),
        ('[remotes.a]\nfoo = "1"\n', "has no type"),
    ],
)
def test_a_wrong_setting_is_reported_in_plain_words(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "relay.toml").write_text(text)
    code, out, err = Terminal(tmp_path).run("ls", "a:x", RELAY_CONFIG=str(tmp_path / "relay.toml"))
    assert (code, out) == (2, "")
    assert says.replace("relay.toml", f"{tmp_path}/relay.toml") in err, err


@pytest.mark.parametrize("place", ["{}/one", NOWHERE])
def test_doctor_leaves_nothing_where_nothing_could_be_written(
    terminal: Terminal, place: str
) -> None:
    code, out, _ = terminal.run("doctor", place.replace("{}", str(terminal.home)))
    assert code == 1
    assert "all scratch objects are removed" in out and "not removed" not in out


SIGNED = "https://bucket.example/a?X-Amz-Signature=SECRET"


@pytest.mark.parametrize(
    "words",
    [
        ("migrate", SIGNED, "there", SIGNED),
        ("migrate", SIGNED, "there", "--source-header", "Authorization:", "Bearer", "SECRET"),
        (SIGNED, "there"),
        ("status", SIGNED),
    ],
)
def test_a_mistyped_command_repeats_no_secret(terminal: Terminal, words: tuple[str, ...]) -> None:
    """The mails of cron and the logs of a build are read by others."""
    code, out, err = terminal.run(*words)
    assert (code in (1, 2), out) == (True, "")
    assert err and "SECRET" not in err


@pytest.mark.parametrize(
    "name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
)
@pytest.mark.parametrize("end", ["\n", "\r"])
@pytest.mark.parametrize("command", ["ls", "migrate"])
def test_credentials_with_the_end_of_a_line(
    terminal: Terminal, command: str, name: str, end: str
) -> None:
    """Like a secret of Kubernetes that was made with echo, or a settings file from Windows."""
    keys = {
        "AWS_ACCESS_KEY_ID": "KEY",
        "AWS_SECRET_ACCESS_KEY": "SECRET",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
    }
    there = ("s3://bucket/a",) if command == "ls" else (f"{terminal.home}/one", "s3://bucket/a")
    code, _, err = terminal.run(command, *there, **{**keys, name: f"SECRET{end}"})
    assert (code, "has an invalid character in it" in err, "SECRET" in err) == (
        2,
        True,
        False,
    ), err


WITHOUT_FOLDER = """
import os
import sys
from relay.cli.__main__ import main
os.rmdir(os.getcwd())
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("words", ["migrate a /tmp/b", "plan -r a /tmp/b", "ls .", "doctor ./a"])
def test_a_removed_current_folder_is_named(terminal: Terminal, words: str) -> None:
    (terminal.home / "gone").mkdir()
    program = [WITHOUT_FOLDER, *words.split()]
    found = forked.run(program, os.environ, 100, cwd=terminal.home / "gone", program="-c")
    assert found[:2] == (2, "")
    assert found[2].startswith("relay: the current folder was removed")


BUGGY = """
import sys
from relay.cli.__main__ import main
from relay.cli.remotes import remotes
def fail(**_):
    raise {error}
remotes.callback = fail
sys.exit(main(["remotes"]))
"""


@pytest.mark.parametrize(
    "error", ["ValueError('SECRET')", "OSError(9, 'SECRET')", "RecursionError('SECRET')"]
)
def test_a_bug_is_reported_in_a_line(terminal: Terminal, error: str) -> None:
    """The last line of a traceback is the text of an exception, which may hold a URL."""
    code, out, err = forked.run([BUGGY.format(error=error)], os.environ, 100, program="-c")
    assert (code, out) == (1, "")
    assert error.partition("(")[0] in err
    assert "SECRET" not in err and "Traceback" not in err
