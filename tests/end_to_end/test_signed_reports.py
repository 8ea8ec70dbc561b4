"""Signed reports as their users make and check them: by commands, and by OpenSSH's own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.terminal import ROOT, Terminal
from tests.end_to_end.test_cli import environment
from tests.postgres import Postgres, postgresql, programs

FILES = ["objects.jsonl", "objects.jsonl.sig", "report.json", "report.json.sig"]
NAMESPACE = "relay-report@1"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """Return a server that the tests share."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgresql() as server:
        yield server


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.campaign)]
)
def terminal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    """Return a terminal with a key, and a ledger whose migration 1 has succeeded and whose
    migration 2 has failed in part."""
    tmp_path = tmp_path_factory.mktemp("used")
    settings = {"XDG_DATA_HOME": str(tmp_path / "data")}
    if request.param == "postgresql":
        settings["RELAY_LEDGER"] = request.getfixturevalue("postgres").database()
    made = Terminal(tmp_path, **settings)
    (tmp_path / "from").mkdir()
    for name in ("one", "two", "b é", "Z"):
        (tmp_path / "from" / name).write_text(name)
    assert made.run("keys", "new", "--name", "relay@example")[0] == 0
    words = ("migrate", "-r", f"{tmp_path}/from")
    assert made.run(*words, f"{tmp_path}/to", "-q")[0] == 0
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "one").mkdir()  # where an object would be
    assert made.run(*words, f"{tmp_path}/part", "-q", "--verify", "size")[0] == 1
    return made


@pytest.fixture
def signers(terminal: Terminal) -> Path:
    """Return a file of allowed signers with the key of the terminal."""
    code, out, _ = terminal.run("keys", "show", "--name", "relay@example")
    assert code == 0
    path = terminal.home / "allowed"
    path.write_text(out)
    return path


def ssh_verify(folder: Path, name: str, signers: Path, who: str = "relay@example") -> bool:
    """Return whether OpenSSH accepts the signature of a file."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed (Debian: openssh-client)")
    words = ["ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", who, "-n", NAMESPACE]
    done = subprocess.run(
        [*words, "-s", str(folder / f"{name}.sig")],
        input=(folder / name).read_bytes(),
        capture_output=True,
        timeout=30,
        check=False,
    )
    return done.returncode == 0


def test_a_report_is_written_and_checked(terminal: Terminal, signers: Path, tmp_path: Path) -> None:
    folder = tmp_path / "signed"
    code, out, err = terminal.run("report", "1", "--sign", "--output", str(folder))
    assert (code, err) == (0, ""), err
    assert "verified     4 objects" in out
    assert sorted(path.name for path in folder.iterdir()) == FILES
    words = ("check-report", "--allowed-signers", str(signers))
    for place in (folder, folder / "report.json"):
        code, out, err = terminal.run(*words, str(place))
        assert (code, err) == (0, ""), err
        assert "signed by    relay@example (SHA256:" in out and "migration    1 succeeded" in out
    report = json.loads((folder / "report.json").read_bytes())
    objects = (folder / "objects.jsonl").read_bytes()
    assert hashlib.sha256(objects).hexdigest() == report["objects"]["sha256"]
    names = [json.loads(line)["name"] for line in objects.splitlines()]
    assert names == sorted(names, key=str.encode) == ["Z", "b é", "one", "two"]
    digest = hashlib.sha256((folder / "report.json").read_bytes()).hexdigest()
    assert f"sha256       {digest}" in out
    again = terminal.run("report", "1", "--sign", "--output", f"{folder}-2")
    assert again[0] == 0 and f"previous     {digest}" in again[1]


def test_what_is_not_proved_is_in_the_report(
    terminal: Terminal, signers: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "signed"
    assert terminal.run("report", "2", "--sign", "--output", str(folder))[0] == 0
    lines = [json.loads(line) for line in (folder / "objects.jsonl").read_text().splitlines()]
    ends = {line["name"]: (line["state"], line.get("level")) for line in lines}
    assert ends["one"] == ("failed", None) and ends["two"] == ("unverified", "size")
    words = ("check-report", "--allowed-signers", str(signers), str(folder))
    code, out, err = terminal.run(*words)
    assert (code, err) == (3, "") and "failed       1 object" in out, out


def test_openssh_accepts_a_report_and_no_changed_one(
    terminal: Terminal, signers: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "signed"
    assert terminal.run("report", "1", "--sign", "--output", str(folder))[0] == 0
    for name in ("report.json", "objects.jsonl"):
        assert ssh_verify(folder, name, signers)
        assert not ssh_verify(folder, name, signers, "another@example")
        for path in (folder / name, folder / f"{name}.sig"):
            good = path.read_bytes()
            for bit in (8 * 60, len(good) * 4 + 2):
                flipped = bytearray(good)
                flipped[bit // 8] ^= 1 << bit % 8
                path.write_bytes(flipped)
                assert not ssh_verify(folder, name, signers), (path, bit)
            path.write_bytes(good)
        assert ssh_verify(folder, name, signers)
    words = ["sha256sum", "--check", "--status"]
    digest = json.loads((folder / "report.json").read_bytes())["objects"]["sha256"]
    done = subprocess.run(
        words, cwd=folder, input=f"{digest}  objects.jsonl\n", text=True, check=False
    )
    assert done.returncode == 0


def test_openssh_signs_with_the_key_of_relay(tmp_path: Path) -> None:
    """And a second person countersigns with a key of their own, which relay accepts too."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed (Debian: openssh-client)")
    terminal = Terminal(tmp_path, XDG_DATA_HOME=str(tmp_path))
    (tmp_path / "one").write_text("one")
    assert terminal.run("keys", "new")[0] == 0
    assert terminal.run("migrate", f"{tmp_path}/one", f"{tmp_path}/to", "-q")[0] == 0
    folder, other = tmp_path / "signed", tmp_path / "second"
    assert terminal.run("report", "1", "--sign", "--output", str(folder))[0] == 0
    keygen = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other))
    subprocess.run(keygen, check=True, timeout=30)
    mine = (folder / "report.json.sig").read_bytes()
    for key in (tmp_path / "relay/report-key", other):
        for name in ("report.json", "objects.jsonl"):
            (folder / f"{name}.sig").unlink()
            words = ("ssh-keygen", "-q", "-Y", "sign", "-n", NAMESPACE, "-f", str(key))
            subprocess.run([*words, str(folder / name)], check=True, timeout=30)
        is_ours = key != other
        assert ((folder / "report.json.sig").read_bytes() == mine) == is_ours
    (tmp_path / "allowed").write_text(f"second@example {other.with_suffix('.pub').read_text()}")
    words = ("check-report", str(folder), "--allowed-signers", f"{tmp_path}/allowed")
    code, out, _ = terminal.run(*words)
    assert code == 0 and "second@example" in out


