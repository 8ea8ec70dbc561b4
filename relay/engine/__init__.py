"""The engine: migrate() and what drives it.

Decided here: the order of work of one transfer, what is tried again, what was proved. Never here: sockets, HTTP
statuses, the shape of an answer to a client.
"""
