"""Credentials that cannot be obtained, at first or later: one line of our own, without text from a
helper or a file."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from relay.errors import ConfigError, CredentialsWithdrawn
from relay.stores import rclone_conf
from relay.stores.s3.aws_settings import aws_config
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from simulators.spawn import Spawned
from tests.conftest import Engine
from tests.faults.scripted_s3 import Bucket, place, repeat_script
from tests.scripted import Peer

SECRET = "wJalrXUtnFEMI-THE-SECRET"


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of AWS's settings; the machine's own settings stay hidden."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "config"


@pytest.mark.parametrize(
    "text",
    [
        f"credential_process = sh -c 'echo {SECRET} >&2; exit 1'",
        f"credential_process = echo {SECRET}",
        "credential_process = echo 5",
        "credential_process = echo [1]",
        'credential_process = echo {"Version":1}',
        "credential_process = /no/such/helper",
        "credential_process = sh -c 'unclosed",
        "sso_session = s\nsso_account_id = 1\nsso_role_name = r\n[sso-session s]\nsso_region = x\nsso_start_url = u",
        "sso_start_url = https://x\nsso_region = us-east-1\nsso_account_id = 1\nsso_role_name = r",
        "role_arn = arn:aws:iam::1:role/r\nsource_profile = none",
        "role_arn = arn:aws:iam::1:role/r\nweb_identity_token_file = /no/such/file",
        f"aws_access_key_id = k\n{SECRET}",
    ],
)
def test_unobtainable_credentials_are_a_wrong_setting(aws: Path, text: str) -> None:
    aws.write_text(f"[default]\nregion = us-east-1\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        aws_config()
    assert "\n" not in caught.value.message
    assert SECRET not in f"{caught.value.message}{caught.value.hint}"


def test_a_denied_role_fails_at_once(aws: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aws.write_text(
        "[default]\nregion = us-east-1\nrole_arn = arn:aws:iam::111111111111:role/r\nsource_profile = base\n"
        f"[profile base]\naws_access_key_id = k\naws_secret_access_key = {SECRET}\n"
    )
    text = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>"

    def deny(talk: object) -> None:
        talk.head()  # type: ignore[attr-defined]
        talk.send(
            b"HTTP/1.1 403 X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
            % (len(text), text)
        )  # type: ignore[attr-defined]

    with Peer([deny] * 9) as peer:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", peer.url(""))
        with pytest.raises(ConfigError, match="AssumeRole was answered AccessDenied"):
            aws_config()


@pytest.mark.parametrize("ignored", ["true", "false"])
def test_an_ignored_endpoint_is_not_used(aws: Path, ignored: str) -> None:
    """As AWS's own programs do: else another store's bucket of that name would be used."""
    aws.write_text(
        "[default]\nregion = us-east-1\naws_access_key_id = k\naws_secret_access_key = s\n"
        f"endpoint_url = http://127.0.0.1:9000\nignore_configured_endpoint_urls = {ignored}\n"
    )
    assert aws_config().endpoint == (None if ignored == "true" else "http://127.0.0.1:9000")


def test_a_helper_that_fails_at_a_renewal_raises_ours(aws: Path, tmp_path: Path) -> None:
    helper, stays = tmp_path / "helper.sh", tmp_path / "stays"
    stays.touch()
    helper.write_text(
        f"#!/bin/sh\n[ -e {stays} ] || {{ echo {SECRET} >&2; exit 1; }}\n"
        'echo \'{"Version":1,"AccessKeyId":"k","SecretAccessKey":"s","SessionToken":"t",'
        '"Expiration":"\'$(date -u -d +60sec +%FT%TZ)\'"}\'\n'
    )
    helper.chmod(0o755)
    aws.write_text(
        f"[default]\nregion = us-east-1\ncredential_process = {shlex.quote(str(helper))}\n"
    )
    signer = aws_config().signer
    found = signer.credentials()
    assert found is not None
    assert found.key_id == "k"
    stays.unlink()
    with pytest.raises(ConfigError) as caught:
        signer.credentials()  # they expire within minutes, so they are requested again
    assert SECRET not in str(caught.value)
    assert not signer.same_key(Signer(lambda: None, "us-east-1"))


def withdrawn_signer(times: int) -> Signer:
    """Return a signer without credentials for a number of requests."""
    left = [times]

    def credentials() -> AwsCredentials | None:
        left[0] -= 1
        if left[0] >= 0:
            raise ConfigError("AWS's credentials can't be had")
        return AwsCredentials("KEY", "SECRET")

    return Signer(credentials, "us-east-1")


def test_credentials_that_come_back_are_waited_for(patient_engine: Engine, source: Spawned) -> None:
    with Peer(repeat_script(bucket := Bucket())) as peer:
        patient_engine.migrate(source.url("/objects/a?size=1000"), place(peer, withdrawn_signer(2)))
    assert bucket.whole is not None


def test_credentials_that_stay_away_are_withdrawn(engine: Engine, source: Spawned) -> None:
    with Peer(repeat_script(Bucket())) as peer, pytest.raises(CredentialsWithdrawn) as caught:
        engine.migrate(source.url("/objects/a?size=1000"), place(peer, withdrawn_signer(1000)))
    assert caught.value.retryable
    assert caught.value.side == "destination"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"[a]\ntype = s3\nsecret_access_key {SECRET}\n", "line 3"),
        (f"secret_access_key = {SECRET}\n[a]\ntype = s3\n", "line 1"),
        (f"[a]\ntype = s3\n{SECRET}\nx y z\n", "line 3"),
        (f"[a\nsecret_access_key = {SECRET}\n", "line 1"),
    ],
)
def test_a_wrong_file_of_remotes_is_reported_by_line(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "rclone.conf"
    path.write_text(text)
    with pytest.raises(ConfigError, match=line) as caught:
        rclone_conf.read(path)
    assert SECRET not in f"{caught.value.message}{caught.value.hint}"
    path.write_bytes(b"[a]\ntype = \xff\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        rclone_conf.read(path)
