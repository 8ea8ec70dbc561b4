"""The settings: their precedence, and a message that names each mistake."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from relay import config
from relay.api import server_settings
from relay.api.auth import load_tokens
from relay.api.serving import drain_seconds, gunicorn_settings
from relay.cli.backends import server_of
from relay.cli.exits import Exit
from relay.cli.local_ledger import LocalLedger
from relay.cli.migrate import migrate
from relay.cli.migration_commands import resume, submit
from relay.cli.serve import _export_flags as hand_on
from relay.cli.serve import serve
from relay.config import SETTINGS, Settings, TlsLibrary
from relay.engine.transfer_engine import TransferEngine
from relay.errors import ConfigError
from relay.hosts import is_loopback
from relay.settings_sources import load_settings, sources_of, trusted_ledger_url
from relay.stores.remotes import Remotes
from relay.transfer_limits import MIB


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Remove every RELAY_* variable, and any relay.toml."""
    for name in [name for name in os.environ if name.startswith("RELAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield


def test_the_precedence_of_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Flags over the environment over the file over the defaults."""
    (tmp_path / "relay.toml").write_text("slots = 2\nwaiters = 2\nworkers = 2\n")
    monkeypatch.setenv("RELAY_SLOTS", "3")
    monkeypatch.setenv("RELAY_WAITERS", "3")
    settings = load_settings({"slots": 4, "workers": None})
    assert (settings.slots, settings.waiters, settings.workers, settings.graceful_timeout) == (
        4,
        3,
        2,
        30,
    )


def test_another_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """RELAY_CONFIG names it; a missing file is a mistake."""
    (tmp_path / "other.toml").write_text("slots = 7\n")
    monkeypatch.setenv("RELAY_CONFIG", str(tmp_path / "other.toml"))
    assert load_settings().slots == 7
    monkeypatch.setenv("RELAY_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        load_settings()


@pytest.mark.parametrize("token", ["RELAY_TOKEN", "RELAY_TOKEN_FILE"])
def test_no_token_goes_to_a_server_that_came_with_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str
) -> None:
    """As in a cloned repository; a server that the user names gets it."""
    (tmp_path / "relay.toml").write_text('url = "http://127.0.0.1:9"\n')
    (tmp_path / "token").write_text("planted-secret-0123456789")
    (tmp_path / "token").chmod(0o600)
    assert server_of(load_settings(), None)
    monkeypatch.setenv(token, str(tmp_path / "token"))
    with pytest.raises(ConfigError, match="no token"):
        server_of(load_settings(), None)
    assert server_of(load_settings(), "http://127.0.0.1:9")
    for name, value in (("RELAY_URL", "http://127.0.0.1:9"), ("RELAY_CONFIG", "relay.toml")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert server_of(load_settings(), None)


def test_a_server_that_came_with_a_folder_gets_no_secrets(tmp_path: Path) -> None:
    """Neither a file of the user that the same relay.toml names as its token, nor the credentials
    of a migration."""
    found = 'url = "http://127.0.0.1:9"\n'
    (tmp_path / "relay.toml").write_text(f"{found}token = 'its-own-0123456789'\n")
    assert server_of(load_settings(), None)
    for words in (["a", "b"], ["7", "https://a.invalid/x?sig=1", "https://b.invalid/x"]):
        with pytest.raises(ConfigError, match="no credentials"):
            (submit if words[0] == "a" else resume)(words, standalone_mode=False)
    (tmp_path / "relay.toml").write_text(f"{found}token_file = '/home/user/.vault-token'\n")
    with pytest.raises(ConfigError, match="no token"):
        server_of(load_settings(), None)


def test_a_file_of_the_folder_names_no_database_for_credentials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A ledger stores the credentials of every migration; SQLite's file stays on this machine."""
    url = "postgresql+psycopg://x:x@127.0.0.1:9/relay"
    (tmp_path / "relay.toml").write_text(f'ledger = "{url}"')
    with pytest.raises(ConfigError, match=r"only the relay\.toml"):
        LocalLedger(load_settings())
    words = [str(tmp_path / "relay.toml"), f"{tmp_path}/to/"]
    assert migrate(words, standalone_mode=False) == Exit.USAGE
    monkeypatch.setenv("RELAY_LEDGER", url)
    assert trusted_ledger_url(load_settings()) == url
    monkeypatch.delenv("RELAY_LEDGER")
    (tmp_path / "relay.toml").write_text(f'ledger = "sqlite:///{tmp_path}/l.db"')
    assert trusted_ledger_url(load_settings()) == f"sqlite:///{tmp_path}/l.db"
    (tmp_path / "relay.toml").write_text('ledger = ""')
    assert trusted_ledger_url(load_settings()).endswith("/relay/ledger.db")


def test_empty_variables_count_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As compose files leave them."""
    monkeypatch.setenv("RELAY_SLOTS", "")
    assert load_settings().slots == 10
    monkeypatch.setenv("RELAY_CONFIG", "")
    assert load_settings().slots == 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLOTS", "0"),
        ("SLOTS", "-1"),
        ("SLOTS", "x"),
        ("WORKERS", "0"),
        ("STALL_SECONDS", "0"),
        ("HEAD_SECONDS", "-5"),
        ("RETRY_BUDGET", "forever"),
        ("BUFFER_BYTES", "1"),
        ("EGRESS_PORTS", "80,https"),
        ("EGRESS_PORTS", "70000"),
        ("EGRESS_ALLOW", "10.0.0.0/33"),
        ("EGRESS_ALLOW", "not a host!"),
        ("BIND", "127.0.0.1"),
        ("BIND", "127.0.0.1:65536"),
        ("SLOT", "1"),
    ],
)
def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A wrong value, and an unknown name, since a typo must not mean a default."""
    monkeypatch.setenv(f"RELAY_{name}", value)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert f"RELAY_{name}" in caught.value.message or "egress allow list" in caught.value.message


@pytest.mark.parametrize(
    ("ledger", "warned"),
    [
        ("postgresql://me:hidden@host/x", True),
        ("postgresql://host/x?user=me&password=hidden", True),
        ("postgresql://me@host:5432/x", False),
        ("sqlite:////folder/relay.db", False),
    ],
)
def test_a_password_in_a_flag_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ledger: str, warned: bool
) -> None:
    """The process list shows it to every local user, like a header's value."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    hand_on(None, {"ledger": ledger})
    err = capsys.readouterr().err
    assert ("process list" in err, "hidden" in err) == (warned, False)


def test_a_reload_without_the_file_keeps_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An editor may be replacing it; the defaults are another ledger, and no tokens."""
    file = tmp_path / "relay.toml"
    file.write_text(f'slots = 3\nbind = "127.0.0.1:0"\nledger = "sqlite:///{tmp_path}/relay.db"\n')
    monkeypatch.setattr(server_settings, "_HOLDER", server_settings.Holder())
    assert server_settings.accepted_settings().settings.slots == 3
    file.rename(tmp_path / "kept")
    assert (server_settings.accept_again(), server_settings.accepted_settings().settings.slots) == (
        False,
        3,
    )
    assert "not reloaded: relay.toml was removed" in capsys.readouterr().err
    (tmp_path / "kept").rename(file)
    assert server_settings.accept_again()


def test_a_folder_of_a_dead_mount_is_a_wrong_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For a server alone: a command reads any path."""

    def fail(path: Path) -> bool:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    monkeypatch.setattr(server_settings, "_HOLDER", server_settings.Holder())
    monkeypatch.setenv("RELAY_LOCAL_FOLDERS", str(tmp_path))
    monkeypatch.setattr(Path, "is_dir", fail)
    settings = load_settings()
    with pytest.raises(ConfigError, match=r"can't be reached \(Transport"):
        server_settings.accepted_settings()
    TransferEngine(settings, remotes=Remotes(folders=None))


def test_a_reload_does_not_wait_for_a_mount(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That hangs: the process that starts and ends the workers must go on."""
    monkeypatch.setattr(server_settings, "_HOLDER", server_settings.Holder())
    monkeypatch.setenv("RELAY_LOCAL_FOLDERS", str(tmp_path))
    server_settings.accepted_settings()
    reads, writes = os.pipe()
    ended = list[bool]()

    def hang(path: Path) -> bool:
        ended.append(os.read(reads, 1) == b"x")
        return True

    monkeypatch.setattr(Path, "is_dir", hang)
    monkeypatch.setattr(config, "FOLDER_SECONDS", 0.01)
    assert not server_settings.accept_again() and not ended
    os.write(writes, b"x")
    assert f"not reloaded: RELAY_LOCAL_FOLDERS: {tmp_path} does not" in capsys.readouterr().err


def test_variables_of_a_service_are_not_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes and Docker pass the address of a service `relay` to its containers; a typo stays a
    mistake."""
    for name, value in {
        "RELAY_SERVICE_HOST": "10.0.0.9",
        "RELAY_SERVICE_PORT": "8080",
        "RELAY_SERVICE_PORT_HTTP": "8080",
        "RELAY_PORT": "tcp://10.0.0.9:8080",
        "RELAY_PORT_8080_TCP": "tcp://10.0.0.9:8080",
        "RELAY_PORT_8080_TCP_PROTO": "tcp",
        "RELAY_API_PORT_8080_TCP_ADDR": "10.0.0.9",
        "RELAY_API_SERVICE_HOST": "10.0.0.9",
        "RELAY_API_PORT": "tcp://10.0.0.9:8080",
        "RELAY_NAME": "/other/relay",
        "RELAY_ENV_PYTHON_VERSION": "3.13.1",
        "RELAY_API_ENV_TEXT": "two\nlines",
    }.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == Settings()
    for name, value in (
        ("RELAY_PORT", "8080"),
        ("RELAY_EGRESS_PORT", "443"),
        ("RELAY_SERVICE", "x"),
        ("RELAY_NAME", "x"),
    ):
        with (
            monkeypatch.context() as mistaken,
            pytest.raises(ConfigError, match=f"{name} is not a setting"),
        ):
            mistaken.setenv(name, value)
            load_settings()


def test_an_empty_flag_overrides_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in `relay serve --local-folders ''`: the flag takes precedence over the file."""
    opened = f'local_folders = "{tmp_path}"\negress_allow = "10.0.0.0/8"\negress_ports = "1"\n'
    (tmp_path / "relay.toml").write_text(opened)
    assert load_settings().folders
    monkeypatch.setattr(os, "environ", dict(os.environ))
    hand_on(None, {"local_folders": "", "egress_allow": "", "egress_ports": ""})
    settings = load_settings()
    assert (settings.folders, settings.egress().ports) == ((), frozenset())


@pytest.mark.parametrize(
    "text", ["slots = \n", "slots = 1\nslots = 2\n", 'slots = "ten"\n', "slot = 1\n", "\x00"]
)
def test_bad_files_are_named(tmp_path: Path, text: str) -> None:
    """B85: bad TOML, a wrong type, an unknown key."""
    (tmp_path / "relay.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert "relay.toml" in caught.value.message or "slot" in caught.value.message


@pytest.mark.parametrize(
    "bind",
    ["127.0.0.1:0", "[::1]:8080", "localhost:8080", ":8080", "unix:/run/relay.sock", "fd://3"],
)
def test_addresses(bind: str) -> None:
    """The address forms of gunicorn."""
    assert load_settings({"bind": bind}).bind == bind


def test_limits_and_ceiling() -> None:
    """The settings reach the modules that use them, and the ceiling is their formula."""
    settings = load_settings(
        {"stall_seconds": 5, "buffer_bytes": 2 * MIB, "workers": 3, "slots": 4}
    )
    assert (settings.limits().stall_seconds, settings.limits().buffer_bytes) == (5, 2 * MIB)
    assert settings.memory_ceiling_bytes() == 3 * 4 * (4 * 5 * 2 * MIB)
    growing = load_settings(
        {"workers": 3, "slots": 4, "parts_in_flight": 1, "part_bytes": 64 * MIB}
    )
    assert growing.memory_ceiling_bytes() == 3 * 4 * (64 + 5) * MIB


def test_serve_has_a_flag_for_each_setting() -> None:
    """A new setting needs a flag, with a line of help; remotes are tables, which only a file can
    hold."""
    flags = {option.name: option for option in serve.params if isinstance(option, click.Option)}
    assert set(flags) == set(SETTINGS) - {"remotes", "url", "token", "token_file"} | {"config"}
    assert all(option.help and len(option.help) > 20 for option in flags.values())


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("[::1]", True),
        ("LOCALHOST.", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("localhost.localdomain", False),
        ("2130706433", False),
        ("", False),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("relay.example", False),
    ],
)
def test_is_loopback(host: str, local: bool) -> None:
    """Only addresses that no other machine can reach."""
    assert is_loopback(host) is local


# -- tokens


def _tokens(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "tokens"
    path.write_bytes(text.encode("latin-1"))
    path.chmod(mode)
    return path


def test_tokens(tmp_path: Path) -> None:
    """One a line, with comments and blank lines."""
    path = _tokens(tmp_path, "# ours\n\n  first-token-0123456\nsecond-token-012345\r\n", 0o400)
    assert load_tokens(path) == {"first-token-0123456", "second-token-012345"}
    assert load_tokens(None) == frozenset()


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("first-token-0123456\n", 0o640, "open to others"),
        ("first-token-0123456\n", 0o604, "open to others"),
        ("short\n", 0o600, "16 or more"),
        ("two words-0123456789\n", 0o600, "16 or more"),
        ("\u00fcmlaut-0123456789\n", 0o600, "UTF-8"),
        ("# nothing\n\n", 0o600, "no token"),
        ("", 0o600, "no token"),
    ],
)
def test_bad_token_files(tmp_path: Path, text: str, mode: int, message: str) -> None:
    """Each is refused, and no token is repeated."""
    with pytest.raises(ConfigError, match=message) as caught:
        load_tokens(_tokens(tmp_path, text, mode))
    assert "0123456" not in caught.value.message


