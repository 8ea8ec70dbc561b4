"""`make torture`: relay between stores that lie, by seeds, and a judge that knows what they
hold."""
