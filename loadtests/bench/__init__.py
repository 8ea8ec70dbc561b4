"""The parts of the benchmark (`loadtests/peers.py`): relay beside rclone, `curl | curl`, the naive
loop and the floor, with nginx as both clouds, in one run. relay is a black box here: a server under
gunicorn, HTTP, and /proc."""
