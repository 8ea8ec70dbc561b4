"""Identity is what identifies: store, endpoint, account and the whole location with its query; and
one kind of worker runs its own migrations alone."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from relay.engine.migration_request import Endpoint, MigrationRequest
from relay.errors import ConfigError, KeyReused, MigrationUnknown
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.migration_values import Spec
from relay.ledger.opening import open_database
from relay.ledger.schema import migrations, transfers
from relay.ledger.workers import SERVER, WorkerId
from relay.process import identities, mounts
from relay.stores.remotes import Remotes
from relay.stores.s3.aws_settings import S3Config
from relay.stores.s3.sigv4 import AwsCredentials, Signer
from tests.ledgers import OBJECT, TREE, tree, verified_end

TO = "https://b.example/x"
WITHDRAWN = {"code": "store-unauthenticated", "side": "source", "detail": "", "hint": ""}


def far_settings(**options: str) -> Mapping[str, Mapping[str, str]]:
    """Return the settings of one remote."""
    return {"far": {"type": "s3", "endpoint": "http://one.example", **options}}


def spec(source: str, destination: str = TO, remotes: Remotes | None = None, **more: Any) -> Spec:
    """Return the accepted form of a request."""
    basic = more.pop("headers", ())
    return MigrationRequest(Endpoint(source, headers=basic), Endpoint(destination), **more).spec(
        remotes or Remotes({}, environment={}, folders=None)
    )


def profile(name: str, key: str = "KEY", endpoint: str | None = None) -> Remotes:
    """Return the remote of `s3://` under one of AWS's profiles."""
    signer = Signer(lambda: AwsCredentials(key, "SECRET", None), "us-east-1")
    found = S3Config(signer, endpoint, owner=f"{name} {key}")
    return Remotes({}, environment={}, folders=None, aws=lambda _: found)


