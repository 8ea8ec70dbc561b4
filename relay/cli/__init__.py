"""The command line: `relay serve` and `relay migrate`.

Decided here: flags, what is printed where, exit codes. Never here: what a transfer does.
"""
