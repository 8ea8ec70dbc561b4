"""Multipart uploads: create one, move its parts, complete or abort it, resume it after a crash."""
