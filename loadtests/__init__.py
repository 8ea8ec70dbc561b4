"""Load on relay from outside: subprocesses, HTTP and /proc. Nothing here imports relay."""
