"""One case, played: two lying stores, a ledger, and the commands of its history, on real sockets
and real processes.

Decided here: the state at the start of a case, and the records of its course. Never here: whether
that is right (`judge.py`)."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

from simulators.liars.base import Liar
from simulators.liars.dav import DavLiar
from simulators.liars.folder import FolderLiar
from simulators.liars.plain import PlainLiar
from simulators.liars.s3 import BUCKET, S3Liar
from simulators.liars.store_habits import StoreHabits
from simulators.liars.stored_objects import Upload, Who
from simulators.liars.unsafe import MARKER
from tests.torture.cases import Case, Step
from tests.torture.commands import Ended, Zygote
from tests.torture.served import VERBS, serve

Store = Liar | FolderLiar
KINDS: Mapping[str, type[PlainLiar | S3Liar]] = {"http": PlainLiar, "webdav": DavLiar, "s3": S3Liar}
OLDER, OLD, NEWER = 1_690_000_000.0, 1_700_000_000.0, 1_750_000_000.0
"""The times of an object that replaces one of the source, of the source's objects, and of prior
objects at the destination."""
COMMAND_SECONDS = 150.0
"""Seconds after which a command counts as hung."""
REPORT_SEEDS = 3
"""In one of this number of seeds, relay reports all finished migrations."""
FORMATS = ("table", "jsonl", "csv", "html")
ROLES = ("source", "destination")
BUSY = ("busy-503", "busy-429", "error-500")
"""Habits that may fail the first requests of an object, one after the other: seven of them on
WebDAV lead to waits of up to 31 seconds."""
SLOW = ("hangs", "hangs-always", "head-hangs")
"""Habits that need short waits."""


@dataclass(frozen=True)
class Row:
    """One transfer as the ledger has it in the end."""

    name: str
    state: str
    code: str
    side: str
    message: str
    level: str


@dataclass(kw_only=True)
class Played:
    """The records of a played case."""

    case: Case
    source: Store
    destination: Store
    secrets: dict[str, str]
    """The secrets, by their owner."""
    runs: list[Ended] = field(default_factory=list)
    reports: list[Ended] = field(default_factory=list)
    """The commands that report the result."""
    rows: dict[str, Row] = field(default_factory=dict)
    migration: Mapping[str, Any] = field(default_factory=dict)
    begun: list[tuple[int, str]] = field(default_factory=list)
    """For each command, the number of events at the destination before it, and its effective
    --if-exists."""
    replaced: int | None = None
    """The number of migrations before an object of the source was replaced."""
    abandoned: bool = False
    """Whether an earlier migration is neither over nor resumed: it knows its leftovers."""
    over: bool = False
    """Whether every migration has succeeded, or was cancelled and cleaned up: then the ledger keeps
    no secret of them."""
    has_remains: bool = False
    """Whether the last `relay cancel` said that an upload may remain: the ledger keeps the secrets
    with which the same command removes it."""
    uploads: frozenset[str] = frozenset()
    """The multipart uploads that the ledger knows."""
    earlier: list[Row] = field(default_factory=list)
    """The transfers of the migrations before the last one, whose records may be read as well."""
    leaks: list[tuple[str, str]] = field(default_factory=list)
    """Secrets, and the places where they are stored."""

    @property
    def last(self) -> Ended:
        """The last command."""
        return self.runs[-1]

    @property
    def wish(self) -> str:
        """The effective --if-exists of the last command."""
        return self.begun[-1][1] if self.begun else self.case.wish(self.case.steps[-1])

    @property
    def output(self) -> str:
        """The output of all commands."""
        return "".join(run.out + run.err for run in self.runs)

    def name(self, row: str) -> str:
        """Return the name at the stores that a row of the ledger refers to."""
        return row or self.case.objects[0][0]


def play(case: Case, zygote: Zygote, template: Path) -> Played:
    """Play a case; `template` is an empty ledger."""
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="torture-", dir=_fast_folder()))
        )
        secrets = {
            role: f"{role}-SECRET-{case.seed:08}" for role in ("source", "destination", "link")
        }
        source = stack.enter_context(_store(case, "source", secrets["source"], folder))
        destination = stack.enter_context(
            _store(case, "destination", secrets["destination"], folder)
        )
        _fill(case, source, destination)
        _introduce(source, destination, secrets["link"])
        played = Played(case=case, source=source, destination=destination, secrets=secrets)
        shutil.copy(template, folder / "ledger.db")
        environment = _environment(case, folder)
        _configure(folder, source, destination, secrets)
        for step in case.steps:
            if not _play_step(case, step, played, zygote, folder, environment):
                break
        if case.seed % REPORT_SEEDS == 0 and not case.served and played.last.code is not None:
            _tell(played, zygote, folder, environment)
        _read_ledger(played, folder / "ledger.db")
        played.leaks = _leaks(folder, played)
        return played


def _fast_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _store(case: Case, role: str, secret: str, folder: Path) -> Store:
    kind = case.source if role == "source" else case.destination
    store_habits = StoreHabits(case.habits(role), case.seed * 2 + (role == "destination"))
    if kind == "local":
        return FolderLiar(role, store_habits, folder / "files", confined=case.served)
    return KINDS[kind](role, store_habits, {secret})


def _introduce(source: Store, destination: Store, password: str) -> None:
    """Give both stores the facts about each other that their habits need."""
    if isinstance(source, Liar):
        source.password = password
        source.elsewhere = (
            f"127.0.0.1:{destination.port}" if isinstance(destination, Liar) else "127.0.0.1:9"
        )
    if isinstance(source, FolderLiar) and isinstance(destination, Liar):
        destination.watch = source.changes


def content(seed: int, name: str, size: int) -> bytes:
    """Return the bytes of a source's object: unique for each name and seed."""
    return Random(f"{seed} {name}").randbytes(size)


