"""`python -m relay`."""

# ruff: noqa: E402 - sockets are patched before anything can import them

from gevent import monkey; monkey.patch_all()  # fmt: skip  # noqa: E702, I001

import sys

from relay.cli.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
