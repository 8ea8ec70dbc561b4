"""The log: one line an event, and nothing in a line that its table does not have."""
