"""Two clouds and a bad network, for tests, load tests and demos.

A source that generates objects of any size, a destination that computes the digest of an upload and
forgets its bytes, and a TCP proxy that delays, cuts and flips. Plain threads and blocking sockets,
meant for a process of its own (`python -m simulators`, `simulators.spawn`). Never here: an import
of relay or of gevent. These are the oracle, and an oracle that shares code with the tested program
shares its mistakes."""
