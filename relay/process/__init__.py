"""The process that relay runs in: cooperative sockets, signals, core dumps, failpoints of
tests."""
