"""The ledger: the durable truth about migrations, transfers and parts."""
