"""The ledger's database: open it, check it, and run transactions without blocking the hub.

Theory of operation. SQLite's calls never yield, and a wait for its lock sleeps inside C; so one
native thread does them all, one transaction at a time, and the greenlet that asked is woken when it
is done. psycopg waits by gevent's own sockets, so PostgreSQL's calls are made where they are asked
for, on a few connections.

Every transaction that writes takes SQLite's write lock when it begins, so that none is ever refused
half-way. Whoever finds it taken asks again after a millisecond or two: SQLite's own wait sleeps
longer each time, up to a tenth of a second, so that the lock lies free meanwhile, and goes to who
came last. One that only reads takes no lock, and is rolled back, so that it can't have written.

A file is taken only if it is ours, whole, and not of a newer relay; nothing is ever made anew in
the place of one that is there. Commits reach the disk before they return (`synchronous=FULL`): what
is acknowledged is not lost with the power.

Decided here: how a transaction is run, and what a database's failures mean. Never here: what is in
it."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from gevent.monkey import get_original
from gevent.threadpool import ThreadPool
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.pool import StaticPool

from relay.errors import ConfigError, LedgerBusy, LedgerFailed, LedgerRefused
from relay.ledger.schema import APPLICATION_ID, HEAD

T = TypeVar("T")
BUSY_SECONDS: Final = 5.0
"""How long a transaction waits for SQLite's lock, in its native thread."""
AGAIN_SECONDS: Final = (0.0005, 0.003)
"""How long it sleeps before it asks for the lock again: at least, and at most."""
CONNECTIONS: Final = 4
ALIVE: Final = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""When a server that is gone without a word is taken for gone: the defaults are two hours, and a
quarter of one (postgresql.org/docs/current/libpq-connect.html)."""
_SLEEP: Final = get_original("time", "sleep")
"""A native thread has no hub to wait on."""
_HERE = Path(__file__).parent


class Database:
    """One ledger's database. Every method but `open` may be called from any greenlet."""

    def __init__(self, url: URL, engine: Engine) -> None:
        """Not for callers: use `open_database`."""
        self.url, self._engine = url, engine
        self.sqlite = engine.dialect.name == "sqlite"
        self._thread = ThreadPool(1) if self.sqlite else None
        self._file: tuple[int, int] | None = None

    def run(self, do: Callable[[Connection], T], write: bool = True) -> T:
        """Do it in one transaction and return what it returns; what it raises undoes the
        transaction.

        Raises LedgerBusy when another process keeps the database for too long, LedgerFailed when it
        can't be read or written: then nothing of it was done, or (a connection lost at the commit)
        nobody knows."""
        if self._thread is None:
            return self._transaction(do, write)
        result, error = self._thread.apply(self._run_caught, (do, write))
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def _run_caught(
        self, do: Callable[[Connection], T], write: bool
    ) -> tuple[Any, BaseException | None]:
        # `apply` would print an exception before it hands it over.
        try:
            return self._transaction(do, write), None
        except BaseException as error:  # noqa: BLE001 - raised again where it was asked for
            return None, error

    def _transaction(self, do: Callable[[Connection], T], write: bool) -> T:
        try:
            with self._engine.connect().execution_options(relay_write=write) as connection:
                with connection.begin() as transaction:
                    result = do(connection)
                    if not write:
                        transaction.rollback()
                return result
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise _to_ledger_error(error, self.where) from None

    def wipe_log(self) -> bool:
        """Empty SQLite's write-ahead log, where what was deleted stands until it is written over
        (sqlite.org/wal.html, "Checkpointing"). Returns False where another process reads the log at
        the moment; raises LedgerFailed."""
        if self._thread is None:
            return True
        emptied, error = self._thread.apply(self._wipe_caught)
        if error is not None:
            raise error
        return emptied

    def _wipe_caught(self) -> tuple[bool, BaseException | None]:
        try:
            with (
                self._engine.connect() as connection
            ):  # no transaction: a checkpoint can't be made in one
                driver = cast(sqlite3.Connection, connection.connection.driver_connection)
                driver.execute("PRAGMA busy_timeout=0")
                try:
                    return (
                        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0,
                        None,
                    )
                finally:
                    driver.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1e3)}")
        except (SQLAlchemyError, sqlite3.Error) as error:
            return False, _to_ledger_error(error, self.where)

    @property
    def where(self) -> str:
        """How the database is named to people: without a password."""
        return _redact(self.url)

    # -- the clock of leases

    def clock(self, connection: Connection) -> float:
        """Return the seconds of a clock that all runners of this ledger share and nobody sets back.

        SQLite's file is used by one machine alone, so it is that machine's time since it started;
        PostgreSQL's own."""
        if self.sqlite:
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        found: float = connection.execute(
            text("SELECT extract(epoch FROM clock_timestamp())::float8")
        ).scalar_one()
        return found

    # -- is it still there

    def check_file(self) -> None:
        """Raise LedgerFailed if the file is not the one that was opened: it was removed or replaced
        meanwhile."""
        if not self.sqlite or self._file is None:
            return
        try:
            found = os.stat(str(self.url.database))
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._file:
            raise LedgerFailed(
                f"the ledger {self.where} was removed or replaced while relay used it"
            )

    def check_opened_file(self) -> None:
        """Remember which file it is, and see that it is read by nobody else."""
        if self.sqlite:
            _close_to_others(Path(str(self.url.database)))
            found = os.stat(str(self.url.database))
            self._file = (found.st_dev, found.st_ino)

    def close(self) -> None:
        """Close the connections."""
        if self._thread is not None:
            self._thread.apply(self._engine.dispose)
            self._thread.kill()
        else:
            self._engine.dispose()


