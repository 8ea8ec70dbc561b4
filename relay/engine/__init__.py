"""The engine: transfers, proofs, retries, listings, and the workers that consume the ledger.

Decided here: the order of work of one transfer, the retries, the proofs. Never here: sockets, HTTP
statuses, the shape of an answer to a client."""
