"""The HTTP interface: a WSGI application, and how gunicorn runs it.

Decided here: the form of requests and answers, and which clients are answered. Never here: what a
transfer is."""
