"""Open the ledger's database: create it if it is missing, check it, upgrade its schema.

Theory of operation. A file is opened only if it is a relay ledger, undamaged (as far as it is
scanned), and not of a newer relay. An existing file is never replaced. Commits reach the disk
before they return (`synchronous=FULL`): acknowledged work survives a power failure.

Decided here: which database may be a ledger, and how SQLAlchemy connects to it. Never here: how a
transaction is run (`database.py`)."""

from __future__ import annotations

import os
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import StaticPool

from relay.errors import ConfigError, LedgerBusy, LedgerFailed
from relay.ledger.database import BUSY_SECONDS, KEEP_HINT, Database, redact
from relay.ledger.schema import APPLICATION_ID, HEAD
from relay.process.late_modules import late_modules

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
SCANNED_BYTES: Final = 64 << 20
"""Longest SQLite file that is scanned for damage when it is opened. Each command would read a
ledger of millions of objects from the disk, for minutes, and gunicorn ends a worker that does not
start within one. Damage in a longer file is reported once it is read."""
_HERE: Final = Path(__file__).parent
NEW_FILE: Final = _HERE / "new.sql"
"""The tables of a new SQLite file, as `versions/` make them. `python -m tests.new_ledger` writes
it."""


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
        raise _config_error(redact(url), error.strerror or str(error)) from None
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


def _create_file(path: Path) -> None:
    """Create the file if it is missing, readable by its owner only: it holds the credentials of the
    stores. Raises ConfigError, OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # SQLite deletes the log of an empty file (`pagerOpenWalIfPresent` in pager.c), and with it
    # the commits that may be in no other place.
    left = path.with_name(f"{path.name}-wal")
    if left.exists() and not path.exists():
        raise ConfigError(
            f"the ledger {path} was removed, but its log {left.name} is still there",
            hint="Put the file back beside its log, or remove the log to start an empty ledger.",
        )
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _prepare_nothing_behind_pooler(connection: Any, _: Any) -> None:
    """Turn off prepared statements behind a pooler of connections, such as PgBouncer. There each
    transaction may have another connection to the server, on which the name of a statement is
    unknown, or that of another client's. A pooler is recognized by the process id that it gives,
    which is not that of the server's process."""
    with connection.cursor() as cursor:
        process = cursor.execute("SELECT pg_backend_pid()", prepare=False).fetchone()[0]
    if process != connection.info.backend_pid:
        connection.prepare_threshold = None
    # The query has begun a transaction, which would stay open in the pool.
    connection.rollback()


def _require_utf8(connection: Any, _: Any) -> None:
    """Raise LedgerFailed for a PostgreSQL database that can't keep every name."""
    encoding = connection.info.parameter_status("server_encoding") or "UTF8"
    if encoding != "UTF8":
        raise LedgerFailed(
            f"the database has the encoding {encoding}, which can't keep every name",
            hint="Create it with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0.",
        )


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        options = {"connect_timeout": 10, "application_name": "relay", **ALIVE}
        server = create_engine(
            url, pool_size=CONNECTIONS, max_overflow=0, pool_pre_ping=True, connect_args=options
        )
        event.listen(server, "connect", _prepare_nothing_behind_pooler)
        # Before SQLAlchemy's own queries, whose texts would be bytes.
        event.listen(server, "connect", _require_utf8, insert=True)
        return server
    with late_modules():  # SQLAlchemy's dialect is imported here
        engine = create_engine(
            url,
            # One connection, since one native thread runs every transaction.
            poolclass=StaticPool,
            connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS},
        )

    @event.listens_for(engine, "connect")
    def prepare_connection(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver begins no transaction by itself
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "wal_autocheckpoint=4000",
            "secure_delete=ON",  # overwrite deleted rows: they may hold secrets
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine


_LENGTH: Final = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"


def _check_version(connection: Connection) -> str | None:
    """Return the version of the schema, or None for an empty database. Raises LedgerFailed for a
    database that is damaged, of another program, or of a newer relay."""
    where = redact(connection.engine.url)
    sqlite = connection.dialect.name == "sqlite"
    if sqlite and connection.exec_driver_sql(_LENGTH).scalar_one() <= SCANNED_BYTES:
        reported = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if reported != "ok":
            raise LedgerFailed(f"the ledger {where} is damaged ({reported})", hint=KEEP_HINT)
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
    is_new_file = sqlite and not tables
    if is_new_file:
        _create_tables(connection)
    if not is_new_file or _version(connection) != HEAD:
        _run_versions(connection)
    if sqlite:
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")


def _create_tables(connection: Connection) -> None:
    """Create the tables of a new file as all versions together leave them. Alembic takes as much
    CPU for that as moving an object does."""
    for statement in NEW_FILE.read_text(encoding="utf-8").split(";\n"):
        if statement.strip():
            connection.exec_driver_sql(statement)
    connection.exec_driver_sql("INSERT INTO keys VALUES ('identity', ?)", (token_hex(32),))


def _run_versions(connection: Connection, last: str = "head") -> None:
    """Run the missing versions by Alembic, up to the `last`."""
    # Imported here because it takes 0.1 s, and only an upgrade needs it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_HERE))
    config.attributes["connection"] = connection
    command.upgrade(config, last)


_START = "Check the disk or the database that RELAY_LEDGER names, and start relay again."


def _config_error(where: str, said: str) -> ConfigError:
    return ConfigError(
        f"the ledger {where} can't be opened ({said})",
        hint="Give RELAY_LEDGER a path that relay may write, such as sqlite:////folder/relay.db.",
    )
