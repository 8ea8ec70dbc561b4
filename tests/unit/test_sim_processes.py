"""The simulators as processes: spawning, signals, mistakes on the command line, TLS."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from simulators import certificates
from simulators.client import get, head, put, talk
from simulators.content import Content
from simulators.destination import Destination
from simulators.faults import VOCABULARY
from simulators.server import Options
from simulators.source import Source
from simulators.spawn import NotStarted, spawn

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulators", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
    )


def client_context(pem: bytes) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=pem.decode())


def test_they_import_neither_relay_nor_gevent() -> None:
    code = "import sys, simulators.__main__; print({'relay', 'gevent'} & set(sys.modules))"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "set()\n"


def test_help_names_every_fault() -> None:
    text = run("dst", "--help").stdout
    assert all(f"\n  {name}" in text for name in VOCABULARY)


def test_three_processes_together() -> None:
    with (
        spawn("src", "--seed", "unit") as source,
        spawn("dst", "--digest", "crc32c") as destination,
    ):
        with spawn(
            "proxy", f"127.0.0.1:{source.port}", "--latency", "5ms", "--jitter", "1ms"
        ) as proxy:
            body = get(proxy.port, "/a?size=70000").body
            assert put(destination.port, "/b", body).status == 201
        (entry,) = destination.get_json("/_received")
        with Content("unit") as content:
            assert entry["digests"] == {"crc32c": content.digest("crc32c", "/a", 70_000)}
        destination.clear("/_received")
        assert destination.get_json("/_received") == []
        assert source.url("/a") == f"http://127.0.0.1:{source.port}/a"
    assert (
        source.process.returncode,
        destination.process.returncode,
        proxy.process.returncode,
    ) == (0, 0, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_with_a_connection_open(number: signal.Signals) -> None:
    with spawn("src") as source, socket.create_connection(("127.0.0.1", source.port), 5) as sock:
        sock.sendall(head("GET", "/a?size=1000000000"))
        assert sock.recv(10)
        source.process.send_signal(number)
        assert source.process.wait(5) == 0


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments in (("src", port), ("dst", port), ("proxy", port, "127.0.0.1:1")):
            ended = run(*arguments)
            assert ended.returncode == 2 and ended.stdout == ""
            assert ended.stderr.count("\n") == 1 and port in ended.stderr
        with pytest.raises(NotStarted), spawn("src", port):
            pass


@pytest.mark.parametrize(
    "arguments",
    [
        ("src", "--fault", "odd"),
        ("src", "--min", "2GB", "--max", "1GB"),
        ("src", "--min", "ten"),
        ("dst", "--digest", "crc7"),
        ("proxy", "0", "nowhere"),
        ("proxy", "0", "127.0.0.1:1", "--stall-after", "soon"),
        (),
    ],
)
def test_mistakes_on_the_command_line(arguments: tuple[str, ...]) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2 and ended.stderr and "Traceback" not in ended.stderr


def test_tls_processes_write_their_authority(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    with spawn("src", "--tls", "--ca-out", str(path)) as source:
        assert (source.scheme, source.ca) == ("https", str(path))
        reply = talk(source.port, head("GET", "/a?size=9"), tls=client_context(path.read_bytes()))
        assert reply.status == 200
        assert source.get_json("/_journal")[0]["path"] == "/a"
    assert path.exists()
    with spawn("dst", "--tls") as destination:
        assert destination.ca is not None and Path(destination.ca).exists()
    assert not Path(destination.ca).exists()


def test_tls_moves_large_objects_whole() -> None:
    server, pem = certificates.server_context()
    size = 3_000_000
    with Source(seed="unit", options=Options(tls=server)) as source:
        body = talk(source.port, head("GET", f"/a?size={size}"), tls=client_context(pem)).body
        assert body == source.content.read("/a", 0, size)
    for digests in ((), ("crc64nvme",)):
        with Destination(digests=digests, options=Options(tls=server)) as destination:
            request = head("PUT", "/a", Content_Length=size) + body
            assert talk(destination.port, request, tls=client_context(pem)).status == 201
            assert destination.received.snapshot()[0]["size"] == size


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("expired", "expired"),
        ("wrong-name", "mismatch"),
        ("self-signed", "self-signed certificate"),
    ],
)
def test_certificates_to_refuse(variant: str, reason: str) -> None:
    server, pem = certificates.server_context(variant)
    refused = pytest.raises(ssl.SSLCertVerificationError, match=reason)
    with Source(seed="unit", options=Options(tls=server)) as source, refused:
        talk(source.port, head("GET", "/a?size=9"), tls=client_context(pem))


def test_old_tls_is_refused_and_spoken() -> None:
    server, pem = certificates.server_context("good", "1.0")
    with Source(seed="unit", options=Options(tls=server)) as source:
        with pytest.raises(ssl.SSLError):
            talk(source.port, head("GET", "/a?size=9"), tls=client_context(pem))
        old = client_context(pem)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            old.minimum_version = ssl.TLSVersion.TLSv1
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        assert talk(source.port, head("GET", "/a?size=9"), tls=old).status == 200


def test_a_ragged_end_has_no_close_notify() -> None:
    server, pem = certificates.server_context()
    with Source(seed="unit", options=Options(tls=server)) as source:
        target = "/a?size=9&fault=framing(close)"
        assert talk(source.port, head("GET", target), tls=client_context(pem)).ending == "fin"
        for spec in (";ragged_tls", ";close_after(5);ragged_tls"):
            ragged = talk(
                source.port, head("GET", target + spec.replace(";", "%3B")), tls=client_context(pem)
            )
            assert ragged.ending == "ragged"


def test_a_handshake_that_stalls() -> None:
    server, pem = certificates.server_context()
    with (
        Source(seed="unit", options=Options(tls=server, faults=["tls_stall"])) as source,
        socket.create_connection(("127.0.0.1", source.port), 0.2) as sock,
        pytest.raises(TimeoutError),
    ):
        client_context(pem).wrap_socket(sock, server_hostname="localhost")
