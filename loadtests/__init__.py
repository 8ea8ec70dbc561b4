"""Measurements from outside: nothing here imports relay."""
