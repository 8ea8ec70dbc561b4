"""The ledger's database: open it, check it, and run transactions without blocking the hub.

Theory of operation. SQLite's calls never yield, and a wait for its lock sleeps inside C. So one
native thread runs all of them, one transaction at a time, and wakes the calling greenlet when its
transaction is done. psycopg waits on gevent's sockets, so PostgreSQL's calls run in the calling
greenlet, on a few connections.

Every writing transaction takes SQLite's write lock when it begins, so that it is never refused
half-way. A transaction that finds the lock taken tries again after a millisecond or two. SQLite's
own wait sleeps longer each time, up to a tenth of a second: the lock is free meanwhile, and the
newest waiter gets it. A reading transaction takes no lock and is rolled back, so that it can't
write.

A file is opened only if it is a relay ledger, undamaged, and not of a newer relay. An existing file
is never replaced. Commits reach the disk before they return (`synchronous=FULL`): acknowledged work
survives a power failure.

Decided here: how a transaction is run, and what a database's failures mean. Never here: the
contents of the tables."""

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
"""Shortest and longest sleep before it tries to take the lock again."""
CONNECTIONS: Final = 4
"""Size of the pool of PostgreSQL connections."""
ALIVE: Final = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""How soon a PostgreSQL server that vanished without closing its connections is noticed. The
defaults are two hours, and a quarter of an hour
(postgresql.org/docs/current/libpq-connect.html)."""
_STORAGE: Final = (
    "SELECT concat_ws(' ', (SELECT system_identifier FROM pg_control_system()), (SELECT oid FROM"
    " pg_database WHERE datname = current_database()),"
    " left(pg_walfile_name(pg_current_wal_lsn()), 8))"
)
_SLEEP: Final = get_original("time", "sleep")
"""A native thread has no hub to wait on."""
_HERE = Path(__file__).parent


class Database:
    """One ledger's database. Every method may be called from any greenlet."""

    def __init__(self, url: URL, engine: Engine) -> None:
        """Not for callers: use `open_database`."""
        self.url, self._engine = url, engine
        self.sqlite = engine.dialect.name == "sqlite"
        self._thread = ThreadPool(1) if self.sqlite else None
        self._file: tuple[int, int] | None = None

    def run(self, do: Callable[[Connection], T], write: bool = True) -> T:
        """Call `do` in one transaction and return its result. An exception of `do` rolls the
        transaction back.

        Raises LedgerBusy if another process holds the database for too long, LedgerFailed if it
        can't be read or written, LedgerRefused for a value that it does not take. The transaction
        is then rolled back, or, if the connection broke during the commit, its outcome is
        unknown."""
        if self._thread is None:
            return self._transaction(do, write)
        result, error = self._thread.apply(self._run_caught, (do, write))
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def _run_caught(
        self, do: Callable[[Connection], T], write: bool
    ) -> tuple[Any, BaseException | None]:
        # `apply` would print an exception before it passes it on.
        try:
            return self._transaction(do, write), None
        except BaseException as error:  # noqa: BLE001 - raised again in the calling greenlet
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
        """Empty SQLite's write-ahead log, which holds deleted rows until it is overwritten
        (sqlite.org/wal.html, "Checkpointing"). Returns False if another process is reading the log;
        raises LedgerFailed."""
        if self._thread is None:
            return True
        emptied, error = self._thread.apply(self._wipe_caught)
        if error is not None:
            raise error
        return emptied

    def _wipe_caught(self) -> tuple[bool, BaseException | None]:
        try:
            with self._engine.connect() as connection:  # a checkpoint can't run in a transaction
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
        """The database's URL or file for messages, without a password."""
        return _redact(self.url)

    # -- the clock of leases

    def clock(self, connection: Connection) -> float:
        """Return the seconds of a clock that all workers of this ledger share.

        SQLite's file is used on one machine only: the clock is the time since that machine started,
        which can't be set back. With PostgreSQL it is the server's clock."""
        if self.sqlite:
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        found: float = connection.execute(
            text("SELECT extract(epoch FROM clock_timestamp())::float8")
        ).scalar_one()
        return found

    def storage(self, connection: Connection) -> str | None:
        """Return the identity of the stored database, or None if it has none. It changes when a
        backup is restored, or another server takes over from a replica: SQLite's file is another
        one, PostgreSQL has another cluster, database or timeline."""
        if self.sqlite:
            return str(self._file[1]) if self._file is not None else None
        try:
            with connection.begin_nested():
                found: str = connection.execute(text(_STORAGE)).scalar_one()
        except DBAPIError:  # some managed servers do not permit these functions
            return None
        return found

    # -- the file

    def check_file(self) -> None:
        """Raise LedgerFailed if the file was removed or replaced since it was opened."""
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
        """Remember the opened file's identity for `check_file`, and close it to other users."""
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
    """Open a ledger by its URL. Create its folder and tables if they are missing, and upgrade an
    older schema.

    Raises ConfigError for a URL that is not understood, and for a file that is not a ledger, not
    writable, damaged, or of a newer relay. The error is retryable for a database that can't be
    reached or that another process holds. The database is unchanged then."""
    url = _parse_url(address)
    path = Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None
    try:
        if path is not None:
            _create_file(path)
        database = Database(url, _engine(url))
        try:
            # The check only reads, so that opening a current ledger does not wait for the lock.
            if database.run(_check_version, write=False) != HEAD:
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
"""The schemes of a ledger's URL, and SQLAlchemy's driver for each. Other drivers would block the
hub, or are not installed."""


