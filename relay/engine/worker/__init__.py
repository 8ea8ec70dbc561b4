"""One process that consumes the ledger: claim, list, transfer, settle, clean up."""