S3 = "s3://bucket/key"
OTHERS: dict[str, tuple[Spec, Spec]] = {
    "a query": (spec("https://a.example/d?id=1"), spec("https://a.example/d?id=2")),
    "a query of two": (spec("https://a.example/d?id=1&v=1"), spec("https://a.example/d?id=1&v=2")),
    "a query of the destination": (
        spec("https://a.example/d", f"{TO}?to=1"),
        spec("https://a.example/d", f"{TO}?to=2"),
    ),
    "a query beside a signature": (
        spec("https://a.example/d?versionId=1&X-Amz-Signature=s"),
        spec("https://a.example/d?versionId=2&X-Amz-Signature=s"),
    ),
    "a query of a list": (
        spec("list+https://a.example/l?n=1", "https://b.example/", recursive=True),
        spec("list+https://a.example/l?n=2", "https://b.example/", recursive=True),
    ),
    "an encoded slash": (spec("https://a.example/d/a%2Fb"), spec("https://a.example/d/a/b")),
    "what is encoded twice": (spec("https://a.example/a%2fb"), spec("https://a.example/a%252Fb")),
    "a port": (spec("https://a.example/d"), spec("https://a.example:444/d")),
    "a store": (spec("https://a.example/d"), spec("webdav+https://a.example/d")),
    "a user": (
        spec("https://a.example/d", headers=(("Authorization", "Basic dXNlcjpwdw=="),)),
        spec("https://a.example/d", headers=(("Authorization", "Basic b3RoZXI6cHc="),)),
    ),
    "a header that names an object": (
        spec("https://a.example/d", headers=(("Dropbox-API-Arg", '{"path": "/a"}'),)),
        spec("https://a.example/d", headers=(("Dropbox-API-Arg", '{"path": "/b"}'),)),
    ),
    "the key of an object": (
        spec("https://a.example/d", headers=(("X-Object-Key", "a"),)),
        spec("https://a.example/d", headers=(("X-Object-Key", "b"),)),
    ),
    "a form of an object": (
        spec("https://a.example/d"),
        spec("https://a.example/d", headers=(("Accept", "text/csv"),)),
    ),
    "an option": (spec("https://a.example/d"), spec("https://a.example/d", server_copy=False)),
    "a remote's endpoint": (
        spec("far:bucket/key", remotes=Remotes(far_settings(), environment={})),
        spec(
            "far:bucket/key",
            remotes=Remotes({"far": {**far_settings()["far"], "endpoint": "http://two.example"}}),
        ),
    ),
    "a remote's account": (
        spec(
            "far:bucket/key",
            remotes=Remotes(far_settings(access_key_id="A", secret_access_key="S")),
        ),
        spec(
            "far:bucket/key",
            remotes=Remotes(far_settings(access_key_id="B", secret_access_key="S")),
        ),
    ),
    "a remote's url": (
        spec("web:x", remotes=Remotes({"web": {"type": "webdav", "url": "https://a.example/dav"}})),
        spec(
            "web:x", remotes=Remotes({"web": {"type": "webdav", "url": "https://a.example/other"}})
        ),
    ),
    "an endpoint of AWS's settings": (
        spec(S3, remotes=profile("p", endpoint="http://one.example")),
        spec(S3, remotes=profile("p", endpoint="http://two.example")),
    ),
    "a profile": (spec(S3, remotes=profile("one")), spec(S3, remotes=profile("two"))),
}
OPENING = (
    "Authorization",
    "PRIVATE-TOKEN",
    "X-Api-Key",
    "X-Amz-Date",
    "X-Request-Id",
    "User-Agent",
    "X_Auth_Token",
)
SAME: dict[str, tuple[Spec, Spec]] = {
    **{
        name: (
            spec("https://a.example/d", headers=((name, "one"), ("X-Object", "a"))),
            spec("https://a.example/d", headers=(("x-object", "a"), (name, "two"))),
        )
        for name in OPENING
    },
    "a signature of AWS's": (
        spec("https://a.example/d?versionId=1&X-Amz-Date=1&X-Amz-Signature=s"),
        spec("https://a.example/d?X-Amz-Date=2&X-Amz-Signature=t&versionId=1"),
    ),
    "a signature of Google's": (
        spec("https://a.example/d?X-Goog-Expires=1&X-Goog-Signature=s"),
        spec("https://a.example/d?X-Goog-Expires=9&X-Goog-Signature=t"),
    ),
    "a signature of Azure's": (
        spec("https://a.example/d?sv=2024-01-01&se=2026&sr=b&sig=s"),
        spec("https://a.example/d?sv=2025-01-01&se=2027&sr=b&sig=t"),
    ),
    "a signature of Aliyun's": (
        spec("https://a.example/d?OSSAccessKeyId=a&Expires=1&Signature=s"),
        spec("https://a.example/d?OSSAccessKeyId=b&Expires=2&Signature=t&security-token=x"),
    ),
    "a signature of Tencent's": (
        spec("https://a.example/d?q-sign-algorithm=sha1&q-ak=a&q-signature=s"),
        spec("https://a.example/d?q-sign-algorithm=sha1&q-ak=b&q-signature=t"),
    ),
    "a signature of CloudFront's": (
        spec("https://a.example/d?Expires=1&Signature=s&Key-Pair-Id=k&Hash-Algorithm=SHA256"),
        spec("https://a.example/d?Expires=2&Signature=t&Key-Pair-Id=l"),
    ),
    "a password": (
        spec("https://a.example/d", headers=(("Authorization", "Basic dXNlcjpwdw=="),)),
        spec("https://a.example/d", headers=(("Authorization", "Basic dXNlcjpuZXc="),)),
    ),
    "a token": (
        spec("https://a.example/d", headers=(("Authorization", "Bearer a"),)),
        spec("https://a.example/d", headers=(("Authorization", "Bearer b"),)),
    ),
    "the spelling": (spec("https://A.example:443/a%2Db"), spec("https://a.example/a-b")),
    "the spelling of an encoded slash": (
        spec("https://a.example/%61%2fb"),
        spec("https://a.example/a%2Fb"),
    ),
    "the region": (
        spec(S3, remotes=Remotes({}, aws=lambda _: S3Config(Signer(lambda: None, "eu-west-1")))),
        spec(S3, remotes=Remotes({}, aws=lambda _: S3Config(Signer(lambda: None, "us-east-2")))),
    ),
    "a key that expires": (
        spec(
            "far:bucket/key",
            remotes=Remotes(
                far_settings(access_key_id="A", secret_access_key="S", session_token="1")
            ),
        ),
        spec(
            "far:bucket/key",
            remotes=Remotes(
                far_settings(access_key_id="B", secret_access_key="S", session_token="2")
            ),
        ),
    ),
}


def test_another_identity_is_another_migration(ledger: Ledger) -> None:
    for what, (one, other) in OTHERS.items():
        first, _ = ledger.create(one, what)
        assert ledger.create(other, go_on=True)[0].id != first.id, what
        with pytest.raises(KeyReused):
            ledger.create(other, what)
        assert ledger.create(one, what)[0].id == first.id


