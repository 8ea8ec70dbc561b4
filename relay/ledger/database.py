"""The ledger's database: run transactions without blocking the hub.

Theory of operation. SQLite's calls never yield, and a wait for its lock sleeps inside C. So one
native thread runs all of them, one transaction at a time, and wakes the calling greenlet when its
transaction is done. psycopg waits on gevent's sockets, so PostgreSQL's calls run in the calling
greenlet, on a few connections.

Every writing transaction takes SQLite's write lock when it begins, so that it is never refused
half-way. A transaction that finds the lock taken tries again after a millisecond or two. SQLite's
own wait sleeps longer each time, up to a tenth of a second: the lock is free meanwhile, and the
newest waiter gets it. A reading transaction takes no lock and is rolled back, so that it can't
write. All its statements see one moment: in SQLite always, in PostgreSQL by its isolation level.

Decided here: how a transaction is run, and what a database's failures mean. Never here: which
database is opened (`opening.py`), and the contents of the tables."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast

from gevent.monkey import get_original
from gevent.threadpool import ThreadPool
from sqlalchemy import URL, Connection, Engine, event, text
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    SQLAlchemyError,
)

from relay.errors import LedgerBusy, LedgerFailed, LedgerRefused
from relay.process import own_files
from relay.tallies import Tallies

Operation = Literal["turn", "look", "page", "watch", "other"]
"""What a transaction is for: a worker's poll, its look at migrations that may have ended, an answer
of the API, or a client that follows a migration."""
T = TypeVar("T")
BUSY_SECONDS: Final = 5.0
"""How long a transaction waits for SQLite's lock, in its native thread."""
AGAIN_SECONDS: Final = (0.0005, 0.003)
"""Shortest and longest sleep before it tries to take the lock again."""
STEP_SECONDS: Final = 5.0
"""A larger change between the server's clock and this machine's is a step of one of them."""
STEADY_SECONDS: Final = 15.0
"""How long after a step every worker that runs has renewed its lease (every 5 seconds at most)."""
_STORAGE: Final = (
    "SELECT concat_ws(' ', (SELECT system_identifier FROM pg_control_system()), (SELECT oid FROM"
    " pg_database WHERE datname = current_database()),"
    " left(pg_walfile_name(pg_current_wal_lsn()), 8))"
)
"""The name of a WAL file begins with 8 digits of the timeline, which a promoted replica raises."""
_TABLE: Final = (
    "SELECT concat_ws(' ', 'transfers'::regclass::oid, pg_relation_filenode('transfers'))"
)
_SLEEP: Final = get_original("time", "sleep")
"""A native thread has no hub to wait on."""


