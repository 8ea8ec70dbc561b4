"""The parts of the benchmark (`loadtests/compare.py`): relay beside rclone, `curl | curl`, the naive
loop and the baseline, with nginx as both clouds, in one run. relay is a black box here: a server under
gunicorn, HTTP, and /proc."""
