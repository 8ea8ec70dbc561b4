"""The benchmark: relay beside rclone, `curl | curl` and the naive loop, with nginx as both peers, in one run.

`python -m loadtests.bench` runs it. relay is a black box here: a server under gunicorn, HTTP, and /proc.
"""
