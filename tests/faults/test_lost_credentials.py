"""Credentials that cannot be obtained, at first or later: one line of our own, without text from a
helper or a file."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import gevent
import pytest

from relay.config import Settings
from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.engine.transfer_engine import TransferEngine
from relay.engine.worker.locate_retries import LocateRetries
from relay.engine.worker.worker import Worker
from relay.errors import ConfigError, CredentialsWithdrawn, Unsupported
from relay.ledger.ledger import Ledger
from relay.stores import rclone_conf
from relay.stores.s3.aws_settings import aws_config, s3_location
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from simulators.spawn import Spawned
from tests.conftest import Engine
from tests.end_to_end.terminal import eventually
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


@pytest.mark.parametrize(
    "text",
    [
        "use_fips_endpoint = true",
        "use_dualstack_endpoint = True",
        "s3 =\n  use_dualstack_endpoint = true",
    ],
)
def test_a_setting_of_another_host_is_refused(aws: Path, text: str) -> None:
    """Else the objects would go by hosts that the user must not use, or can't reach."""
    keys = "[default]\nregion = us-east-1\naws_access_key_id = k\naws_secret_access_key = s\n"
    aws.write_text(f"{keys}{text.lower().replace('true', 'false')}\n")
    assert s3_location(aws_config(), "bucket", "key").host == "bucket.s3.us-east-1.amazonaws.com"
    aws.write_text(f"{keys}{text}\n")
    with pytest.raises(Unsupported, match=r"use_\w+_endpoint"):
        s3_location(aws_config(), "bucket", "key")
    aws.write_text(f"{keys}endpoint_url = http://127.0.0.1:9000\n{text}\n")
    assert s3_location(aws_config(), "bucket", "key").host == "127.0.0.1"


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


# -- at the start of a process


def plant_helper(aws: Path, endpoint: str) -> Path:
    """Write the profile `slow`, whose helper gives credentials while the returned file exists."""
    helper, here = aws.with_name("helper.sh"), aws.with_name("here")
    here.touch()
    helper.write_text(
        f"#!/bin/sh\n[ -e {here} ] || exit 1\n"
        'echo \'{"Version":1,"AccessKeyId":"k","SecretAccessKey":"s","SessionToken":"t",'
        '"Expiration":"2099-01-01T00:00:00Z"}\'\n'
    )
    helper.chmod(0o755)
    aws.write_text(
        "[profile slow]\nregion = us-east-1\n"
        f"endpoint_url = {endpoint}\ncredential_process = {shlex.quote(str(helper))}\n"
    )
    return here


def process_of(folder: Path, retry_budget: float) -> TransferEngine:
    """Return the engine of a process that has just started."""
    settings = Settings(local_folders=str(folder), egress_allow="127.0.0.1", settle_seconds=1)
    return TransferEngine(replace(settings, retry_budget=retry_budget))


def accept(ledger: Ledger, folder: Path, tree: bool) -> str:
    """Accept a migration to the profile's bucket; return its id."""
    (folder / "from").mkdir()
    (folder / "from" / "x").write_bytes(b"1")
    source, there = ("from/", "up/") if tree else ("from/x", "up/x")
    order = MigrationRequest(
        Endpoint(f"file://{folder}/{source}"), Endpoint(f"slow:bucket/{there}"), recursive=tree
    )
    return ledger.create(order.spec(process_of(folder, 0).remotes))[0].id


@pytest.mark.parametrize("tree", [False, True])
def test_credentials_that_come_late_are_waited_for(
    ledger: Ledger, aws: Path, tmp_path: Path, tree: bool
) -> None:
    """The machine starts, and what gives the credentials starts after relay."""
    with Peer(repeat_script(Bucket())) as peer:
        here = plant_helper(aws, peer.url(""))
        id = accept(ledger, tmp_path, tree)
        here.unlink()
        engine = process_of(tmp_path, 60)
        running = gevent.spawn(Worker(ledger, engine, 1, id).run)
        eventually(lambda: bool(ledger.migration(id).retried))
        found = ledger.migration(id)
        (trouble,) = found.retried
        assert (trouble["what"], trouble["error"], trouble["name"]) == (
            "reading the credentials",
            "config-error",
            "",
        )
        assert (found.state, found.error) == ("running", None)
        here.touch()
        running.get(timeout=40)
        found = ledger.migration(id)
        assert (found.state, found.retried) == ("succeeded", ())
        engine.wire.pool.close()


@pytest.mark.parametrize("tree", [False, True])
def test_credentials_that_never_come_pause_a_migration(
    ledger: Ledger, aws: Path, tmp_path: Path, tree: bool
) -> None:
    here = plant_helper(aws, "http://127.0.0.1:1")
    id = accept(ledger, tmp_path, tree)
    here.unlink()
    with gevent.Timeout(30):
        Worker(ledger, process_of(tmp_path, 1), 1, id).run()
    found = ledger.migration(id)
    assert (found.state, found.retried) == ("paused", ())
    assert found.error is not None
    assert found.error["detail"].startswith("no AWS credentials from custom-process")


def test_other_migrations_go_on_meanwhile(ledger: Ledger, aws: Path, tmp_path: Path) -> None:
    here = plant_helper(aws, "http://127.0.0.1:1")
    id = accept(ledger, tmp_path, tree=False)
    here.unlink()
    engine = process_of(tmp_path, 60)
    order = MigrationRequest(
        Endpoint(f"file://{tmp_path}/from/"), Endpoint(f"file://{tmp_path}/to/"), recursive=True
    )
    worker = Worker(ledger, engine, 1)
    running = gevent.spawn(worker.run)
    try:
        eventually(lambda: bool(ledger.migration(id).retried))
        other = ledger.create(order.spec(engine.remotes))[0].id
        eventually(lambda: ledger.migration(other).state == "succeeded")
        assert ledger.migration(id).state == "running"
    finally:
        worker.stop()
        running.get(timeout=30)


def test_a_wrong_setting_is_not_tried_again() -> None:
    retries = LocateRetries(60, clock=lambda: 0.0, random=lambda: 1.0)
    assert retries.note_failure("a", 0, ConfigError("no such profile")) is None
    assert (retries.seconds_left("a"), retries.waiting()) == (None, frozenset())


def test_the_waits_grow_and_end_with_the_budget() -> None:
    now, late = [0.0], ConfigError("no answer", retryable=True)
    retries = LocateRetries(3, clock=lambda: now[0], random=lambda: 1.0)
    waits = []
    while (retry := retries.note_failure("a", 1, late)) is not None:
        assert retries.waiting() == {"a"}
        left = retries.seconds_left("a")
        assert left is not None
        assert retries.error_of("a", 1) is not None
        assert retries.error_of("a", 2) is None  # a person has given other credentials
        waits.append(left)
        now[0] += left
        assert (retries.error_of("a", 1), retries.waiting()) == (None, frozenset())
        assert retry.failures == len(waits)
    assert waits == [0.25, 0.5, 1.0]
    assert retries.seconds_left("a") is None
    # A person has resumed it: the budget counts from the next failure on.
    now[0] += 3600
    retry = retries.note_failure("a", 2, late)
    assert retry is not None and retry.failures == 1
    assert retries.end("a") and not retries.end("a")