def open_database(address: str) -> Database:
    """Open a ledger by its URL, make its folder and tables where there are none, and bring older
    ones up to date.

    Raises ConfigError in one line for a URL that is not understood, a file that is not a ledger or
    not ours to write, one that is damaged, and one of a newer relay; a retryable one for a database
    that can't be reached, or that somebody keeps. Changes nothing then."""
    url = _parse_url(address)
    path = Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None
    try:
        if path is not None:
            _create_file(path)
        database = Database(url, _engine(url))
        try:
            if (
                database.run(_check_version, write=False) != HEAD
            ):  # who only looks need not wait for the lock
                database.run(_upgrade)
        except BaseException:
            database.close()
            raise
        database.check_opened_file()
    except OSError as error:
        raise _config_error(_redact(url), error.strerror or str(error)) from None
    except (LedgerFailed, LedgerBusy) as error:
        hint = _START if error.hint == LedgerFailed.default_hint else error.hint
        raise ConfigError(error.message, hint=hint, retryable=error.retryable) from None
    return database


DRIVERS: Final = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
"""What a ledger's URL may begin with, and the driver that it means: another one would hold the hub,
or is not here."""


def _parse_url(address: str) -> URL:
    """Return a ledger's URL. Raises ConfigError for one that is none, or whose database would not
    outlive a process."""
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        url = None
    driver = DRIVERS.get(url.drivername) if url is not None else None
    # What a query asks of SQLite (mode=memory, immutable, nolock) a ledger can't have.
    on_disk = (
        url is not None
        and url.database not in (None, "", ":memory:")
        and not (url.host or url.query)
    )
    cut = url is not None and "@" in (
        url.host or ""
    )  # what is left of a password after the first '@' is its end
    if url is None or driver is None or cut or (driver == "sqlite" and not on_disk):
        raise ConfigError(
            "RELAY_LEDGER is not the URL of a ledger",
            hint=(
                "Write sqlite:////folder/relay.db, or postgresql+psycopg://user:password@host/name;"
                " an '@' in a password is %40."
            ),
        )
    return url.set(drivername=driver)


def _redact(url: URL) -> str:
    """Return a database's URL, or its file, without what may be a password: a query may have one
    too."""
    return (
        str(url.database)
        if url.drivername == "sqlite"
        else url.set(query={}).render_as_string(hide_password=True)
    )


