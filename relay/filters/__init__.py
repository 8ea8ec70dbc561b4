"""Filters: which objects of a tree are chosen, by the rules of rclone.

No store, no ledger: names, sizes and times come in, and a decision comes out."""
