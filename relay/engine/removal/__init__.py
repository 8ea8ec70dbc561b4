"""Deletions that a migration makes: a move's at its source. Everything doubtful is kept."""
