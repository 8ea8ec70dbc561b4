"""One object from its source to its destination: check, read, upload, verify, finalize."""
