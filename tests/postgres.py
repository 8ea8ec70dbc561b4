"""PostgreSQL: a server of our own, and a proxy to it that loses responses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import psycopg

from loadtests.bench import postgres
from loadtests.bench.postgres import Postgres, programs
from relay.ledger.opening import open_database

__all__ = ["Deaf", "EmptyLedgers", "Pooler", "Postgres", "run_deaf_proxy", "postgresql", "programs"]

postgresql = partial(postgres.postgresql, "-c fsync=off -c full_page_writes=off -c autovacuum=off")
"""Runs a server whose commits outlive its crash, but not one of the machine, and that starts no
process for each of hundreds of databases."""


_EMPTY = """
SET lock_timeout = '2s';
SET session_replication_role = replica;  -- no foreign key is checked
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
        AND tablename <> 'alembic_version' LOOP
        EXECUTE format('DELETE FROM %I', name);
    END LOOP;
    FOR name IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' LOOP
        EXECUTE format('ALTER SEQUENCE %I RESTART', name);
    END LOOP;
END $$;
"""
_FORM = """
SELECT pg_database_size(current_database()) >> 22, (SELECT version_num FROM alembic_version),
    md5(string_agg(concat(attrelid, attname, atttypid, attnotnull), ',' ORDER BY attrelid, attnum))
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
WHERE relnamespace = 'public'::regnamespace
"""
"""The size in 4 MiB, the version, and all columns of the tables and the indexes."""


class EmptyLedgers:
    """Databases with the tables of a ledger. To empty one takes a tenth of the processor time of a
    new one, which is a copy of 8 MB."""

    def __init__(self, server: Postgres) -> None:
        """Start without a database."""
        self._server, self._free = server, list[_Emptied]()
        self._first: str | None = None

    @contextmanager
    def take(self) -> Iterator[str]:
        """Yield the URL of an empty ledger, which nothing else uses. It is used again, unless its
        tables have another form by then, or many dead rows, or a connection holds a lock."""
        one = self._free.pop() if self._free else self._make()
        yield one.url
        with suppress(psycopg.OperationalError):  # a test may have stopped the server
            if one.empty():
                self._free.append(one)
                return
        one.connection.close()

    def close(self) -> None:
        """Close the connections to all databases that are not taken."""
        for one in self._free:
            one.connection.close()

    def _make(self) -> _Emptied:
        if self._first is None:
            self._first = self._server.database()
            open_database(self._first).close()
        url = self._server.database(f'TEMPLATE "{_name(self._first)}"')
        return _Emptied(url, psycopg.connect(self._server.dsn(_name(url))))


class _Emptied:
    """A database that is emptied, over a connection that stays: another one for each test would
    take four times as much processor time as the rest."""

    def __init__(self, url: str, connection: psycopg.Connection) -> None:
        """Note what it has while it is new."""
        self.url, self.connection = url, connection
        self._keys = connection.execute("SELECT * FROM keys").fetchall()
        self._form = self._read_form()
        connection.commit()

    def empty(self) -> bool:
        """Empty it. Return whether it is as it was. Raises OperationalError."""
        self.connection.execute(_EMPTY)
        self.connection.cursor().executemany("INSERT INTO keys VALUES (%s, %s)", self._keys)
        self.connection.commit()
        found = self._read_form()
        self.connection.commit()
        return found == self._form

    def _read_form(self) -> tuple[Any, ...] | None:
        return self.connection.execute(_FORM).fetchone()


def _name(url: str) -> str:
    """Return the name of the database of a URL."""
    return url.rpartition("/")[2]


class Deaf:
    """A proxy to the server that can lose the response to a COMMIT: the commit is made, and the
    client does not learn of it."""

    def __init__(self, target: int) -> None:
        """Listen, and forward everything."""
        self._target, self._armed = target, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._socks: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_next(self) -> None:
        """Lose the response to the next COMMIT, and the connection with it."""
        self._armed.set()

    def close(self) -> None:
        """Close every connection."""
        for sock in (self._listener, *self._socks):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._socks += [client, server]
                deaf = threading.Event()
                for reads, writes, up in ((client, server, True), (server, client, False)):
                    threading.Thread(
                        target=self._pass, args=(reads, writes, up, deaf), daemon=True
                    ).start()

    def _pass(
        self, reads: socket.socket, writes: socket.socket, up: bool, deaf: threading.Event
    ) -> None:
        with suppress(OSError):
            while piece := reads.recv(65536):
                if up and b"COMMIT\x00" in piece and self._armed.is_set():
                    self._armed.clear()
                    deaf.set()
                if not up and deaf.is_set():
                    break  # the server has confirmed it
                writes.sendall(piece if up else self._answer(piece))
        for sock in (reads, writes):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _answer(self, piece: bytes) -> bytes:
        """Return what the client gets for a piece of the server's answers."""
        return piece


class Pooler(Deaf):
    """A way to the server that gives the client another process id than the server's, as poolers
    do (BackendKeyData in PostgreSQL's protocol)."""

    def _answer(self, piece: bytes) -> bytes:
        before, key, after = piece.partition(b"K\x00\x00\x00\x0c")
        return before + key + bytes(4) + after[4:] if key else piece


@contextmanager
def run_deaf_proxy(server: Postgres) -> Iterator[Deaf]:
    """Run such a proxy for the time of the block."""
    made = Deaf(server.port)
    try:
        yield made
    finally:
        made.close()