def _put(store: Store, name: str, data: bytes, by: Who, modified: float) -> None:
    if isinstance(store, FolderLiar):
        store.put(name, data, by, modified)
    else:
        store.shelf.put(name, data, by, modified=modified)


def _fill(case: Case, source: Store, destination: Store) -> None:
    for name, size in case.objects:
        _put(source, name, content(case.seed, name, size), "source", OLD)
    for name in source.odd if case.tree else ():
        _put(source, name, content(case.seed, name, 0 if name == MARKER else 17), "source", OLD)
    if case.has("destination", "other-upload") and destination.store_habits.does("other-upload"):
        name = case.objects[0][0]
        theirs = Upload(
            id="theirs", name=name, by="other", begun=time.time() - 3600, parts={1: b"theirs"}
        )
        destination.shelf.uploads["theirs"] = theirs
    sizes = dict(case.objects)
    for name, how in case.before:
        size = sizes.get(name, 20)
        there = (
            content(case.seed, name, size)
            if how == "same"
            else content(case.seed + 1, f"before {name}", size)
        )
        _put(destination, name, there + b"longer" * (how == "longer"), "before", NEWER)
    for store in (source, destination):
        store.shelf.settle()
        if isinstance(store, FolderLiar):
            store.arrange(
                [name for name, _ in case.objects], OLD if store is source else NEWER, case.tree
            )


def _environment(case: Case, folder: Path) -> dict[str, str]:
    trees = [
        f"{folder}/files/{role}/in"
        for role in ("source", "destination")
        if _kind(case, role) == "local"
    ]
    slow = any(case.has(role, *SLOW) for role in ("source", "destination"))
    return {
        "HOME": str(folder),
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "AWS_EC2_METADATA_DISABLED": "true",
        "RELAY_CONFIG": str(folder / "relay.toml"),
        "RELAY_LEDGER": f"sqlite:///{folder}/ledger.db",
        "RELAY_EGRESS_ALLOW": "127.0.0.1",
        "RELAY_HEAD_SECONDS": "0.5" if slow else "10",
        "RELAY_STALL_SECONDS": "0.5" if slow else "10",
        "RELAY_SETTLE_SECONDS": "0.8",
        "RELAY_RETRY_BUDGET": "40" if case.has("destination", *BUSY) else "5",
        "RELAY_PARTED_BYTES": str(5 << 20),
        "RELAY_PART_BYTES": str(5 << 20),
        **({"RELAY_LOCAL_FOLDERS": ":".join(trees)} if trees and case.served else {}),
    }


def _kind(case: Case, role: str) -> str:
    return case.source if role == "source" else case.destination