def _parse_url(address: str) -> URL:
    """Return a ledger's URL. Raises ConfigError for an invalid URL, and for a database that would
    not outlive the process."""
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        url = None
    driver = DRIVERS.get(url.drivername) if url is not None else None
    # SQLite's query parameters (mode=memory, immutable, nolock) are not for a ledger.
    on_disk = (
        url is not None
        and url.database not in (None, "", ":memory:")
        and not (url.host or url.query)
    )
    # An '@' in the password splits the URL too early: the password's end becomes part of the host.
    cut = url is not None and "@" in (url.host or "")
    if url is None or driver is None or cut or (driver == "sqlite" and not on_disk):
        raise ConfigError(
            "RELAY_LEDGER is not the URL of a ledger",
            hint=(
                "Write sqlite:////folder/relay.db, or postgresql+psycopg://user:password@host/name."
                " Write an '@' in a password as %40."
            ),
        )
    return url.set(drivername=driver)


def _redact(url: URL) -> str:
    """Return a database's file, or its URL without the password and without the query, which may
    have one too."""
    if url.drivername == "sqlite":
        return str(url.database)
    return url.set(query={}).render_as_string(hide_password=True)


def _create_file(path: Path) -> None:
    """Create the file if it is missing, readable by its owner only: it holds the credentials of the
    stores. Raises ConfigError, OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    left = path.with_name(f"{path.name}-wal")
    if left.exists() and not path.exists():
        raise ConfigError(
            f"the ledger {path} was removed, but its log {left.name} is still there",
            hint="Put the file back beside its log, or remove the log to start an empty ledger.",
        )
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _close_to_others(path: Path) -> None:
    """Make a ledger file of ours private if every user may read it, as after `touch` or a restored
    backup. A file that only a group shares stays shared."""
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        with suppress(OSError):  # the log comes and goes; some file systems have no modes
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
        connection.isolation_level = None  # the driver begins no transaction by itself
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "wal_autocheckpoint=4000",
            "secure_delete=ON",  # overwrite deleted rows: they may hold secrets
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
    """Begin a transaction with SQLite's write lock, after waiting for it up to `seconds`. Call it
    in a native thread.

    Raises sqlite3.OperationalError (SQLITE_BUSY) if the lock stayed taken; no transaction has begun
    then."""
    until = time.monotonic() + seconds
    connection.execute("PRAGMA busy_timeout=0")
    try:
        while not _try_begin(connection, final=time.monotonic() >= until):
            pause(random.uniform(*AGAIN_SECONDS))  # noqa: S311 - so that waiters don't try in step
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


# -- the schema


def _check_version(connection: Connection) -> str | None:
    """Return the version of the schema, or None for an empty database. Raises LedgerFailed for a
    database that is damaged, of another program, or of a newer relay."""
    where = _redact(connection.engine.url)
    sqlite = connection.dialect.name == "sqlite"
    if sqlite:
        reported = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if reported != "ok":
            raise LedgerFailed(f"the ledger {where} is damaged ({reported})", hint=_KEEP)
    tables = set(connection.dialect.get_table_names(connection))
    version = _version(connection) if "alembic_version" in tables else None
    ours = (
        not sqlite or connection.exec_driver_sql("PRAGMA application_id").scalar() == APPLICATION_ID
    )
    if tables and (version is None or not ours or "migrations" not in tables):
        raise LedgerFailed(
            f"{where} is the database of another program",
            hint="Name another database in RELAY_LEDGER.",
        )
    if version is not None and version > HEAD:
        raise LedgerFailed(
            f"the ledger {where} was written by a newer relay (its schema is {version}, this relay"
            f" knows {HEAD})",
            hint="Use the newer relay, or name another ledger in RELAY_LEDGER.",
        )
    return version


def _version(connection: Connection) -> str:
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")


def _upgrade(connection: Connection) -> None:
    """Run the missing upgrades of the schema, all in this transaction."""
    sqlite = connection.dialect.name == "sqlite"
    if not sqlite:  # two processes may start at once
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": APPLICATION_ID})
    tables = connection.dialect.get_table_names(connection)
    if "alembic_version" in tables and _version(connection) == HEAD:
        return
    from alembic import command  # takes 0.1 s to import, and only the first start needs it
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_HERE))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    if sqlite:
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")


# -- failures

_START = "Check the disk or the database that RELAY_LEDGER names, and start relay again."
_KEEP = (
    "Keep the file, and name another ledger in RELAY_LEDGER. `sqlite3 FILE .recover` may recover"
    " the file's contents."
)


_LOCK_STATES = ("40001", "40P01", "55P03")
"""PostgreSQL's codes of a transaction that it ended because of the locks of others: serialization
failure, deadlock, lock timeout (appendix A of its documentation). Nothing of it was done."""


def _to_ledger_error(
    error: SQLAlchemyError | sqlite3.Error, where: str
) -> LedgerFailed | LedgerBusy:
    original = error.orig if isinstance(error, DBAPIError) else error
    said = str(original).strip().partition("\n")[0]
    waited = getattr(original, "sqlstate", None) in _LOCK_STATES
    if waited or "database is locked" in said:
        return LedgerBusy(f"another process holds the lock of the ledger {where}", retry_after=5.0)
    hint = _KEEP if any(word in said for word in ("malformed", "not a database")) else None
    if isinstance(error, DataError | IntegrityError):
        # Only the type is named: the driver's text quotes the value.
        return LedgerRefused(f"the ledger {where}: {type(original).__name__}")
    away = isinstance(error, OperationalError) and type(original).__module__.startswith("psycopg")
    return LedgerFailed(f"the ledger {where}: {said}", hint=hint, retryable=away)


def _config_error(where: str, said: str) -> ConfigError:
    return ConfigError(
        f"the ledger {where} can't be opened ({said})",
        hint="Give RELAY_LEDGER a path that relay may write, such as sqlite:////folder/relay.db.",
    )


def boot_id() -> str:
    """Return the id of this start of the machine, or "unknown" (random(4), boot_id)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def process_identity(pid: int) -> str | None:
    """Return an identity that distinguishes a process from every other of this machine, as far as
    /proc shows it: process id, start time, and the id's namespace (pid_namespaces(7)). None means
    that the process has certainly ended."""
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
    """Return whether a process exists that /proc does not show: it may hide the processes of other
    users (proc(5), hidepid)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def pid_namespace() -> str:
    """Return the id of this process's pid namespace, or "unknown". Two containers may have the same
    host name."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "unknown"
