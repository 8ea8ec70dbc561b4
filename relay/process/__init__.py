"""The process that relay runs in: sockets that wait, signals, core dumps, failpoints of tests."""
