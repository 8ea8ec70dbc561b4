"""The bytes of an open file, on this machine or on a server, as a Body.

Decided here: how a Body of a file ends. Never here: how a file is read (`local_files.py`,
`sftp/remote_reads.py`)."""

from __future__ import annotations

from relay.wire.body import Body
from relay.wire.http1 import Framing, Head
from relay.wire.stream import Stream
from relay.wire.watchdog import Watchdog


class CheckedStream(Stream):
    """An open file with the interface of a socket stream."""

    def check(self) -> None:
        """Raise SourceChanged if the file was changed since it was opened."""
        raise NotImplementedError

    def finish(self) -> None:
        """Close the file after its last byte was read. Raises ConnectionLost."""
        raise NotImplementedError


class FileBody(Body):
    """A file's bytes. A file of unknown size ends at end-of-file."""

    @property
    def ends_by_close(self) -> bool:
        """As Body's: False, since a file is not cut off as a connection may be."""
        return False


def body_of(stream: CheckedStream, length: int | None, meter: Watchdog) -> Body:
    """Return the bytes of a file, `length` of them or those up to its end."""
    if length is None:
        return FileBody(stream, Framing.CLOSE, Head(200, "OK", "1.1", ()), meter, _release)
    head = Head(200, "OK", "1.1", (("Content-Length", str(length)),))
    return FileBody(stream, Framing.LENGTH, head, meter, _release)


def _release(stream: Stream, reusable: bool) -> None:
    """Close the file after its Body is finished. If it was read to its end, check first that it was
    not changed."""
    try:
        if reusable and isinstance(stream, CheckedStream):
            stream.check()
            stream.finish()
    finally:
        stream.close()
