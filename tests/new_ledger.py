"""Write `relay/ledger/new.sql`: the tables of a new SQLite file, as all versions together make them.

python -m tests.new_ledger
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import create_engine

from relay.ledger.opening import NEW_FILE, _run_versions
from relay.ledger.schema import HEAD


def script(file: Path, last: str = HEAD) -> str:
    """Make an empty file a ledger by all versions up to the `last`, and return the statements that
    make its tables."""
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        _run_versions(connection, last)
    engine.dispose()
    return f"{statements(file)}INSERT INTO alembic_version VALUES ('{last}');\n"


def statements(file: Path) -> str:
    """Return the statements that make the tables and the indexes of a file."""
    with closing(sqlite3.connect(file)) as made:
        rows = made.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")
        return "".join(f"{sql};\n" for (sql,) in rows)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        NEW_FILE.write_text(script(Path(folder, "ledger.db")), encoding="utf-8")
    sys.stdout.write(f"{NEW_FILE} is written\n")