def _configure(folder: Path, source: Store, destination: Store, secrets: Mapping[str, str]) -> None:
    """Write relay.toml, which names both stores, and the files of headers for stores that are named
    by URL."""
    text = ""
    for role, store in (("source", source), ("destination", destination)):
        if store.kind == "local":
            continue
        secret = secrets[role]
        if store.kind == "s3":
            options = {
                "type": "s3",
                "endpoint": store.url(),
                "access_key_id": secret,
                "secret_access_key": f"{secret}-KEY",
            }  # type: ignore[attr-defined]
            options["region"] = "us-east-1"
        else:
            options = {"type": store.kind, "url": store.url().rstrip("/"), "bearer_token": secret}  # type: ignore[attr-defined]
        text += f"[remotes.{role}]\n" + "".join(
            f"{name} = {json.dumps(value)}\n" for name, value in options.items()
        )
        headers = folder / f"{role}.headers"
        headers.write_text(f"Authorization: Bearer {secret}\n")
        headers.chmod(0o600)
    (folder / "relay.toml").write_text(text)


def words_of(case: Case, step: Step, played: Played) -> list[str]:
    """Return the command line of a step."""
    if_exists, verify = case.options(step)
    words = ["migrate", "--json", "--verify", verify]
    words += ["--if-exists", if_exists] if if_exists else []
    words += ["-r"] if case.tree else []
    return [*words, *_places(case, played)]


def _places(case: Case, played: Played) -> list[str]:
    """Return how a command names both places, with the flags that give their credentials."""
    name, places = "" if case.tree else case.objects[0][0], []
    words: list[str] = []
    for role, store in (("source", played.source), ("destination", played.destination)):
        if store.kind == "http" and case.seed % 2:
            words += [f"--{role}-headers-file", f"{role}.headers"]
            places.append(store.url(name))  # type: ignore[attr-defined]
        elif store.kind == "s3":
            places.append(f"{role}:{BUCKET}/{name}")
        elif store.kind == "local":
            places.append(store.url(name))
        else:
            places.append(f"{role}:{name}")
    return [*words, *places]


def _order(case: Case, step: Step, played: Played) -> dict[str, Any]:
    """Return the request to a server that is equivalent to the command line."""
    if_exists, verify = case.options(step)
    order: dict[str, Any] = {"recursive": case.tree, "verify": verify}
    return order | ({"if_exists": if_exists} if if_exists else {}) | _ends(case, played)


def _ends(case: Case, played: Played) -> dict[str, Any]:
    """Return how a request names both places, with their credentials."""
    *_, source, destination = _places(case, played)
    ends: dict[str, Any] = {}
    for role, text in (("source", source), ("destination", destination)):
        ends[role] = {"url": f"file://{quote(text)}" if text.startswith("/") else text}
        if text.startswith("http"):
            ends[role]["headers"] = {"Authorization": f"Bearer {_secret(played, role)}"}
    return ends


def _secret(played: Played, role: str) -> str:
    """Return the secret that a store currently accepts."""
    return played.secrets.get(f"fresh {role}", played.secrets[role])


def _play_step(
    case: Case,
    step: Step,
    played: Played,
    zygote: Zygote,
    folder: Path,
    environment: Mapping[str, str],
) -> bool:
    """Play one step; False if further steps make no sense."""
    if step.kind == "grow":
        _put(played.source, "grown.txt", content(case.seed, "grown.txt", 30), "source", OLD)
        _look(played)
        return True
    if step.kind == "replace":
        _replace(case, played, folder)
        return True
    if step.kind == "cancel":
        ended = zygote.begin(["cancel", "1"], folder, environment).wait(COMMAND_SECONDS)
        played.reports.append(ended)
        played.has_remains = ended.code == 1
        _look(played)
        return ended.code is not None
    if step.kind == "fresh":
        _renew(played, folder)
    played.begun.append((len(played.destination.shelf.events), case.wish(step)))
    # To a server, a second request is another migration.
    is_renewed = step.kind == "fresh" and (step.how == "other" or case.served)
    verb = VERBS.get(_state(folder), "resume") if step.kind == "retry" or is_renewed else None
    fresh = _ends(case, played) if is_renewed else {}
    if case.served:
        played.runs.append(
            serve(_order(case, step, played), zygote, folder, environment, verb, fresh)
        )
    else:
        env = {**environment, "RELAY_FAILPOINT": step.failpoint} if step.failpoint else environment
        if verb is not None:
            words = [verb, "1", *(_places(case, played) if fresh else ())]
            played.runs.append(zygote.begin(words, folder, env).wait(COMMAND_SECONDS))
        played.runs.append(
            zygote.begin(words_of(case, step, played), folder, env).wait(COMMAND_SECONDS)
        )
    _look(played)
    return played.last.code is not None


