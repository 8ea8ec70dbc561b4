"""relay: moves a person's files from one cloud to another through memory, never the disk.

Layout, in the order in which packages may import one another (a test holds the arrows;
docs/modules.md has a line about each module):

    errors/    every failure: side, retryable, hint
    location  identity  egress  headers  digest  receipt  config  throttle  retry
    wire/      one HTTP exchange, and bytes from one socket to another
    stores/    one implementation for each protocol, the same methods in the same order
    ledger/    durable state and its transitions (SQL)
    engine/    transfer/ (one object), multipart/ (its parts), worker/ (claims of the ledger)
    views/     migrations, progress and errors as plain values
    api/       the WSGI application
    cli/       the commands

Read it in this order: errors, location, wire/stream, wire/body, wire/pump, wire/exchange,
stores/interfaces, stores/http, engine/transfer/transfer, engine/transfer/attempt, api/app."""

from __future__ import annotations

__version__ = "0.1.0"
