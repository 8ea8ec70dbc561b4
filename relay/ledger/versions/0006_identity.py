"""What identifies a migration and an object of a list, which kind of runner a migration belongs to,
listings that are made again, and names of any length."""

from secrets import token_hex

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, String, Text, text

revision = "0006"
down_revision = "0005"

_ZERO = text("0")


def upgrade() -> None:
    """Add the columns; an older migration has no known identity, and belongs to every kind of
    runner."""
    keys = op.create_table(
        "keys", Column("name", String(32), primary_key=True), Column("value", Text, nullable=False)
    )
    op.bulk_insert(keys, [{"name": "identity", "value": token_hex(32)}])
    op.add_column("migrations", Column("places", String(64)))
    op.add_column("migrations", Column("owner", String(64)))
    op.add_column("migrations", Column("runner", String(12)))
    op.add_column("migrations", Column("listings", Integer, nullable=False, server_default=_ZERO))
    op.add_column(
        "migrations", Column("listing_lapses", Integer, nullable=False, server_default=_ZERO)
    )
    op.add_column("migrations", Column("entries", BigInteger))
    op.add_column("transfers", Column("identity", String(32)))
    op.add_column("transfers", Column("listings", Integer, nullable=False, server_default=_ZERO))
    if op.get_bind().dialect.name == "postgresql":  # whose index accepts at most some 2,700 bytes
        op.drop_constraint("transfers_migration_id_name_key", "transfers", type_="unique")
        op.create_index(
            "transfers_by_name", "transfers", ["migration_id", text("md5(name)")], unique=True
        )