class Database:
    """One ledger's database. Every method may be called from any greenlet."""

    def __init__(self, url: URL, engine: Engine) -> None:
        """Not for callers: use `opening.open_database`."""
        self.url, self._engine = url, engine
        self.sqlite = engine.dialect.name == "sqlite"
        self._thread = ThreadPool(1) if self.sqlite else None
        if self.sqlite:
            event.listen(engine, "begin", _begin)
        self._file: tuple[int, int] | None = None
        self._steps = ClockSteps()
        self.tallies = Tallies()
        """Where transactions are timed and failures are counted."""

    def run(
        self, do: Callable[[Connection], T], write: bool = True, operation: Operation = "other"
    ) -> T:
        """Call `do` in one transaction and return its result. An exception of `do` rolls the
        transaction back. `operation` is the name under which its time is counted, which includes
        the wait for other transactions of this process.

        Raises LedgerBusy if another process holds the database for too long, LedgerFailed if it
        can't be read or written, LedgerRefused for a value that it does not take. The transaction
        is then rolled back, or, if the connection broke during the commit, its outcome is
        unknown."""
        began = time.monotonic()
        try:
            if self._thread is None:
                return self._transaction(do, write)
            result, error = self._thread.apply(self._run_caught, (do, write))
            if error is not None:
                raise error
            return result  # type: ignore[no-any-return]
        except LedgerFailed as failure:
            self.tallies.ledger_errors[failure.code,] += 1
            raise
        finally:
            self.tallies.ledger_seconds[operation,].add(time.monotonic() - began)

    def _run_caught(
        self, do: Callable[[Connection], T], write: bool
    ) -> tuple[Any, BaseException | None]:
        # `apply` would print an exception before it passes it on.
        try:
            return self._transaction(do, write), None
        except BaseException as error:  # noqa: BLE001 - raised again in the calling greenlet
            return None, error

    def _transaction(self, do: Callable[[Connection], T], write: bool) -> T:
        options: dict[str, Any] = {"relay_write": write}
        if not self.sqlite and not write:
            options["isolation_level"] = "REPEATABLE READ"
        try:
            with self._engine.connect().execution_options(**options) as connection:
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
                # Every other transaction waits for this thread, and a later call can empty the log.
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
        return redact(self.url)

    # -- the clock of leases

    def clock(self, connection: Connection) -> float:
        """Return the seconds of a clock that all workers of this ledger share.

        SQLite's file is used on one machine only: the clock is the time since that machine started,
        which can't be set back. With PostgreSQL it is the server's clock."""
        here = time.clock_gettime(time.CLOCK_BOOTTIME)
        if self.sqlite:
            return here
        found = self._server_clock(connection)
        self._steps.note(found, here)
        return found

    def _server_clock(self, connection: Connection) -> float:
        found: float = connection.execute(
            text("SELECT extract(epoch FROM clock_timestamp())::float8")
        ).scalar_one()
        return found

    @property
    def is_clock_steady(self) -> bool:
        """Whether the clock of `clock` has certainly not been set, as far as this process saw it,
        since every worker renewed its lease."""
        return self._steps.is_steady(time.clock_gettime(time.CLOCK_BOOTTIME))

    def storage(self, connection: Connection) -> str | None:
        """Return the identity of the stored database, or None if it has none. It changes when a
        backup is restored, or another server takes over from a replica: SQLite's file is another
        one, PostgreSQL has another cluster, database or timeline, or other tables."""
        if self.sqlite:
            return str(self._file[1]) if self._file is not None else None
        table: str = connection.execute(text(_TABLE)).scalar_one()
        try:
            with connection.begin_nested():
                return f"{connection.execute(text(_STORAGE)).scalar_one()} {table}"
        except DBAPIError:  # some managed servers do not permit these functions
            return table

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
        """Remember the opened file's identity for `check_file`, and close it to other users and to
        objects (`process/own_files.py`)."""
        if self.sqlite:
            _close_to_others(Path(str(self.url.database)))
            found = os.stat(str(self.url.database))
            self._file = (found.st_dev, found.st_ino)
            own_files.add(str(self.url.database))

    def close(self) -> None:
        """Close the connections."""
        if self._thread is not None:
            self._thread.apply(self._engine.dispose)
            self._thread.kill()
            if self._file is not None:
                own_files.remove(str(self.url.database))
        else:
            self._engine.dispose()


class ClockSteps:
    """The steps of a server's clock, which a resumed virtual machine or NTP may set: it is compared
    with this machine's clock each time that it is read."""

    def __init__(self) -> None:
        """Begin without knowledge."""
        self._offset: float | None = None
        self._stepped = -inf

    def note(self, there: float, here: float) -> None:
        """Note the time of both clocks at one moment."""
        offset = there - here
        if self._offset is not None and abs(offset - self._offset) > STEP_SECONDS:
            self._stepped = here
        self._offset = offset

    def is_steady(self, here: float) -> bool:
        """Return whether the last step is long ago, by this machine's clock."""
        return here - self._stepped > STEADY_SECONDS


def redact(url: URL) -> str:
    """Return a database's file, or its URL without the password and without the query, which may
    have one too."""
    if url.drivername == "sqlite":
        return str(url.database)
    return url.set(query={}).render_as_string(hide_password=True)


def _close_to_others(path: Path) -> None:
    """Make a ledger file of ours private if every user may read it, as after `touch` or a restored
    backup. A file that only a group shares stays shared."""
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        with suppress(OSError):  # the log comes and goes; some file systems have no modes
            found = file.stat()
            if found.st_mode & stat.S_IRWXO and found.st_uid == os.geteuid():
                file.chmod(found.st_mode & stat.S_IRWXU)


def _begin(connection: Connection) -> None:
    driver = cast(sqlite3.Connection, connection.connection.driver_connection)
    if connection.get_execution_options().get("relay_write", True):
        begin_writing(driver, BUSY_SECONDS)
    else:
        driver.execute("BEGIN")


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


# -- failures

KEEP_HINT = (
    "Keep the file, and name another ledger in RELAY_LEDGER. `sqlite3 FILE .recover` may recover"
    " the file's contents."
)
"""The hint for a damaged file."""

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
    hint = KEEP_HINT if any(word in said for word in ("malformed", "not a database")) else None
    if isinstance(error, DataError | IntegrityError):
        # Only the type is named: the driver's text quotes the value.
        return LedgerRefused(f"the ledger {where}: {type(original).__name__}")
    away = isinstance(error, OperationalError) and type(original).__module__.startswith("psycopg")
    return LedgerFailed(f"the ledger {where}: {said}", hint=hint, retryable=away)