@pytest.fixture
def plain_terminal(tmp_path: Path) -> Terminal:
    """Return a terminal without a key, whose migration 1 has succeeded."""
    made = Terminal(tmp_path, XDG_DATA_HOME=str(tmp_path / "data"))
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "one").write_text("one")
    assert made.run("migrate", "-r", f"{tmp_path}/from", f"{tmp_path}/to", "-q")[0] == 0
    return made


def test_mistakes_are_one_clear_line(plain_terminal: Terminal) -> None:
    """And nothing is written."""
    home, key = plain_terminal.home, plain_terminal.home / "data/relay/report-key"
    before = sorted(home.iterdir())

    def expect_refusal(code: int, says: str, *words: str, **more: str) -> None:
        got, out, err = plain_terminal.run(*words, **more)
        assert (got, out) == (code, ""), err
        assert says in err, err

    sign = ("report", "1", "--sign", "--output", f"{home}/signed")
    expect_refusal(2, "report-key does not exist", *sign)
    expect_refusal(2, "report-key does not exist", "keys", "show")
    expect_refusal(2, "leave out --state and --format", *sign, "--format", "csv")
    expect_refusal(2, "leave out --state and --format", *sign, "--state", "failed")
    expect_refusal(2, "needs --sign", "report", "1", "--output", "x")
    expect_refusal(2, "without --url", *sign, "--url", "http://127.0.0.1:9")
    expect_refusal(2, "without --url", *sign, RELAY_URL="http://127.0.0.1:9")
    expect_refusal(2, "--output is a folder", *sign[:-1], "-")
    expect_refusal(2, "--name is not", "keys", "new", "--name", "a b")
    assert sorted(home.iterdir()) == before
    assert plain_terminal.run("keys", "new")[0] == 0
    expect_refusal(2, "exists already", "keys", "new")
    expect_refusal(1, "there is no migration", "report", "77", "--sign")
    key.chmod(0o644)
    expect_refusal(2, "is open to others", *sign)
    key.chmod(0o600)
    good = key.read_bytes()
    key.write_bytes(good[:100])
    expect_refusal(2, "is damaged", *sign)
    key.write_bytes(good)
    expect_refusal(1, "can't be written", *sign[:-1], f"{home}/none/signed")
    assert plain_terminal.run(*sign)[0] == 0
    expect_refusal(1, "exists already", *sign)
    allowed = home / "allowed"
    signers = ("--allowed-signers", str(allowed))
    check = ("check-report", f"{home}/signed", *signers)
    expect_refusal(2, "can't be read", *check)
    allowed.write_text("# none\n")
    expect_refusal(1, "a key that is not allowed", *check)
    allowed.write_text(plain_terminal.run("keys", "show")[1])
    assert plain_terminal.run(*check)[0] == 0
    report = home / "signed/report.json"
    report.write_bytes(report.read_bytes().replace(b"succeeded", b"succeedeD"))
    expect_refusal(1, "was altered since it was signed", *check)
    (home / "signed/report.json.sig").unlink()
    expect_refusal(1, "the file is not signed", *check)
    expect_refusal(
        1, "no report", "check-report", f"{home}/from", "--allowed-signers", str(signers)
    )


