"""SFTP beyond the contract: a real server, and one with bad habits."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from getpass import getuser
from itertools import product
from pathlib import Path
from typing import Any

import gevent
import pytest

from relay.egress import EgressPolicy
from relay.errors import (
    AlreadyExists,
    ConnectionLost,
    EgressDenied,
    HostKeyRefused,
    NotFound,
    ProtocolViolation,
    Rejected,
    RelayError,
    SourceChanged,
    Stalled,
    StoreFull,
    Unauthenticated,
)
from relay.location import Location
from relay.receipt import State
from relay.stores.interfaces import ByteRange, is_temporary_name
from relay.stores.kinds import LocateOptions, Remote
from relay.stores.local_locations import local_location
from relay.stores.local_upload import UNDATED
from relay.stores.rclone_conf import obscure
from relay.stores.sftp import ssh_secrets
from relay.stores.sftp.account import sftp_remote
from relay.transfer_limits import Limits
from tests import sftp_peer
from tests.conftest import LOOPBACK, Engine, close_kept
from tests.sshd import Sshd

DATA = os.urandom(1000) * 3000
"""Enough for a dozen READs of a real server, and for thousands of one with short replies."""
PeerPlace = Callable[..., Location]
MOMENTS = (
    *("3:1", "6:1", "6:2", "10:1", "200:1", "8:1", "4:1", "5:1"),
    *("7:1", "7:2", "200:2", "17:1"),
)
"""Requests of an upload, its proof and its publication: the type, and which one of it."""


def in_campaign(*values: Any) -> list[Any]:
    """Return parameters of which only `make test-all` makes tests."""
    pairs = (value if isinstance(value, tuple) else (value,) for value in values)
    return [pytest.param(*pair, marks=pytest.mark.campaign) for pair in pairs]


@pytest.fixture
def engine_limits() -> Limits:
    """Return the limits that users have: each login takes a moment."""
    return replace(Limits(), sweep_waits=(0.0,))


@pytest.fixture
def peer(tmp_path: Path) -> PeerPlace:
    """Return a function: the place of a name at a server with some habits, below `root`."""
    root = tmp_path / "root"
    root.mkdir()

    def place(name: str, *habits: str, **more: str) -> Location:
        words = [sys.executable, sftp_peer.__file__, str(root), *habits, "--"]
        program = shlex.join(words)
        options = {"type": "sftp", "host": "127.0.0.1", "ssh": program, **more}
        remote = Remote("peer", "sftp", "test", options)
        return sftp_remote(remote, f"{root}/{name}", LocateOptions(destination=True))

    return place


@pytest.fixture
def data_file(tmp_path: Path) -> Location:
    """Return a local file with DATA, last changed in 2020."""
    path = tmp_path / "data"
    path.write_bytes(DATA)
    os.utime(path, (1_600_000_000, 1_600_000_000.5))
    return local_location(path, destination=False)


def left_in(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if is_temporary_name(name)]


def await_no_secrets(folder: Path) -> None:
    """Wait until no login has a folder there; a further session may be opening beside."""
    with gevent.Timeout(10):
        while any(name.startswith("relay-ssh-") for name in os.listdir(folder)):
            gevent.sleep(0.01)


def read(engine: Engine, place: Location, span: ByteRange | None = None) -> bytes:
    store = engine.runner.stores.source(place, engine.runner.transfer(plan(engine, place)).meter)
    opened = store.get(place, None, span)
    assert opened.body is not None
    return opened.body.read()


def plan(engine: Engine, place: Location):  # type: ignore[no-untyped-def]
    return engine.plan(place, local_location(Path("/nowhere"), destination=True))


def print_of(key: Path) -> str:
    """Return the fingerprint of a public key."""
    return subprocess.check_output(["ssh-keygen", "-l", "-f", key], text=True).split()[1]


# -- a real server


def test_time_mode_and_link_are_kept(engine: Engine, openssh: Sshd, data_file: Location) -> None:
    folder = openssh.root / "kept"
    folder.mkdir()
    (folder / "old").write_bytes(b"old")
    (folder / "old").chmod(0o640)
    (folder / "link").symlink_to("old")
    assert engine.migrate(data_file, openssh.place("kept/link")).state is State.VERIFIED
    assert (folder / "link").is_symlink()
    found = (folder / "old").stat()
    assert (folder / "old").read_bytes() == DATA
    assert (int(found.st_mtime), found.st_mode & 0o777) == (1_600_000_000, 0o640)
    assert left_in(folder) == []


def test_a_listing_names_what_can_be_moved(engine: Engine, openssh: Sshd) -> None:
    folder = openssh.root / "listed"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "x").write_bytes(b"1")
    for number in range(1200):
        (folder / f"f{number}").write_bytes(b"")
    (folder / "to-file").symlink_to("f1")
    (folder / "to-folder").symlink_to("sub")
    (folder / "to-nothing").symlink_to("nothing")
    os.mkfifo(folder / "pipe")
    (folder / "new\nline").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).write_bytes(b"")
    place = openssh.place("listed/")
    store = engine.runner.stores.source(place, engine.runner.transfer(plan(engine, place)).meter)
    entries = {entry.name: entry for entry in store.list(place, recursive=True)}
    good = {name for name, entry in entries.items() if entry.error is None}
    files = {f"f{number}" for number in range(1200)}
    assert good == files | {"to-file", "new\nline", "\udcff", "sub/deep/x"}
    assert set(entries) - good == {"to-folder", "to-nothing", "pipe"}
    with pytest.raises(NotFound):
        list(store.list(openssh.place("none/")))
    with pytest.raises(Rejected):
        list(store.list(openssh.place("listed/f1/")))


def test_ranges_and_changes_of_a_file_are_seen(engine: Engine, openssh: Sshd) -> None:
    path = openssh.root / "ranged"
    path.write_bytes(DATA)
    place = openssh.place("ranged")
    assert read(engine, place, ByteRange(999_000, 1_700_000)) == DATA[999_000:1_700_001]
    store = engine.runner.stores.source(place, engine.runner.transfer(plan(engine, place)).meter)
    opened = store.get(place)
    assert opened.body is not None
    first = opened.body.read(10)
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(SourceChanged):
        first += opened.body.read()


def test_fail_and_skip_never_overwrite(engine: Engine, openssh: Sshd, data_file: Location) -> None:
    place = openssh.place("absent")
    assert engine.migrate(data_file, place, if_exists="fail").state is State.VERIFIED
    (openssh.root / "absent").write_bytes(b"theirs")
    with pytest.raises(AlreadyExists):
        engine.migrate(data_file, place, if_exists="fail")
    assert engine.migrate(data_file, place, if_exists="skip").state is State.SKIPPED
    assert (openssh.root / "absent").read_bytes() == b"theirs"


def test_a_key_with_a_passphrase_opens_a_session(
    engine: Engine, openssh: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_secrets, "_SHARED_MEMORY", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (openssh.root / "secret").write_bytes(b"found")
    key = openssh.home / "phrase_key"
    options = ["-q", "-t", "ed25519", "-N", "geheim phrase"]
    subprocess.run(["ssh-keygen", *options, "-f", key], check=True)
    with (openssh.home / "authorized_keys").open("a") as file:
        file.write(Path(f"{key}.pub").read_text())
    good = {"key_file": str(key), "key_file_pass": obscure("geheim phrase")}
    assert read(engine, openssh.place("secret", **good)) == b"found"
    with pytest.raises(Unauthenticated) as caught:
        read(engine, openssh.place("secret", **good | {"key_file_pass": obscure("other")}))
    assert "other" not in str(caught.value) + caught.value.hint
    inline = {"key_file": "", "key_pem": (openssh.home / "user_key").read_text()}
    assert read(engine, openssh.place("secret", **inline)) == b"found"
    await_no_secrets(tmp_path)


def test_an_unknown_host_key_is_named_by_its_print(engine: Engine, openssh: Sshd) -> None:
    empty = openssh.home / "empty"
    empty.touch()
    with pytest.raises(HostKeyRefused) as caught:
        read(engine, openssh.place("a", known_hosts_file=str(empty)))
    listed = print_of(openssh.home / "host_key.pub")
    assert listed in caught.value.message
    other = openssh.home / "other"
    name = f"[127.0.0.1]:{openssh.port}"
    other.write_text(f"{name} {(openssh.home / 'user_key.pub').read_text()}")
    with pytest.raises(HostKeyRefused) as changed:
        read(engine, openssh.place("a", known_hosts_file=str(other)))
    assert "another one" in changed.value.message


def test_a_wrong_password_and_a_wrong_user_say_so(engine: Engine, openssh: Sshd) -> None:
    wrong = openssh.place("a", key_file="", **{"pass": obscure("geheim")})
    with pytest.raises(Unauthenticated) as caught:
        read(engine, wrong)
    assert "the password" in caught.value.message
    assert "geheim" not in caught.value.message + caught.value.hint
    with pytest.raises(Unauthenticated):
        read(engine, openssh.place("a", user=f"{getuser()}x"))


def test_the_policy_is_asked_before_a_connection(engine: Engine, openssh: Sshd) -> None:
    with pytest.raises(RelayError) as caught:
        read(engine, openssh.place("a", host="192.0.2.1"))
    assert caught.value.code == "egress-denied"


def test_an_alias_of_the_settings_of_ssh_is_found(engine: Engine, openssh: Sshd) -> None:
    (openssh.root / "aliased").write_bytes(b"found")
    config = openssh.home / "ssh_config"
    lines = [f"Host near\n HostName 127.0.0.1\n Port {openssh.port}", "Host far", " ProxyJump near"]
    lines += [f" HostName 127.0.0.1\n Port {openssh.port}", "Host *", f" User {getuser()}"]
    lines += [f" IdentityFile {openssh.home}/user_key"]
    lines += [f" UserKnownHostsFile {openssh.home}/known_hosts", " RemoteCommand echo trap"]
    config.write_text("\n".join([*lines, ""]))
    options = {"type": "sftp", "ssh": f"ssh -F {config}"}

    def place_at(host: str) -> Location:
        remote = Remote("box", "sftp", "test", options | {"host": host})
        return sftp_remote(remote, f"{openssh.root}/aliased", LocateOptions())

    assert read(engine, place_at("near")) == b"found"
    with pytest.raises(EgressDenied, match="another host"):
        read(engine, place_at("far"))
    engine.runner.dialer.policy = LOOPBACK.allowing("far")
    assert read(engine, place_at("far")) == b"found"
    # What an allowed name means is in the settings of the operator; any other name is checked.
    close_kept(engine.runner.wire)
    engine.runner.dialer.policy = EgressPolicy().allowing("near")
    assert read(engine, place_at("near")) == b"found"
    close_kept(engine.runner.wire)
    engine.runner.dialer.policy = EgressPolicy(ports=frozenset({22, openssh.port}))
    with pytest.raises(EgressDenied, match="127.0.0.1"):
        read(engine, place_at("near"))


# -- a server with habits


@pytest.mark.parametrize("habit", ["reorder", *in_campaign("short", "plain", "replacing")])
def test_an_odd_server_gets_and_gives_every_byte(
    engine: Engine, peer: PeerPlace, data_file: Location, tmp_path: Path, habit: str
) -> None:
    assert engine.migrate(data_file, peer("a/b", habit)).state is State.VERIFIED
    assert (tmp_path / "root/a/b").read_bytes() == DATA
    back = local_location(tmp_path / "back", destination=True)
    assert engine.migrate(peer("a/b", habit), back).state is State.VERIFIED
    assert (tmp_path / "back").read_bytes() == DATA
    assert left_in(tmp_path / "root/a") == []


def test_a_server_that_sets_no_attributes_keeps_the_bytes(
    engine: Engine, peer: PeerPlace, data_file: Location, tmp_path: Path
) -> None:
    (tmp_path / "root/a").write_bytes(b"old")
    outcome = engine.migrate(data_file, peer("a", "modeless"))
    assert outcome.state is State.VERIFIED
    assert outcome.receipt is not None
    assert UNDATED in outcome.receipt.notes
    assert (tmp_path / "root/a").read_bytes() == DATA


@pytest.mark.parametrize("habit", ["replacing", *in_campaign("plain", "reorder")])
def test_an_odd_server_overwrites_nothing(
    engine: Engine, peer: PeerPlace, data_file: Location, tmp_path: Path, habit: str
) -> None:
    (tmp_path / "root/a").write_bytes(b"theirs")
    with pytest.raises(AlreadyExists):
        engine.migrate(data_file, peer("a", habit), if_exists="fail")
    if habit != "reorder":
        with pytest.raises(Rejected, match="can't replace"):
            engine.migrate(data_file, peer("a", habit))
    assert (tmp_path / "root/a").read_bytes() == b"theirs"
    assert left_in(tmp_path / "root") == []


@pytest.mark.parametrize("cut", [12, 1_000_000, *in_campaign(0, 4, 100, 300, 5000, 2_999_000)])
def test_output_that_is_cut_is_a_lost_connection(
    engine: Engine, peer: PeerPlace, tmp_path: Path, cut: int
) -> None:
    (tmp_path / "root/a").write_bytes(DATA)
    back = local_location(tmp_path / "back", destination=True)
    with pytest.raises(RelayError) as caught:
        engine.migrate(peer("a", f"cut:{cut}"), back)
    assert (caught.value.side, caught.value.retryable) == ("source", True)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("lie", ["length", "number", *in_campaign("huge", "data", "text", "type")])
def test_a_lie_ends_the_session(engine: Engine, peer: PeerPlace, tmp_path: Path, lie: str) -> None:
    (tmp_path / "root/a").write_bytes(DATA)
    back = local_location(tmp_path / "back", destination=True)
    with pytest.raises(ProtocolViolation):
        engine.migrate(peer("a", f"lie:{lie}"), back)
    assert not (tmp_path / "back").exists()


def test_a_banner_and_a_path_in_a_listing_are_refused(
    engine: Engine, peer: PeerPlace, tmp_path: Path
) -> None:
    (tmp_path / "root/a").write_bytes(b"")
    with pytest.raises(ProtocolViolation, match="login script"):
        read(engine, peer("a", "lie:banner"))
    place = peer("", "lie:path")
    store = engine.runner.stores.source(place, engine.runner.transfer(plan(engine, place)).meter)
    with pytest.raises(ProtocolViolation, match="path"):
        list(store.list(place))


@pytest.mark.parametrize(
    ("when", "kind"),
    [
        ("die-after", "3:1"),
        ("die-after", "200:2"),
        *in_campaign(*product(("die-on", "die-after"), MOMENTS)),
    ],
)
def test_a_session_that_dies_leaves_all_or_nothing(
    engine: Engine, peer: PeerPlace, data_file: Location, tmp_path: Path, when: str, kind: str
) -> None:
    (tmp_path / "root/a").write_bytes(b"old")
    place = peer("a", "once", f"{when}:{kind}")
    try:
        state = engine.migrate(data_file, place).state
    except ConnectionLost as error:
        assert error.side == "destination"
        assert (tmp_path / "root/a").read_bytes() in (b"old", DATA)
    else:
        assert state is State.VERIFIED
        assert (tmp_path / "root/a").read_bytes() == DATA
    assert left_in(tmp_path / "root") == []


def test_a_retry_opens_a_new_session(
    patient_engine: Engine, peer: PeerPlace, data_file: Location, tmp_path: Path
) -> None:
    outcome = patient_engine.migrate(data_file, peer("a", "once", "die-on:6:5"))
    assert outcome.state is State.VERIFIED
    assert outcome.receipt is not None
    assert outcome.receipt.attempts == 2
    assert (tmp_path / "root/a").read_bytes() == DATA
    assert left_in(tmp_path / "root") == []


def test_a_retry_does_not_use_a_silent_session(
    patient_engine: Engine, peer: PeerPlace, tmp_path: Path
) -> None:
    (tmp_path / "root/b").write_bytes(DATA)
    back = local_location(tmp_path / "back", destination=True)
    outcome = patient_engine.migrate(peer("b", "once", "frozen"), back)
    assert outcome.state is State.VERIFIED
    assert outcome.receipt is not None
    assert outcome.receipt.attempts == 2
    assert (tmp_path / "back").read_bytes() == DATA


def test_a_late_answer_to_a_publication_is_our_own(
    patient_engine: Engine, peer: PeerPlace, data_file: Location, tmp_path: Path
) -> None:
    runner = patient_engine.runner
    runner.limits = replace(runner.limits, head_seconds=1.0)
    # The first extended request syncs the file, the second one links it.
    place = peer("a", "once", "silent:200:2")
    assert patient_engine.migrate(data_file, place, if_exists="fail").state is State.VERIFIED
    assert (tmp_path / "root/a").read_bytes() == DATA
    assert left_in(tmp_path / "root") == []


def test_a_full_disk_and_a_silent_server_are_named(
    engine: Engine, peer: PeerPlace, data_file: Location, tmp_path: Path
) -> None:
    with pytest.raises(StoreFull):
        engine.migrate(data_file, peer("a", "full"))
    assert os.listdir(tmp_path / "root") == []
    (tmp_path / "root/b").write_bytes(DATA)
    engine.runner.limits = replace(engine.runner.limits, stall_seconds=1)
    with pytest.raises(Stalled) as caught:
        engine.migrate(peer("b", "stuck"), local_location(tmp_path / "back", destination=True))
    assert caught.value.side == "source"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("subsystem request failed on channel 0", "store-rejected"),
        ("ssh: connect to host h port 22: Connection refused", "connect-failed"),
        ("Connection closed by 10.0.0.1 port 22", "connection-lost"),
        ("/root/.ssh/config: line 1: Bad configuration option: x", "config-error"),
        ("Bad owner or permissions on /root/.ssh/config", "config-error"),
        ("ann@h: Permission denied (publickey).", "store-unauthenticated"),
        ("Something that no version says", "connect-failed"),
    ],
)
def test_the_last_words_of_ssh_are_explained(
    engine: Engine, peer: PeerPlace, line: str, code: str
) -> None:
    with pytest.raises(RelayError) as caught:
        read(engine, peer("a", f"say:{line}"))
    assert caught.value.code == code
    assert caught.value.hint
    assert "/root" not in caught.value.message


def test_a_password_goes_through_a_pipe(
    engine: Engine, peer: PeerPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    secret = "ge heim'\"$x ü"
    (tmp_path / "root/a").write_bytes(b"found")
    assert read(engine, peer("a", "password:" + secret, **{"pass": obscure(secret)})) == b"found"
    with pytest.raises(Unauthenticated, match="the password"):
        read(engine, peer("a", "password:" + secret, **{"pass": obscure("wrong")}))
    await_no_secrets(tmp_path)


def test_no_program_is_a_setting_to_correct(engine: Engine) -> None:
    remote = Remote("x", "sftp", "test", {"host": "127.0.0.1", "ssh": "/no/such/ssh"})
    with pytest.raises(RelayError, match="can't be run") as caught:
        read(engine, sftp_remote(remote, "/a", LocateOptions()))
    assert caught.value.code == "config-error"


def test_a_killed_transfer_leaves_no_child(engine: Engine, peer: PeerPlace, tmp_path: Path) -> None:
    (tmp_path / "root/b").write_bytes(DATA)
    reader = gevent.spawn(read, engine, peer("b", "stuck"))
    pids: list[int] = []
    with gevent.Timeout(20):
        while not pids:
            gevent.sleep(0.01)
            sessions = engine.runner.wire.kept.get("sftp")
            groups = () if sessions is None else sessions._accounts.values()
            pids = [one.pid for group in groups for one in group._open]
    reader.kill()
    close_kept(engine.runner.wire)
    with gevent.Timeout(20):
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            gevent.sleep(0.01)
