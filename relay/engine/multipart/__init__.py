"""One object as a multipart upload: begin it, move its parts, complete or abort it."""
