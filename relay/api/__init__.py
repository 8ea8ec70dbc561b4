"""The HTTP interface: a WSGI application, and how gunicorn runs it.

Decided here: what a request may look like, who may make one, and how an answer looks. Never here:
what a transfer is."""
