"""`relay migrate` as its users run it: exit codes, stdout and stderr, Ctrl-C, and no
tracebacks."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relay.stores.rclone_conf import reveal
from tests import forked
from tests.faults.scripted_peers import (
    DATA,
    GET_HEAD,
    Cloud,
    destination_script,
    fixed_answer,
    source_script,
)
from tests.scripted import Peer, Script, Talk

ROOT = Path(__file__).resolve().parent.parent.parent
RELAY = (sys.executable, "-m", "relay")
SECRET = "planted-secret-0123456789"


def environment(**more: str) -> dict[str, str]:
    """Return our environment without RELAY_*; stdout and stderr are not a terminal."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith("RELAY_")
    } | more


def relay(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its output may not contain a traceback."""
    code, out, err = forked.run(arguments, environment(**more), 60)
    assert "Traceback" not in out + err, err
    return subprocess.CompletedProcess([*RELAY, *arguments], code, out, err)


def whole_source() -> Script:
    """A source of DATA."""
    return source_script(Cloud(), fixed_answer(GET_HEAD, DATA))


def stuck_source(begun: threading.Event) -> Script:
    """A source that sends half, and then nothing until the client ends the connection."""

    def get(talk: Talk, _: bytes) -> None:
        talk.send(GET_HEAD, DATA[: len(DATA) // 2])
        begun.set()
        talk.linger()

    return source_script(Cloud(), get)


# -- exit codes


def test_verified() -> None:
    """0, and a receipt on stdout."""
    kept = Cloud()
    with Peer(whole_source()) as source, Peer(destination_script(kept)) as destination:
        done = relay("migrate", source.url("/a.bin?sig=" + SECRET), destination.url("/in/"))
    assert done.returncode == 0, done.stderr
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert (rows["state"], rows["level"], rows["attempts"]) == ("verified", "read_back", "1")
    assert rows["bytes"].startswith(f"{len(DATA):,} ")
    assert len(rows["crc64nvme"]) == 16
    assert kept.objects == {b"/in/a.bin": DATA}
    assert SECRET not in done.stdout + done.stderr


def test_within_limits() -> None:
    """For one object too."""
    words = ("--bytes-per-second", "10M", "--connections", "1", "--quiet")
    with Peer(whole_source()) as source, Peer(destination_script(Cloud())) as destination:
        done = relay("migrate", source.url(), destination.url("/b"), *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_b78_a_proof_that_can_never_be_had_is_wrong_usage() -> None:
    """2, before anything is dialled, without the signature."""
    done = relay(
        "migrate", "/a", f"https://b.example/c?X-Amz-Signature={SECRET}", "--verify", "read_back"
    )
    assert done.returncode == 2
    assert "signed for the upload alone" in done.stderr and "--verify auto" in done.stderr
    assert SECRET not in done.stderr + done.stdout


def test_unverified() -> None:
    """3: an unverifiable object is not a success."""
    with Peer(whole_source()) as source, Peer(destination_script(Cloud())) as destination:
        done = relay("migrate", source.url(), destination.url("/b"), "--verify", "size", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


def test_skipped() -> None:
    """0: the skip was requested."""
    kept = Cloud(objects={b"/b": b"old"})
    with Peer(whole_source()) as source, Peer(destination_script(kept)) as destination:
        done = relay("migrate", source.url(), destination.url("/b"), "--if-exists", "skip")
    assert (done.returncode, done.stdout.split()[1]) == (0, "skipped")
    assert kept.objects == {b"/b": b"old"}


def test_failed() -> None:
    """1, the side, the fact and the hint on stderr; stdout stays empty."""
    with (
        Peer(whole_source()) as source,
        Peer(
            destination_script(Cloud(), b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
        ) as destination,
    ):
        done = relay("migrate", source.url(), destination.url("/b?sig=" + SECRET))
    assert (done.returncode, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("relay: destination: PUT http://127.0.0.1:")
    assert "413" in first
    assert second.startswith("hint: ")
    assert SECRET not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Usage:"),
        (("nonsense",), "nonsense"),
        (("migrate",), "SRC"),
        (("migrate", "https://a.example/x"), "DST"),
        (("migrate", "https://a.example/x", "https://b.example/x", "--nope"), "--nope"),
        (("migrate", "https://a.example/x", "https://b.example/x", "--verify", "md5"), "md5"),
        (("migrate", "https://a.example/x", "https://b.example/x", "--method", "GET"), "GET"),
        (
            ("migrate", "https://a.example/x", "https://b.example/x", "--connect-seconds", "0"),
            "connect_seconds",
        ),
        (
            (
                "migrate",
                "https://a.example/x",
                "https://b.example/x",
                "--ca-bundle",
                "/nonexistent",
            ),
            "/nonexistent",
        ),
        (("migrate", "ftp://a.example/x", "https://b.example/x"), "scheme"),
        (("migrate", f"https://u:{SECRET}@a.example/x", "https://b.example/x"), "password"),
        (("migrate", "https://a.example/x", "https://a.example/x"), "both source and destination"),
        (
            ("migrate", "https://a.example/x", "https://b.example/x", "--source-header", SECRET),
            "Name: value",
        ),
        (
            ("migrate", "https://a.example/x", "https://b.example/x", "--source-header", "Host: x"),
            "Host",
        ),
        (
            (
                "migrate",
                "https://a.example/x",
                "https://b.example/x",
                "--source-header",
                "A: @/nonexistent",
            ),
            "/nonexistent",
        ),
        (("serve", "--slots", "many"), "RELAY_SLOTS"),
        (("serve", "--config", "/nonexistent.toml"), "/nonexistent.toml"),
    ],
)
def test_usage(arguments: tuple[str, ...], message: str) -> None:
    """Exit code 2, before any connection; the mistake is named, and no secret repeated."""
    done = relay(*arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert message in done.stderr
    assert SECRET not in done.stderr


# -- headers


def _private(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_headers_from_files(tmp_path: Path) -> None:
    """B84: each side gets its own, and no warning is needed."""
    fetched, kept = Cloud(), Cloud()
    value = _private(tmp_path / "value", SECRET + "\n")
    lines = _private(
        tmp_path / "lines", f"# ours\nAuthorization: Bearer {SECRET}-2\n\nX-Other: 1\n"
    )
    with (
        Peer(source_script(fetched, fixed_answer(GET_HEAD, DATA))) as source,
        Peer(destination_script(kept)) as destination,
    ):
        done = relay(
            *("migrate", source.url(), destination.url("/b"), "--method", "POST"),
            *("--source-header", f"X-Api-Key: @{value}", "--destination-headers-file", lines),
        )
    # A POST without a place to read the object from cannot be verified: 3.
    assert (done.returncode, done.stderr) == (3, "")
    assert all(f"X-Api-Key: {SECRET}\r\n".encode() in head for head in fetched.heads)
    assert all(f"Authorization: Bearer {SECRET}-2\r\n".encode() in head for head in kept.heads)
    assert not any(SECRET.encode() + b"-2" in head for head in fetched.heads)
    assert b"POST" in kept.methods and b"PUT" not in kept.methods
    assert SECRET not in done.stdout


def test_a_secret_in_the_process_list_is_warned_of() -> None:
    """B84: it works, with a warning that does not repeat the secret."""
    with Peer(whole_source()) as source, Peer(destination_script(Cloud())) as destination:
        done = relay(
            "migrate",
            source.url(),
            destination.url("/b"),
            "--source-header",
            f"Authorization: Bearer {SECRET}",
        )
    assert done.returncode == 0
    assert "Authorization is visible in the process list" in done.stderr
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("A: 1\n", 0o644, "open to others"),
        (f"{SECRET}\n", 0o600, "lines:1"),
        ("A: 1\n\nnothing\n", 0o600, "lines:3"),
    ],
)
def test_bad_header_files(tmp_path: Path, text: str, mode: int, message: str) -> None:
    """B85: file and line, without the text of the line."""
    file = _private(tmp_path / "lines", text, mode)
    done = relay(
        "migrate", "https://a.example/x", "https://b.example/x", "--source-headers-file", file
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert SECRET not in done.stderr


# -- for programs


def test_json() -> None:
    """One JSON object on stdout and nothing else, in success and failure."""
    with Peer(whole_source()) as source, Peer(destination_script(Cloud())) as destination:
        good = relay("migrate", source.url(), destination.url("/b"), "--json")
        bad = relay(
            "migrate", source.url(), "http://127.0.0.1:1/b", "--json", "--retry-budget", "0"
        )
    assert (good.returncode, bad.returncode) == (0, 1)
    outcome, problem = json.loads(good.stdout), json.loads(bad.stdout)
    assert (outcome["state"], outcome["receipt"]["bytes"]) == ("verified", len(DATA))
    assert (problem["side"], problem["status"], problem["retryable"]) == ("destination", 502, True)
    assert good.stdout.count("\n") == bad.stdout.count("\n") == 1


def test_redirects_of_the_named_host_stay_checked() -> None:
    """The hosts on the command line are allowed; any other host must be public."""
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://10.1.2.3/x\r\nContent-Length: 0\r\n\r\n"
    with (
        Peer(source_script(Cloud(), fixed_answer(moved), moved)) as source,
        Peer(destination_script(Cloud())) as destination,
    ):
        done = relay("migrate", source.url(), destination.url("/b"), "--retry-budget", "0")
    assert done.returncode == 1
    assert "not allowed" in done.stderr


def test_a_hostile_store_does_not_write_to_the_terminal() -> None:
    """Escape sequences in a store's text are shown escaped."""
    hostile = b'HTTP/1.1 201 Created\r\nETag: "\x9b31m\xc2\x9b"\r\nContent-Length: 0\r\n\r\n'
    with Peer(whole_source()) as source, Peer(destination_script(Cloud(), hostile)) as destination:
        done = relay("migrate", source.url(), destination.url("/b"), "--verify", "size")
    assert not any(
        ord(char) in range(0x7F, 0xA0) or char == "\x1b" for char in done.stdout + done.stderr
    )


# -- Ctrl-C


def _interrupt(number: signal.Signals, times: int, *flags: str) -> tuple[int, str, str, Cloud]:
    """Send a signal (again) after half of the object; return the exit code, both outputs, and the
    destination's object."""
    begun, kept = threading.Event(), Cloud()
    with Peer(stuck_source(begun)) as source, Peer(destination_script(kept)) as destination:
        words = ("migrate", source.url(), destination.url("/b"), *flags)
        process = forked.start(words, environment())
        assert begun.wait(20)
        for _ in range(times):
            process.send_signal(number)
        stdout, stderr = process.communicate(timeout=10)
    assert "Traceback" not in stderr + stdout
    return process.returncode, stdout, stderr, kept


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(number: signal.Signals, code: int) -> None:
    """B87: it ends cleanly; the destination has nothing."""
    got, stdout, stderr, kept = _interrupt(number, 1)
    assert (got, stdout) == (code, "")
    assert "stopping" in stderr
    assert kept.objects == {}


def test_interrupted_twice() -> None:
    """B87: the second one ends at once."""
    assert _interrupt(signal.SIGINT, 5)[0] == 130


def test_an_ignored_interrupt_stays_ignored() -> None:
    """As in the background of a script, whose Ctrl-C is for the script alone."""
    begun = threading.Event()
    with Peer(stuck_source(begun)) as source, Peer(destination_script(Cloud())) as destination:
        old = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process = subprocess.Popen(
                [*RELAY, "migrate", source.url(), destination.url("/b")],
                cwd=ROOT,
                env=environment(),
                stderr=subprocess.PIPE,
                text=True,
            )
        finally:
            signal.signal(signal.SIGINT, old)
        assert begun.wait(20)
        process.send_signal(signal.SIGINT)
        assert not select.select([process.stderr], [], [], 2)[0], "it said that it stops"
        process.send_signal(signal.SIGTERM)
        stderr = process.communicate(timeout=10)[1]
    assert process.returncode == 143, stderr


def test_interrupted_with_json() -> None:
    """A program still gets its one JSON object."""
    code, stdout, _, _ = _interrupt(signal.SIGINT, 1, "--json")
    assert (code, json.loads(stdout)["type"].rpartition("/")[2]) == (130, "cancelled")


# -- terminals of all kinds


@pytest.mark.parametrize("flags", ["", "--json"])
def test_a_closed_stdout(flags: str) -> None:
    """B87: the exit code is the transfer's. (`test_every_command.py` has a full disk and a reader
    that is gone.)"""
    with Peer(whole_source()) as source, Peer(destination_script(Cloud())) as destination:
        text = f"{sys.executable} -m relay migrate '{source.url()}' '{destination.url('/b')}' --verify size {flags}"
        done = subprocess.run(
            ["bash", "-c", f"{text} >&-"],
            cwd=ROOT,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 3, done.stderr


@pytest.mark.parametrize(
    "more",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
    ],
)
def test_ascii_terminals(more: dict[str, str]) -> None:
    """B87: LANG=C; characters outside it are escaped."""
    with Peer(whole_source()) as source, Peer(destination_script(Cloud())) as destination:
        good = relay("migrate", source.url("/a?x=1"), destination.url("/b"), **more)
        bad = relay("migrate", "https://u:p@a.example/", destination.url("/b"), **more)
        helped = relay("migrate", "--help", **more)
    assert (good.returncode, bad.returncode, helped.returncode) == (0, 2, 0), (
        good.stderr + bad.stderr + helped.stderr
    )


def test_a_terminal_gets_a_bar() -> None:
    """With a TTY on stderr the bar is drawn, with the bytes; the receipt still goes to stdout."""
    begun = threading.Event()
    gate = threading.Event()

    def get(talk: Talk, _: bytes) -> None:
        half = len(DATA) // 2
        talk.send(GET_HEAD, DATA[:half])
        begun.set()
        gate.wait(20)
        talk.send(DATA[half:])

    with (
        Peer(source_script(Cloud(), get)) as source,
        Peer(destination_script(Cloud())) as destination,
    ):
        stdout, drawn, code = _on_a_terminal(
            [*RELAY, "migrate", source.url(), destination.url("/b")],
            lambda text: "150.0/300.0 kB" in text,
            gate,
        )
    assert code == 0
    assert "piping" in drawn
    assert "verified" in stdout


def _on_a_terminal(
    command: list[str], seen: Callable[[str], bool], gate: threading.Event
) -> tuple[str, str, int]:
    """Run with stderr on a terminal; open the gate once the drawn text is `seen`."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(TERM="xterm", COLUMNS="100"),
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    drawn = ""
    try:
        while piece := _read(ours):
            drawn += piece
            if seen(drawn):
                gate.set()
    finally:
        os.close(ours)
    stdout: Any = process.communicate(timeout=30)[0]
    return stdout, drawn, process.returncode


def _read(descriptor: int) -> str:
    try:
        return os.read(descriptor, 65536).decode(errors="replace")
    except OSError:  # EIO: the other end is closed
        return ""


LOADED = """
import sys
from relay.cli.__main__ import main
unwanted, *words = sys.argv[1:]
code = main(words)
print(code, *sorted(set(unwanted.split()) & set(sys.modules)), file=sys.stderr)
"""
TO_SERVE = "flask gunicorn requests"
FOR_STORES = "botocore OpenSSL relay.stores.s3.store relay.stores.webdav.store"
OF_SQLALCHEMY = "sqlalchemy asyncio"
UNWANTED = f"{TO_SERVE} {FOR_STORES} alembic"
"""Modules that take a hundredth of a second or more, and that a command with local files alone does
not need."""


def loaded_modules(unwanted: str, *words: str, **variables: str) -> tuple[str, list[str]]:
    """Run a command; return its output, and its exit code with the unwanted modules that it has
    loaded."""
    ran = subprocess.run(
        [sys.executable, "-c", LOADED, unwanted, *words],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ran.stdout, ran.stderr.splitlines()[-1].split()


def test_ls_of_a_folder_loads_only_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(DATA)
    rest = "awscrt relay.engine.transfer_engine relay.filters.filter_set"
    unwanted = f"{UNWANTED} {OF_SQLALCHEMY} {rest}"
    assert loaded_modules(unwanted, "ls", f"{tmp_path}/") == ("a\n", ["0"])


def test_migrate_of_a_file_loads_only_what_it_needs(tmp_path: Path) -> None:
    """Neither does a new ledger need Alembic."""
    (tmp_path / "a").write_bytes(DATA)
    words = "migrate", "-q", f"{tmp_path}/a", f"{tmp_path}/b"
    ledger = f"sqlite:///{tmp_path}/new.db"
    assert loaded_modules(UNWANTED, *words, RELAY_LEDGER=ledger) == ("", ["0"])
    assert (tmp_path / "b").read_bytes() == DATA


def test_the_help_names_each_command_in_one_line_and_loads_none() -> None:
    stdout, code = loaded_modules(f"{UNWANTED} {OF_SQLALCHEMY} awscrt tomllib", "--help")
    assert code == ["0"]
    lines = re.findall(r"^  ([a-z]+) +(\S.*)$", stdout, re.M)
    assert {"migrate", "status", "serve", "completion"} <= {name for name, _ in lines}
    assert all(text.endswith(".") and len(text) <= 64 for _, text in lines)


BASH = """
PATH="{bin}:$PATH"
eval "$(relay completion bash)"
COMP_WORDS=({words}) COMP_CWORD={last}
_relay_completion relay
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("relay mig", "migrate"),
        ("relay migrate --verif", "--verify"),
        ("relay report --format js", "jsonl"),
    ],
)
def test_bash_completes_commands_flags_and_values(words: str, found: str) -> None:
    script = BASH.format(bin=Path(sys.executable).parent, words=words, last=len(words.split()) - 1)
    ran = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.split() == [found], ran.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_completion_for_each_shell(shell: str) -> None:
    assert "_RELAY_COMPLETE" in relay("completion", shell).stdout


@pytest.mark.parametrize(
    ("typed", "code"), [("a b\r\nrest", 0), ("", 2), ("\n", 2), ("x" * 4097, 2), ("x" * 4096, 0)]
)
def test_obscure_reads_one_line(typed: str, code: int) -> None:
    done = subprocess.run(
        [*RELAY, "obscure"], input=typed, env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    if code == 0:
        assert reveal(done.stdout.strip()) == typed.splitlines()[0]
    else:
        assert "stdin must have a password" in done.stderr


def test_obscure_refuses_bytes_that_are_not_utf8() -> None:
    done = subprocess.run(
        [*RELAY, "obscure"], input=b"pa\xdfwort\n", env=environment(), capture_output=True
    )
    assert done.returncode == 2
    assert b"the password is not UTF-8" in done.stderr


def test_version_and_help() -> None:
    """They work without a network, a terminal or settings."""
    versions = relay("--version").stdout
    assert versions.startswith("relay, version ")
    assert all(
        name in versions for name in ("Python 3", "OpenSSL", "gevent", "requests", "gunicorn")
    )
    assert "130 interrupted" in relay("migrate", "-h").stdout
    shown = relay("serve", "--help").stdout
    assert "--egress-allow" in shown and "--graceful-timeout" in shown