def _replace(case: Case, played: Played, folder: Path) -> None:
    """Replace the source's first object, if it exists, by another of the same size and an older
    date."""
    name, size = case.objects[0]
    if played.source.shelf.get(name) is None:
        return
    _put(played.source, name, content(case.seed, f"replaced {name}", size), "source", OLDER)
    with closing(sqlite3.connect(f"file:{folder}/ledger.db?mode=ro", uri=True)) as ledger:
        played.replaced = ledger.execute("select count(*) from migrations").fetchone()[0]


def _look(played: Played) -> None:
    for store in (played.source, played.destination):
        if isinstance(store, FolderLiar):
            store.look()


def _renew(played: Played, folder: Path) -> None:
    """Give both stores fresh credentials, and put them where a command finds them."""
    for role, store in (("source", played.source), ("destination", played.destination)):
        played.secrets[f"fresh {role}"] = f"{role}-FRESH-{played.case.seed:08}"
        if isinstance(store, Liar):
            store.renew(_secret(played, role))
    _configure(
        folder, played.source, played.destination, {role: _secret(played, role) for role in ROLES}
    )


def _tell(played: Played, zygote: Zygote, folder: Path, environment: Mapping[str, str]) -> None:
    """Let relay report all finished migrations."""
    words = [
        ["status", "1"],
        ["status", "1", "--json"],
        *(["report", "1", "--format", form] for form in FORMATS),
    ]
    ended = zygote.begin(["status"], folder, environment, words).wait(COMMAND_SECONDS)
    played.reports.append(ended)


def _state(folder: Path) -> str:
    """Return the state of the migration, or nothing if none exists."""
    with closing(sqlite3.connect(f"file:{folder}/ledger.db?mode=ro", uri=True)) as ledger:
        found = ledger.execute(
            "select state from migrations order by number desc limit 1"
        ).fetchone()
    return found[0] if found else ""


# -- the stored records


def _read_ledger(played: Played, path: Path) -> None:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as ledger:
        ledger.row_factory = sqlite3.Row
        found = ledger.execute("select * from migrations order by number desc limit 1").fetchone()
        if found is None:
            return
        played.migration = dict(found)
        if found["error"] and "again" in json.loads(found["error"]):
            played.migration = {
                **found,
                "error": None,
            }  # from a listing that was retried and is over
        receipts = dict(map(tuple, ledger.execute("select transfer_id, receipt from receipts")))
        for row in ledger.execute("select * from transfers"):
            error = json.loads(row["error"]) if row["error"] else {}
            message = (
                f"{error.get('detail', '')} {error.get('hint', '')} {receipts.get(row['id'], '')}"
            )
            kept = Row(
                row["name"],
                row["state"],
                error.get("code", ""),
                error.get("side") or "",
                message,
                row["level"] or "",
            )
            if row["migration_id"] == found["id"]:
                played.rows[kept.name] = kept
            else:
                played.earlier.append(kept)
        states = {row["state"] for row in ledger.execute("select state from migrations")}
        played.abandoned = bool(
            ledger.execute(
                "select 1 from migrations where id != ? and state in ('running', 'paused')",
                (found["id"],),
            ).fetchone()
        )
        played.over = states <= {"succeeded", "cancelled"} and not played.has_remains
        played.uploads = frozenset(
            row["upload_id"] for row in ledger.execute("select upload_id from uploads")
        )


def _leaks(folder: Path, played: Played) -> list[tuple[str, str]]:
    """Return the secrets that are stored where none may be: in the output, and in the ledger of
    finished migrations."""
    found = []
    for path in sorted(folder.iterdir()):
        ledger = path.name.startswith("ledger")
        if path.suffix in (".out", ".err") or (ledger and played.over):
            data = path.read_bytes()
            found += [
                (role, path.name)
                for role, secret in played.secrets.items()
                if secret.encode() in data
            ]
    return found


def empty_ledger(zygote: Zygote, folder: Path) -> Path:
    """Make an empty ledger, of which each case gets a copy."""
    environment = {
        "HOME": str(folder),
        "PATH": "/usr/bin:/bin",
        "RELAY_LEDGER": f"sqlite:///{folder}/template.db",
    }
    ended = zygote.begin(["status"], folder, {**environment, "RELAY_CONFIG": "/dev/null"}).wait(
        COMMAND_SECONDS
    )
    assert ended.code == 0, ended
    path = folder / "template.db"
    with closing(sqlite3.connect(path)) as ledger:
        ledger.execute("pragma wal_checkpoint(truncate)")
    return path
