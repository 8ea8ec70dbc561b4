"""The wire: one HTTP/1.1 exchange, and bytes from one socket to another.

Theory of operation. `exchange` takes a connection from `dial`, writes the head (`http1`), moves the
body (`pump`) and reads the head of the answer. The answer's `Body` stays tied to its connection
until it has been read to its end or closed. Put such a Body into the next exchange as its body, and
the pump moves it by the cheapest way allowed: spliced inside the kernel, copied through one pooled
buffer, or copied through TLS. Nothing here retries, follows a redirect, decodes a content coding or
interprets a status: the layers above do that.

Never here: what an object, a store or a transfer is.
"""
