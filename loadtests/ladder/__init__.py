"""The article's ladder: each idea as the simplest honest program of its kind, measured beside
relay.

Each rung is one file that reads its jobs (source and destination addresses) and moves them; `python
-m loadtests.ladder` runs them all on the same objects between the same two simulated clouds."""
