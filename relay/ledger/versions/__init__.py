"""The schema's versions, for Alembic, which runs the files in the order of their
`down_revision`."""