def test_filters_of_a_report_are_shown(plain_terminal: Terminal) -> None:
    """Its objects are then not all of the source."""
    home = plain_terminal.home
    (home / "from" / "two.jpg").write_text("two")
    words = ("migrate", "-r", f"{home}/from", f"{home}/some", "-q", "--include", "*.jpg")
    assert plain_terminal.run(*words)[0] == 0
    code, out, _ = plain_terminal.run("keys", "new")
    (home / "allowed").write_text(out)
    check = ("check-report", "--allowed-signers", f"{home}/allowed")
    for number in ("1", "2"):
        folder = f"{home}/signed-{number}"
        signed = plain_terminal.run("report", number, "--sign", "--output", folder)
        for code, out, err in (signed, plain_terminal.run(*check, folder)):
            assert (code, err) == (0, "") and f"migration    {number} succeeded" in out
            assert ("excluded     1 by the filters" in out) == (number == "2"), out
            assert ("filters      include *.jpg" in out) == (number == "2"), out


SIGNALLED = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run in a background

def hook(event, arguments):
    if event == {event!r} and str(arguments[0]).endswith({suffix!r}):
        {action}

sys.addaudithook(hook)
from relay.cli.__main__ import run
run()
"""


def sign_until(terminal: Terminal, event: str, suffix: str, number: int) -> tuple[int, str]:
    """Sign the report of migration 1 in a process that gets a signal at an event of Python, such as
    the opening of a file; return its exit code and its stderr."""
    return sign_with(terminal, event, suffix, f"os.kill(os.getpid(), {int(number)})")


def sign_with(terminal: Terminal, event: str, suffix: str, action: str) -> tuple[int, str]:
    """As sign_until, with a statement that runs at the event."""
    home = terminal.home
    program = SIGNALLED.format(event=event, suffix=suffix, action=action)
    settings = {"RELAY_LEDGER": f"sqlite:///{terminal.ledger}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program, "report", "1", "--sign", "--output", f"{home}/signed"],
        env=environment(**settings, XDG_DATA_HOME=str(home / "data")),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("event", "suffix"),
    [
        ("open", "/objects.jsonl"),
        ("open", "/report.json.sig"),
        ("os.rename", ".partial"),
    ],
)
def test_a_killed_command_leaves_no_half_report(
    plain_terminal: Terminal, event: str, suffix: str
) -> None:
    """Only a folder with another name; the next report is whole, and names the one before."""
    home = plain_terminal.home
    assert plain_terminal.run("keys", "new")[0] == 0
    (home / "allowed").write_text(plain_terminal.run("keys", "show")[1])
    sign = ("report", "1", "--sign", "--output", f"{home}/signed")
    code, err = sign_until(plain_terminal, event, suffix, signal.SIGKILL)
    assert code == -signal.SIGKILL, err
    assert not os.path.lexists(home / "signed")
    (left,) = home.glob(".signed.*.partial")
    code, out, _ = plain_terminal.run(*sign)
    assert code == 0 and sorted(path.name for path in (home / "signed").iterdir()) == FILES
    if event == "os.rename":  # the ledger knows it, so the next one names it
        kept = hashlib.sha256((left / "report.json").read_bytes()).hexdigest()
        assert f"previous     {kept}" in out
    else:
        assert "previous     none" in out
    check = ("check-report", f"{home}/signed", "--allowed-signers", f"{home}/allowed")
    assert plain_terminal.run(*check)[0] == 0


def test_a_recorded_report_is_kept_and_its_place_said(plain_terminal: Terminal) -> None:
    home = plain_terminal.home
    assert plain_terminal.run("keys", "new")[0] == 0
    full = "raise OSError(122, 'Disk quota exceeded')"
    code, err = sign_with(plain_terminal, "os.rename", ".partial", full)
    (left,) = home.glob(".signed.*.partial")
    assert code == 1 and f"keep {left}" in err and "Disk quota exceeded" in err
    assert sorted(path.name for path in left.iterdir()) == FILES
    code, out, err = plain_terminal.run("report", "1", "--sign", "--output", f"{home}/signed")
    kept = hashlib.sha256((left / "report.json").read_bytes()).hexdigest()
    assert (code, err) == (0, "") and f"previous     {kept}" in out


def test_an_interrupted_command_leaves_nothing(plain_terminal: Terminal) -> None:
    home = plain_terminal.home
    assert plain_terminal.run("keys", "new")[0] == 0
    before = sorted(home.iterdir())
    code, err = sign_until(plain_terminal, "open", "/objects.jsonl", signal.SIGINT)
    assert (code, err) == (130, "")
    assert sorted(path for path in home.iterdir() if "ledger.db" not in path.name) == [
        path for path in before if "ledger.db" not in path.name
    ]
