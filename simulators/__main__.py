"""`python -m simulators src | dst | proxy | bucket | speed`."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import ssl
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from simulators import certificates, proxy, source, speed
from simulators.bucket import Bucket
from simulators.destination import DIGESTS, Destination
from simulators.faults import BadFault, describe
from simulators.quantities import parse_bytes, parse_rate, parse_seconds
from simulators.server import Options
from simulators.source import Source
from simulators.upload_body import ALGORITHMS


class _Running(Protocol):
    def stop(self) -> None: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one simulator until SIGTERM or SIGINT. Returns the exit code: 0, or 2 when it cannot
    start."""
    options = _parser().parse_args(arguments)
    if options.start is None:
        speed.measure(options.size, options.rounds)
        return 0
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    try:
        with options.start(options):
            stopped.wait()
    except BadFault as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(f"cannot listen on {options.bind}:{options.port}: {error.strerror}")
    return 0


def _complain(text: str) -> int:
    print(f"simulators: {text}", file=sys.stderr, flush=True)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulators",
        description="Two clouds and a bad network, on this machine, in memory.",
    )
    commands = parser.add_subparsers(required=True, metavar="src|dst|proxy|bucket|speed")
    _add_source(commands.add_parser("src", help="a cloud that objects come from"))
    _add_destination(commands.add_parser("dst", help="a cloud that objects go to"))
    _add_proxy(commands.add_parser("proxy", help="a bad network in front of either"))
    _add_bucket(commands.add_parser("bucket", help="a bucket of very many objects, to be listed"))
    _add_speed(commands.add_parser("speed", help="measure both clouds against nginx"))
    return parser


def _add_server(parser: argparse.ArgumentParser, port: int) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = describe()
    parser.add_argument(
        "port", nargs="?", type=int, default=port, help=f"0 chooses one (default {port})"
    )
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS", help="default 127.0.0.1")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="[/PREFIX=]SPEC",
        help="misbehave, see below",
    )
    parser.add_argument(
        "--journal", type=int, default=10_000, metavar="ENTRIES", help="how many are kept"
    )
    parser.add_argument(
        "--tls", action="store_true", help="make a CA and a certificate, and speak HTTPS"
    )
    parser.add_argument("--tls-cert", choices=certificates.VARIANTS, default="good")
    parser.add_argument("--tls-version", choices=certificates.VERSIONS, help="speak only this one")
    parser.add_argument(
        "--ca-out", type=Path, metavar="FILE", help="where the CA's certificate goes"
    )


def _add_source(parser: argparse.ArgumentParser) -> None:
    _add_server(parser, 8000)
    parser.add_argument("--seed", default="relay", help="which content")
    parser.add_argument(
        "--min", type=parse_bytes, default=source.MIN_BYTES, metavar="SIZE", help="default 10MB"
    )
    parser.add_argument(
        "--max", type=parse_bytes, default=source.MAX_BYTES, metavar="SIZE", help="default 2GB"
    )
    parser.add_argument("--framing", choices=("length", "chunked", "close"), default="length")
    parser.add_argument("--no-digest", action="store_true", help="never say Repr-Digest")
    parser.add_argument("--no-etag", action="store_true", help="never say ETag")
    parser.set_defaults(start=_start_source)


def _add_destination(parser: argparse.ArgumentParser) -> None:
    _add_server(parser, 8001)
    parser.add_argument(
        "--digest",
        type=_algorithms,
        default=DIGESTS,
        metavar="LIST",
        help="crc32c,crc64nvme,md5,sha256 or none",
    )
    parser.add_argument("--keep", action="store_true", help="keep the bytes in memory, for GET")
    parser.add_argument(
        "--keep-bytes",
        type=parse_bytes,
        default=256 * 1024 * 1024,
        metavar="SIZE",
        help="default 256MiB",
    )
    parser.add_argument(
        "--rcvbuf", type=parse_bytes, metavar="SIZE", help="SO_RCVBUF, small for a zero window"
    )
    parser.set_defaults(start=_start_destination)


def _add_proxy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("port", type=int, metavar="LISTEN_PORT", help="0 chooses one")
    parser.add_argument("target", metavar="TARGET_HOST:PORT")
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS", help="default 127.0.0.1")
    parser.add_argument(
        "--direction",
        choices=proxy.DIRECTIONS,
        default="down",
        help="where cuts, stalls, flips act",
    )
    parser.add_argument(
        "--latency", type=parse_seconds, default=0.0, metavar="TIME", help="each way"
    )
    parser.add_argument("--jitter", type=parse_seconds, default=0.0, metavar="TIME")
    parser.add_argument(
        "--rate", type=parse_rate, metavar="RATE", help="of a connection, each way: 50MB/s"
    )
    for name, text in (
        ("--cut-after", "FIN both ways after this number of bytes"),
        ("--reset-after", "RST both ways after this number of bytes"),
        ("--slice", "the largest write, both ways"),
        ("--flip", "the lowest bit of the byte at this offset"),
    ):
        parser.add_argument(name, type=parse_bytes, metavar="SIZE", help=text)
    parser.add_argument(
        "--stall-after", metavar="SIZE[,TIME]", help="stop reading after SIZE, for TIME or forever"
    )
    parser.add_argument(
        "--blackhole", choices=proxy.DIRECTIONS, help="swallow all that goes this way"
    )
    parser.add_argument("--blackhole-after", type=parse_bytes, default=0, metavar="SIZE")
    parser.add_argument(
        "--half-close", type=parse_bytes, nargs="?", const=0, metavar="SIZE", help="FIN one way"
    )
    parser.add_argument("--slow-close", type=parse_seconds, nargs="?", const=5.0, metavar="TIME")
    parser.set_defaults(start=_start_proxy)