def test_renewed_secrets_and_other_spellings_keep_the_identity(ledger: Ledger) -> None:
    for what, (one, other) in SAME.items():
        first, _ = ledger.create(one, what)
        assert ledger.create(other, go_on=True) == (ledger.migration(first.id), False), what
        assert ledger.create(other, what)[0].id == first.id
        assert ledger.is_at(first.id, other)


def test_a_local_folder_is_another_one_on_each_machine(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command on two machines with one ledger: each moves all objects into its own folder.
    A server's workers share their folders, and SQLite's file is on one machine."""

    def accept(machine: str, one: Spec) -> str:
        monkeypatch.setattr("relay.ledger.identity_hashes.machine_id", lambda: machine)
        return ledger.create(one, go_on=True)[0].id

    of_server = Remotes({}, environment={}, folders=(Path("/"),))
    for one, other in (
        (spec("https://a.example/d", "/srv/d"), True),
        (spec("list+/srv/l", recursive=True), True),
        (spec("http://localhost:9000/d"), True),
        (spec("http://x.localhost:9000/d"), True),
        (spec("http://127.1:9000/d"), True),
        (spec("http://0.0.0.0:9000/d"), True),
        (spec("https://a.example/d", "file:///srv/d", remotes=of_server), False),
        (spec("https://a.example/d"), False),
    ):
        first = accept("one", one)
        ids = {accept("two", one), accept("two", one)}
        assert ids == {first} if not other or ledger.database.sqlite else first not in ids
        assert len(ids) == 1
        assert accept("one", one) == first
        assert ledger.is_at(first, one)


def test_a_machine_does_not_resume_what_waits_on_another_one(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would count the objects in the other machine's folder as its own. On the same machine,
    another account is that of other credentials."""
    one, renewed = (profile("p", key) for key in ("KEY", "NEW"))

    def accept(machine: str, remotes: Remotes) -> str:
        monkeypatch.setattr("relay.ledger.identity_hashes.machine_id", lambda: machine)
        return ledger.create(spec(S3, "/srv/d", remotes), go_on=True)[0].id

    id = accept("one", one)
    ledger.pause_for(id, WITHDRAWN)
    for remotes in (one, renewed):
        assert (accept("two", remotes) == id) == ledger.database.sqlite
    assert [accept("one", remotes) for remotes in (renewed, one)] == [id, id]


def test_a_volume_is_another_one_in_each_container(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Containers of one image have one machine id, and each its own volume at /models."""
    shown = tmp_path / "mountinfo"
    monkeypatch.setattr(mounts, "MOUNTINFO", shown)
    monkeypatch.setattr(identities, "pid_namespace", lambda: "pid:[4026532000]")

    def accept(boot: str, volume: str, key: str = "KEY") -> str:
        monkeypatch.setattr(identities, "boot_id", lambda: boot)
        monkeypatch.setattr(identities, "network_namespace", lambda: volume)
        shown.write_text(
            f"1 0 0:50 / / rw - overlay overlay rw\n2 1 8:1 /{volume} /models rw - ext4 /dev/sda1 rw\n"
        )
        return ledger.create(spec(S3, "/models/d", profile("p", key)), go_on=True)[0].id

    first = accept("one", "m1")
    assert accept("one", "m1") == first  # a new container with the same volume resumes it
    assert accept("one", "m2") != first
    assert ledger.database.sqlite or accept("two", "m1") != first
    ledger.pause_for(first, WITHDRAWN)
    assert accept("one", "m3", "NEW") != first
    assert accept("one", "m1", "NEW") == first


@pytest.mark.parametrize("verb", ["resume", "retry"])
def test_fresh_credentials_are_for_the_same_places(ledger: Ledger, verb: str) -> None:
    for what, (one, other) in OTHERS.items():
        id = ledger.create(one)[0].id
        ledger.act(id, "pause" if verb == "resume" else "cancel")
        if what in (
            "an option",
            "a user",
            "a remote's account",
            "a profile",
        ):  # another account may open the same place
            assert ledger.act(id, verb, other).state == "running", what
            continue
        before = ledger.migration(id), ledger.secret(id)
        with pytest.raises(KeyReused):
            ledger.act(id, verb, other)
        assert (ledger.migration(id), ledger.secret(id)) == before, what
        assert ledger.act(id, verb, one).state == "running"


def test_other_credentials_resume_a_waiting_migration(
    ledger: Ledger,
) -> None:
    one, other = OTHERS["a remote's account"]
    id = ledger.create(one, go_on=True)[0].id
    ledger.pause_for(id, WITHDRAWN)
    assert ledger.create(other, go_on=True)[0].id == id
    ledger.act(id, "resume")
    assert ledger.create(other, go_on=True)[0].id == id
    assert ledger.create(one, go_on=True)[1]


def test_stored_identities_confirm_no_guessed_query_secret(tmp_path: Path) -> None:
    """The hashes of one request in two ledgers have nothing in common."""
    found = []
    for name in "ab":
        ledger = Ledger.connect(f"sqlite:///{tmp_path}/{name}.db")
        ledger.create(spec("https://a.example/d?token=12"))
        found.append(
            ledger.database.run(
                lambda c: c.exec_driver_sql("SELECT spec, places, owner FROM migrations").one()
            )
        )
        ledger.close()
    assert not set(found[0]) & set(found[1])


# -- migrations that an older relay accepted


def accept_as_older_relay(ledger: Ledger, one: Spec) -> str:
    """Accept a migration as an older relay did; return its id."""
    id = ledger.create(one)[0].id
    values = {
        "spec": one.printed_digest,
        "places": None,
        "owner": None,
        "runner": None,
        "entries": None,
    }
    ledger.database.run(
        lambda c: c.execute(update(migrations).where(migrations.c.id == id).values(**values))
    )
    return id


def test_an_older_migration_resumes_if_certainly_the_same(
    ledger: Ledger,
) -> None:
    for one, same, other in (
        (
            spec("https://a.example/d?id=1"),
            spec("https://a.example/d?id=1"),
            spec("https://a.example/d?id=2"),
        ),
        (*SAME["a signature of AWS's"], OTHERS["a query beside a signature"][1]),
        (spec("/a/b", "/c/d"), spec("/a/b", "/c/d"), spec("/a/b", "/c/e")),
    ):
        id = accept_as_older_relay(ledger, one)
        assert ledger.create(other, go_on=True)[1]
        assert ledger.is_at(id, same) and not ledger.is_at(id, other)
        assert ledger.create(same, go_on=True)[0].id == id
        assert ledger.migration(id).runner == "terminal"
        assert ledger.create(same, go_on=True)[0].id == id


def test_an_older_migration_of_a_remote_resumes_if_empty(
    ledger: Ledger,
) -> None:
    remotes = Remotes(far_settings(), environment={})
    one = spec("far:bucket/key", remotes=remotes)
    id = accept_as_older_relay(ledger, one)
    assert ledger.create(one, go_on=True)[0].id == id
    id = accept_as_older_relay(ledger, spec("far:bucket/a/", remotes=remotes, recursive=True))
    listing = ledger.listings.claim(only=id)
    assert listing is not None
    ledger.listings.add_page(listing, [ListedObject("a", size=5), ListedObject("b", size=5)], "b")
    ledger.claims.settle([verified_end(ledger.claims.claim(1, only=id)[0])])
    assert ledger.create(spec("far:bucket/a/", remotes=remotes, recursive=True), go_on=True)[1]


def test_the_list_of_an_older_migration_resumes_by_name(ledger: Ledger) -> None:
    id = accept_as_older_relay(ledger, TREE)
    first = ledger.listings.claim()
    assert first is not None and not first.counted
    ledger.listings.add_page(
        first, [ListedObject("a/b~01234567", size=5, url="https://a.example/b?x")], None
    )
    values = {"identity": None}
    ledger.database.run(lambda c: c.execute(update(transfers).values(**values)))
    ledger.listings.hand_back(first)
    again = ledger.listings.claim()
    assert again is not None
    page = [
        ListedObject("a/b~0123456789abcdef", size=5, url="https://a.example/b?x", identity="x"),
        ListedObject("a/c~0123456789abcdef", size=5),
    ]
    ledger.listings.add_page(again, page, None)
    assert [row.name for row in ledger.page(id)] == ["a/b~01234567", "a/c~0123456789abcdef"]


# -- kinds of workers


def server(address: str) -> Ledger:
    """Open the ledger as a server's worker does."""
    made = Ledger(open_database(address), WorkerId.of_this_process("server", SERVER))
    made.leases.renew()
    return made


def test_each_kind_of_runner_works_on_its_own(ledger: Ledger, address: str) -> None:
    ours, theirs = ledger, server(address)
    try:
        mine, yours = tree(ours, 5), theirs.create(OBJECT)[0].id
        assert theirs.listings.claim() is None
        assert [claim.migration_id for claim in theirs.claims.claim(10)] == [yours]
        assert [claim.migration_id for claim in ours.claims.claim(10)] == [mine]
        again = ours.create(TREE)[0].id
        assert theirs.listings.claim() is None
        listing = ours.listings.claim()
        assert listing is not None and listing.migration_id == again
        assert ours.create(OBJECT, go_on=True)[1]  # the server's worker owns it
    finally:
        theirs.close()


def test_a_server_shows_its_own_migrations_and_a_terminal_all(ledger: Ledger, address: str) -> None:
    theirs = server(address)
    try:
        mine, yours = ledger.create(TREE)[0], theirs.create(OBJECT)[0]
        assert [m.id for m in theirs.migrations()] == [yours.id]
        assert [m.id for m in ledger.migrations()] == [yours.id, mine.id]
        for id in (mine.id, str(mine.number)):
            with pytest.raises(MigrationUnknown):
                theirs.migration(id)
    finally:
        theirs.close()


def test_migrations_of_an_older_relay_run_anywhere(ledger: Ledger, address: str) -> None:
    theirs = server(address)
    try:
        id = accept_as_older_relay(ledger, OBJECT)
        assert theirs.migration(id).id == id
        assert [claim.migration_id for claim in theirs.claims.claim(1)] == [id]
    finally:
        theirs.close()


def test_no_identity_of_a_request_shows(ledger: Ledger) -> None:
    one = spec(
        "https://a.example/d?token=hidden", headers=(("Authorization", "Basic aGlkZGVuOnB3"),)
    )
    migration, _ = ledger.create(one)
    assert "hidden" not in repr(one) + repr(migration) + json.dumps(ledger.events.all(migration.id))


@pytest.mark.parametrize(
    ("mode", "then"),
    [(0o644, 0o600), (0o666, 0o600), (0o604, 0o600), (0o660, 0o660), (0o600, 0o600)],
)
@pytest.mark.parametrize("made", [False, True], ids=["empty", "ledger"])
def test_a_ledger_is_closed_to_others(tmp_path: Path, made: bool, mode: int, then: int) -> None:
    """A ledger holds credentials. The mode of a group's ledger is intended; a file that is not a
    ledger stays unchanged."""
    path, other = tmp_path / "l.db", tmp_path / "photo.jpg"
    path.touch()
    if made:
        open_database(f"sqlite:///{path}").close()
    path.chmod(mode)
    database = open_database(f"sqlite:///{path}")
    found = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    database.close()
    assert found["l.db"] == then
    assert all(mode & ~then == 0 for mode in found.values()), found
    other.write_bytes(b"no ledger")
    other.chmod(mode)
    with pytest.raises(ConfigError):
        open_database(f"sqlite:///{other}")
    assert stat.S_IMODE(other.stat().st_mode) == mode


@pytest.mark.parametrize(
    "address",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite+pysqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
        "sqlite:///file:{folder}/l.db?immutable=1&uri=true",
        "sqlite:///{folder}/l.db?cache=shared",
        "sqlite://host/l.db",
        "postgresql+asyncpg://u:hunter2@127.0.0.1/x",
        "postgresql+psycopg2://u:hunter2@127.0.0.1/x",
        "postgresql+psycopg://u:hunter2@127.0.0.1:port/x",
        "postgresql+psycopg://u:a@hunter2@127.0.0.1:1/x",
        "mysql://u:hunter2@127.0.0.1/x",
        "hunter2",
    ],
)
def test_a_path_that_cannot_be_a_ledger_is_refused(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret that a process keeps for itself would be lost with it, and each worker would have
    another one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="is not the URL of a ledger") as refused:
        open_database(address.format(folder=tmp_path))
    assert "hunter2" not in f"{refused.value.message} {refused.value.hint}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "address",
    [
        "postgresql+psycopg://u:hunter2@127.0.0.1:1/x",
        "postgresql+psycopg://u@127.0.0.1:1/x?password=hunter2",
        "postgresql://127.0.0.1:1/x?user=u&password=hunter2&sslpassword=hunter2",
        "postgresql+psycopg://u@127.0.0.1:1/x?nosuch=hunter2",
    ],
)
def test_no_password_of_a_ledger_is_shown(address: str) -> None:
    """Anywhere in the URL."""
    with pytest.raises(ConfigError) as refused:
        open_database(address)
    assert "127.0.0.1:1/x" in refused.value.message
    assert "hunter2" not in f"{refused.value.message} {refused.value.hint}"
