"""Inventories: lists of the objects of a store that the store itself, or a person, has written.

Files of this machine come in, and rows of a listing go out. No store and no socket."""
