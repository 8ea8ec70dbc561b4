"""Which texts are locations of SFTP servers, and what they mean."""

from __future__ import annotations

import pytest

from relay.errors import RelayError
from relay.identity import owner_of, place_identity, same_object
from relay.stores.rclone_conf import obscure
from relay.stores.remotes import Remotes
from relay.stores.sftp.account import SftpAccount, path_of_file
from relay.stores.sftp.ssh_command import SshSettings, session_command

REMOTE = {
    "type": "sftp",
    "host": "nas.example",
    "user": "ann",
    "pass": obscure("geheim"),
    "known_hosts_file": "/k h",
}
REMOTES = Remotes({"box": REMOTE}, {}, folders=None)


@pytest.mark.parametrize(
    ("text", "path", "printed"),
    [
        ("sftp://h/a/b", b"/a/b", "sftp://h/a/b"),
        ("sftp://ann@H:2222/a%20b/", b"/a b", "sftp://ann@h:2222/a%20b/"),
        ("SFTP://h:22", b"/", "sftp://h/"),
        ("sftp://ann@h/~/a", b"a", "sftp://ann@h/~/a"),
        ("sftp://h/~", b".", "sftp://h/~/"),
        ("sftp://h/%7Ea/b", b"/~a/b", "sftp://h/%7Ea/b"),
        ("sftp://[::1]:2222/a%FFb", b"/a\xffb", "sftp://[::1]:2222/a%FFb"),
        ("box:a/ü", b"a/\xc3\xbc", "sftp://ann@nas.example/~/a/%C3%BC"),
        ("box:/a#?", b"/a#?", "sftp://ann@nas.example/a%23%3F"),
        ("box:", b".", "sftp://ann@nas.example/~/"),
    ],
)
def test_a_location_names_a_path(text: str, path: bytes, printed: str) -> None:
    found = REMOTES.locate(text, folder=True)
    assert (path_of_file(found), str(found)) == (path, printed)
    assert "geheim" not in repr(found) + repr(found.account)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("sftp://ann:geheim@h/a", "credentials-in-url"),
        ("sftp://h/~bob/a", "invalid-url"),
        ("sftp://h/a?b", "invalid-url"),
        ("sftp://h/a b", "invalid-url"),
        ("sftp://-oProxyCommand=x/a", "invalid-url"),
        ("sftp://-oX@h/a", "invalid-url"),
        ("sftp://a%3Bb@h/a", "invalid-url"),
        ("sftp://h:0/a", "invalid-url"),
        ("sftp://h/a/../b", "unsafe-key"),
        ("sftp://h/a%00b", "unsafe-key"),
        ("sftp:///a", "invalid-url"),
    ],
)
def test_other_texts_are_refused(text: str, code: str) -> None:
    with pytest.raises(RelayError) as caught:
        REMOTES.locate(text, destination=True)
    assert caught.value.code == code
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"socks_proxy": "p:1"},
        {"host": ""},
        {"port": "x"},
        {"pass": "geheim"},
        {"username": "x"},
        {"skip_links": "true"},
    ],
)
def test_an_option_that_changes_the_place_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(RelayError) as caught:
        Remotes({"box": REMOTE | options}, {}, folders=None).locate("box:a")
    assert caught.value.code in ("config-error", "unsupported")
    assert "geheim" not in str(caught.value)


def test_no_argument_of_ssh_has_a_secret() -> None:
    account = REMOTES.locate("box:a").account
    assert isinstance(account, SftpAccount)
    settings = SshSettings(host="nas.example", port=22, proxied=False, ciphers=("a",))
    words = session_command(account, settings, 10, handover="x")
    assert not any("geheim" in word for word in words)
    assert "-oStrictHostKeyChecking=yes" in words
    assert '-oUserKnownHostsFile="/k h"' in words
    assert words[-4:] == ["-s", "--", "nas.example", "sftp"]


@pytest.mark.parametrize("program", ["ssh", "env A=1 /usr/bin/ssh"])
def test_the_options_of_relay_precede_those_of_a_remote(program: str) -> None:
    loose = "-o StrictHostKeyChecking=no -oControlPath=/tmp/x"
    words = command_of(f"{program} {loose}")
    assert words[: len(program.split())] == program.split()
    assert words.index("-oStrictHostKeyChecking=yes") < words.index("StrictHostKeyChecking=no")
    assert words.index("-oControlPath=none") < words.index("-oControlPath=/tmp/x")
    with pytest.raises(RelayError, match="StrictHostKeyChecking"):
        command_of(f"other {loose}")


def command_of(program: str) -> list[str]:
    account = Remotes({"box": REMOTE | {"ssh": program}}, {}, folders=None).locate("box:a").account
    assert isinstance(account, SftpAccount)
    settings = SshSettings(host="nas.example", port=22, proxied=False, ciphers=("a",))
    return session_command(account, settings, 10, handover="x")


def test_folders_of_two_users_are_two_places() -> None:
    ann, bob, plain = (REMOTES.locate(f"sftp://{user}h/~/a") for user in ("ann@", "bob@", ""))
    assert not same_object(ann, bob)
    assert len({place_identity(one) for one in (ann, bob, plain)}) == 3
    assert owner_of(ann) != owner_of(bob)
    assert same_object(REMOTES.locate("sftp://ann@h/a"), REMOTES.locate("sftp://bob@h/a"))


def test_a_token_without_remotes_may_not_use_the_keys_of_the_server() -> None:
    assert Remotes.uses_own_credentials("sftp://h/a")