def test_a_missing_token_file(tmp_path: Path) -> None:
    """It is named."""
    with pytest.raises(ConfigError, match="nowhere"):
        load_tokens(tmp_path / "nowhere")


# -- gunicorn


def test_the_settings_of_gunicorn() -> None:
    """gunicorn's required settings; and it knows each name."""
    from gunicorn.config import Config

    settings = gunicorn_settings(
        load_settings({"bind": "127.0.0.1:1234", "workers": 3, "graceful_timeout": 40})
    )
    cfg = Config()
    for name, value in settings.items():
        cfg.set(name, value)
    assert (cfg.address, cfg.workers, cfg.graceful_timeout) == ([("127.0.0.1", 1234)], 3, 40)
    assert (cfg.max_requests, cfg.preload_app, cfg.control_socket_disable) == (0, False, True)
    assert cfg.worker_connections >= 10_000 and cfg.timeout == 60 and cfg.keepalive == 5


@pytest.mark.parametrize(("graceful", "seconds"), [(30, 27), (300, 297), (6, 3), (4, 2), (1, 0.5)])
def test_the_drain_ends_before_gunicorn_does(graceful: int, seconds: float) -> None:
    """Three seconds before, and at least half of the time."""
    assert drain_seconds(graceful) == seconds


def test_the_null_device_is_an_empty_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who wants no settings file names it, as our own load tests do."""
    monkeypatch.setenv("RELAY_CONFIG", os.devnull)
    assert load_settings().remotes == {}


def test_options_of_a_remote_may_be_toml_values(tmp_path: Path) -> None:
    (tmp_path / "relay.toml").write_text(
        '[remotes.a]\ntype = "s3"\nenv_auth = true\nchunk = 5\nother = [1]\n'
    )
    with pytest.raises(ConfigError, match="remotes.a.other"):
        load_settings()
    (tmp_path / "relay.toml").write_text('[remotes.a]\ntype = "s3"\nenv_auth = true\nchunk = 5\n')
    assert load_settings().remotes == {"a": {"type": "s3", "env_auth": "true", "chunk": "5"}}


def test_a_byte_order_mark_is_not_part_of_a_file(tmp_path: Path) -> None:
    """As editors on Windows write it, with their line ends."""
    (tmp_path / "relay.toml").write_bytes(b"\xef\xbb\xbfslots = 7\r\n")
    assert load_settings().slots == 7
    assert load_tokens(_tokens(tmp_path, "\xef\xbb\xbf0123456789abcdef\r\n")) == {
        "0123456789abcdef"
    }


@pytest.mark.parametrize(
    ("mode", "owner", "taken"),
    [
        (0o440, 0, True),
        (0o640, 0, True),
        (0o660, 0, False),
        (0o444, 0, False),
        (0o440, 4321, False),
        (0o400, 4321, True),
    ],
)
def test_a_secret_that_root_gives_to_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, owner: int, taken: bool
) -> None:
    """As a Secret of Kubernetes is mounted (`fsGroup`), and a credential of systemd: this user
    can't change its mode. One's own file, and that of a third, may not be open to a group."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path = _tokens(tmp_path, "first-token-0123456\n", mode)
    os.chown(path, owner, 10001)
    monkeypatch.setattr("relay.process.small_files.os.geteuid", lambda: 10001)
    if taken:
        assert load_tokens(path) == {"first-token-0123456"}
    else:
        with pytest.raises(ConfigError, match="open to others"):
            load_tokens(path)


