"""Sorted listings: two of them are merged by name, in memory that does not grow with the tree.

No store and no socket: rows come in, and pairs of rows go out."""