def _add_bucket(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("port", type=int, metavar="LISTEN_PORT", help="0 chooses one")
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS", help="default 127.0.0.1")
    parser.add_argument(
        "--objects", type=int, default=1_000_000, metavar="COUNT", help="default 1000000"
    )
    parser.add_argument(
        "--page-time", type=parse_seconds, default=0.0, metavar="TIME", help="of each page"
    )
    parser.set_defaults(start=_start_bucket)


@contextmanager
def _start_bucket(options: argparse.Namespace) -> Iterator[_Running]:
    with Bucket(options.objects, options.port, options.bind, options.page_time) as bucket:
        print(f"bucket listening on {bucket.url()}", flush=True)
        yield bucket


def _add_speed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size", type=parse_bytes, default=512 * 1024 * 1024, metavar="SIZE", help="of the object"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.set_defaults(start=None)


def _algorithms(text: str) -> tuple[str, ...]:
    names = () if text == "none" else tuple(text.split(","))
    unknown = set(names) - set(ALGORITHMS)
    if unknown:
        raise argparse.ArgumentTypeError(f"not a digest: {', '.join(sorted(unknown))}")
    return names


@contextmanager
def _start_source(options: argparse.Namespace) -> Iterator[None]:
    if not 0 <= options.min <= options.max:
        raise BadFault("--min must not be above --max")

    def make(network: Options) -> Source:
        return Source(
            seed=options.seed,
            min_bytes=options.min,
            max_bytes=options.max,
            framing=options.framing,
            digest=not options.no_digest,
            etag=not options.no_etag,
            options=network,
        )

    with _run_and_announce("source", options, make):
        yield


@contextmanager
def _start_destination(options: argparse.Namespace) -> Iterator[None]:
    def make(network: Options) -> Destination:
        kept = options.keep_bytes if options.keep else 0
        return Destination(
            digests=options.digest, keep_bytes=kept, receive_buffer=options.rcvbuf, options=network
        )

    with _run_and_announce("destination", options, make):
        yield


@contextmanager
def _start_proxy(options: argparse.Namespace) -> Iterator[None]:
    names = [
        field.name
        for field in dataclasses.fields(proxy.Toxics)
        if field.name not in ("stall_seconds",)
    ]
    toxics = {name: getattr(options, name) for name in names}
    try:
        after, _, seconds = (options.stall_after or "").partition(",")
        toxics["stall_after"] = parse_bytes(after) if after else None
        toxics["stall_seconds"] = parse_seconds(seconds) if seconds else None
        network = proxy.Proxy(options.target, options.port, bind=options.bind, **toxics)
    except ValueError as error:
        raise BadFault(str(error)) from error
    with network:
        print(f"proxy listening on {network.url(scheme='tcp')}", flush=True)
        yield


@contextmanager
def _run_and_announce(
    word: str, options: argparse.Namespace, make: Callable[[Options], Source | Destination]
) -> Iterator[None]:
    """Start a server, print its address, and stop it at the end."""
    with _tls(options) as tls:
        server = make(Options(options.port, options.bind, tls, options.fault, options.journal))
        try:
            print(f"{word} listening on {server.url()}", flush=True)
            yield
        finally:
            server.stop()


@contextmanager
def _tls(options: argparse.Namespace) -> Iterator[ssl.SSLContext | None]:
    """Make the certificates, and write the CA's to the requested place, or to a file that is
    deleted at the end."""
    if not (options.tls or options.tls_cert != "good" or options.tls_version):
        yield None
        return
    context, authority = certificates.server_context(options.tls_cert, options.tls_version)
    path: Path | None = options.ca_out
    if path is None:
        with tempfile.NamedTemporaryFile(
            prefix="simulators-ca-", suffix=".pem", delete=False
        ) as file:
            path = Path(file.name)
    path.write_bytes(authority)
    print(f"CA certificate written to {path}", flush=True)
    try:
        yield context
    finally:
        if options.ca_out is None:
            with suppress(FileNotFoundError):
                path.unlink()


if __name__ == "__main__":
    sys.exit(main())