def _create_file(path: Path) -> None:
    """Make the file if there is none, for nobody else to read: it holds what the stores are spoken
    to with."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    left = path.with_name(f"{path.name}-wal")
    if left.exists() and not path.exists():
        raise ConfigError(
            f"the ledger {path} was removed, and {left.name} of it is still there",
            hint="Put the file back beside it; or remove that too, and begin with an empty ledger.",
        )
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _close_to_others(path: Path) -> None:
    """Let nobody else read a ledger of our own that everybody may, as `touch` has made it or a
    backup gave it back; one that a group shares stays so."""
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        with suppress(
            OSError
        ):  # the log comes and goes; a file system without modes has none to change
            found = file.stat()
            if found.st_mode & stat.S_IRWXO and found.st_uid == os.geteuid():
                file.chmod(found.st_mode & stat.S_IRWXU)


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        options = {"connect_timeout": 10, "application_name": "relay", **ALIVE}
        return create_engine(
            url, pool_size=CONNECTIONS, max_overflow=0, pool_pre_ping=True, connect_args=options
        )
    engine = create_engine(
        url,
        poolclass=StaticPool,
        connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS},
    )

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say so
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "wal_autocheckpoint=4000",
            "secure_delete=ON",  # what is deleted is overwritten: it may be a secret
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        driver = cast(sqlite3.Connection, connection.connection.driver_connection)
        if connection.get_execution_options().get("relay_write", True):
            begin_writing(driver, BUSY_SECONDS)
        else:
            driver.execute("BEGIN")

    return engine


def begin_writing(
    connection: sqlite3.Connection, seconds: float, pause: Callable[[float], object] = _SLEEP
) -> None:
    """Begin a transaction with SQLite's write lock, which is waited for up to `seconds`; in a
    native thread.

    Raises sqlite3.OperationalError: SQLITE_BUSY where it was not had, and then no transaction was
    begun."""
    until = time.monotonic() + seconds
    connection.execute("PRAGMA busy_timeout=0")
    try:
        while not _try_begin(connection, final=time.monotonic() >= until):
            pause(random.uniform(*AGAIN_SECONDS))  # noqa: S311 - two that wait should not ask in step
    finally:
        connection.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1e3)}")


def _try_begin(connection: sqlite3.Connection, final: bool) -> bool:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if final or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True


# -- what is in it


def _check_version(connection: Connection) -> str | None:
    """Return the version of what is there, or None. Raises LedgerFailed for what is not ours,
    damaged, or newer."""
    where = _redact(connection.engine.url)
    sqlite = connection.dialect.name == "sqlite"
    if (
        sqlite
        and (reported := connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()) != "ok"
    ):
        raise LedgerFailed(f"the ledger {where} is damaged ({reported})", hint=_KEEP)
    tables = set(connection.dialect.get_table_names(connection))
    version = _version(connection) if "alembic_version" in tables else None
    ours = (
        not sqlite or connection.exec_driver_sql("PRAGMA application_id").scalar() == APPLICATION_ID
    )
    if tables and (version is None or not ours or "migrations" not in tables):
        raise LedgerFailed(
            f"{where} is a database of something else", hint="Name another one in RELAY_LEDGER."
        )
    if version is not None and version > HEAD:
        raise LedgerFailed(
            f"the ledger {where} was written by a newer relay (schema {version}, this one knows"
            f" {HEAD})",
            hint="Use that relay, or name another ledger in RELAY_LEDGER.",
        )
    return version


def _version(connection: Connection) -> str:
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")


def _upgrade(connection: Connection) -> None:
    """Run the versions that are missing, all in this transaction."""
    sqlite = connection.dialect.name == "sqlite"
    if not sqlite:  # two relays may start at once
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": APPLICATION_ID})
    tables = connection.dialect.get_table_names(connection)
    if "alembic_version" in tables and _version(connection) == HEAD:
        return
    from alembic import command  # a tenth of a second, which no start but the first needs
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_HERE))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    if sqlite:
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")


# -- failures

_START = "Look at the disk or the database that RELAY_LEDGER names, and start relay again."
_KEEP = (
    "Keep the file, and name another ledger in RELAY_LEDGER; `sqlite3 FILE .recover` may save what"
    " is in it."
)


def _to_ledger_error(
    error: SQLAlchemyError | sqlite3.Error, where: str
) -> LedgerFailed | LedgerBusy:
    original = error.orig if isinstance(error, DBAPIError) else error
    said = str(original).strip().partition("\n")[0]
    if "database is locked" in said or "lock timeout" in said:
        return LedgerBusy(f"another process keeps the ledger {where}", retry_after=5.0)
    hint = _KEEP if any(word in said for word in ("malformed", "not a database")) else None
    if isinstance(error, DataError | IntegrityError):
        return LedgerRefused(
            f"the ledger {where}: {type(original).__name__}"
        )  # its text has the value
    away = isinstance(error, OperationalError) and type(original).__module__.startswith("psycopg")
    return LedgerFailed(f"the ledger {where}: {said}", hint=hint, retryable=away)


def _config_error(where: str, said: str) -> ConfigError:
    return ConfigError(
        f"the ledger {where} can't be opened ({said})",
        hint="Give RELAY_LEDGER a path that relay may write, as sqlite:////folder/relay.db.",
    )


def boot_id() -> str:
    """Return what tells one start of this machine from another."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def process_identity(pid: int) -> str | None:
    """Return what tells one process from every other of this machine: its number, its start, and
    the namespace in which it has that number (pid_namespaces(7)), as far as /proc tells. None: it
    is gone, for certain."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="utf-8", errors="replace")
            .rpartition(")")[2]
            .split()
        )
    except OSError:
        return str(pid) if _is_there(pid) else None
    return None if fields[0] in ("Z", "X") else f"{pid}.{fields[19]}@{pid_namespace()}"


def _is_there(pid: int) -> bool:
    """Say if there is a process that /proc does not show: it may hide those of others (proc(5),
    hidepid)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def pid_namespace() -> str:
    """Return what tells one numbering of processes from another; two containers may have the same
    host name."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "unknown"
