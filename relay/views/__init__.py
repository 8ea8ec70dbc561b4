"""Migrations, progress, errors and the log as plain values, for the API and the terminal."""
