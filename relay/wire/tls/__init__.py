"""TLS over memory, in large pieces, by one of two libraries.

`sessions.py` is the interface of both, `standard.py` the `ssl` module, `wheel.py` the newer OpenSSL
in the `cryptography` wheel, `choice.py` chooses, and `stream.py` is a Stream whose bytes are
encrypted."""