@pytest.mark.parametrize(
    ("folder", "file", "user", "taken"),
    [
        (0o755, 0o644, None, True),
        (0o1777, 0o644, None, True),  # the user's own, in /tmp
        (0o755, 0o666, None, False),
        (0o755, 0o644, 4321, True),  # as a container sees a file that its host has mounted
        (0o1777, 0o644, 4321, False),
        (0o777, 0o600, 4321, False),
    ],
)
def test_a_file_that_another_user_may_have_planted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: int,
    file: int,
    user: int | None,
    taken: bool,
) -> None:
    """The settings of the current folder decide which server gets a token; a file that the user
    names is trusted."""
    path = tmp_path / "relay.toml"
    path.write_text("slots = 7\n")
    path.chmod(file)
    tmp_path.chmod(folder)
    if user is not None:
        if os.geteuid() != 0:
            pytest.skip("only root can give a file away")
        os.chown(path, user, user)
    if taken:
        assert load_settings().slots == 7
    else:
        with pytest.raises(ConfigError, match="another user's"):
            load_settings()
    monkeypatch.setenv("RELAY_CONFIG", str(path))
    assert load_settings().slots == 7


def test_the_sources_of_all_settings_are_one_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with hundreds of remotes takes milliseconds to parse."""
    (tmp_path / "relay.toml").write_text("slots = 7\n")
    monkeypatch.setenv("RELAY_CONFIG", str(tmp_path / "relay.toml"))
    monkeypatch.setenv("RELAY_WORKERS", "2")
    reads: list[Path] = []

    def read(path: Path) -> str:
        reads.append(path)
        return path.read_text()

    monkeypatch.setattr("relay.settings_sources.read_small", read)
    assert sources_of(["slots", "workers", "bind"]) == {
        "slots": str(tmp_path / "relay.toml"),
        "workers": "RELAY_WORKERS",
        "bind": "default",
    }
    assert len(reads) == 1
    monkeypatch.setenv("RELAY_CONFIG", str(tmp_path / "missing.toml"))
    assert sources_of(["slots"]) == {"slots": "default"}


# -- values


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        *[("slots", value, 7) for value in ("7", " 7 ", "7.0", "+7", "0_7", 7.0)],
        ("retry_budget", "1.5", 1.5),
        ("retry_budget", 2, 2.0),
        ("ca_bundle", "/ca.pem", Path("/ca.pem")),
        ("tls", "ssl", TlsLibrary.SSL),
        (
            "remotes",
            {"a": {"type": "s3", "env_auth": True}},
            {"a": {"type": "s3", "env_auth": "true"}},
        ),
    ],
)
def test_values_have_their_settings_type(name: str, value: object, read: object) -> None:
    """Variables and flags are texts; TOML has numbers and tables."""
    found = getattr(Settings.from_values({name: value}), name)
    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        *[("slots", value, "not a whole number") for value in (True, 2.5, "1e3", "٣", "9" * 5000)],
        ("slots", [], "not a whole number"),
        ("retry_budget", "nan", "at least 0"),
        ("retry_budget", False, "not a number"),
        ("total_seconds", 10**400, "not a number"),
        ("bind", 8080, "not a text"),
        ("bind", "a\0b:1", "NUL"),
        ("ca_bundle", 1, "not a path"),
        ("tls", "openssl", "one of auto, ssl, pyopenssl"),
        ("remotes", "a", "not a table"),
        ("remotes", {"a": "b"}, "remotes.a (.*): it is not a table"),
    ],
)
def test_other_values_are_mistakes(name: str, value: object, said: str) -> None:
    """Each is named with its setting, beside all others."""
    with pytest.raises(ConfigError, match=said) as caught:
        load_settings({name: value, "workers": 0})
    assert caught.value.message.count("): it ") == 2 and "workers" in caught.value.message
