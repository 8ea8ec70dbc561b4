"""Signed reports: their members, their signatures, how they are written and checked."""
