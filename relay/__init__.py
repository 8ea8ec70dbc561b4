"""relay: moves a person's files from one cloud to another through memory, never the disk.

Layout, in the order in which modules may import one another (a test draws the arrows):

    errors  location  identity  egress  disposition  digest  receipt  config     values and laws: no sockets
    throttle  retry                                                    who may go, how long to wait
    wire/      one HTTP exchange, and bytes from one socket to another
    stores/    one file a store, the same methods in the same order
    engine/    migrate() and what drives it
    api/       the WSGI application
    cli/       relay serve | migrate

Read it in this order: errors, location, wire/stream, wire/body, wire/pump, wire/exchange, stores/interfaces,
stores/http, engine/transfer, engine/course, api/app.
"""

from __future__ import annotations

__version__ = "0.1.0"
