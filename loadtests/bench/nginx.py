"""nginx as both clouds: a static source with sendfile, and a WebDAV-PUT destination, plain and with
TLS.

One nginx with a worker for each core, as Debian ships it, all its files in one folder that should
be memory. nginx's own WebDAV module lacks PROPFIND, which rclone asks before and after an upload;
the configuration answers it, by the existing files and the common size of a folder's objects.
Whether an object is whole is checked by comparing files, never by that answer."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
from pathlib import Path
from time import monotonic, sleep

import trustme

from loadtests.bench.measures import BenchError
from loadtests.bench.ports import free_ports
from loadtests.bench.processes import clean_environment, last_line, stop

PIECE = 8 << 20
CIPHER = "TLS_AES_128_GCM_SHA256"

_CONFIG = """\
{user}
worker_processes auto;
worker_rlimit_nofile {files};
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
events {{ worker_connections {connections}; multi_accept on; }}
http {{
    log_format seen '$request_method $uri $ssl_protocol $ssl_cipher';
    access_log {folder}/seen.log seen;
    client_max_body_size 0;
    client_body_timeout 300s;
    send_timeout 300s;
    client_body_temp_path {folder}/temp;
    proxy_temp_path {folder}/temp;
    fastcgi_temp_path {folder}/temp;
    uwsgi_temp_path {folder}/temp;
    scgi_temp_path {folder}/temp;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    ssl_protocols TLSv1.3;
    {cipher}
    ssl_certificate {folder}/server.pem;
    ssl_certificate_key {folder}/server.pem;
    server {{
        listen 127.0.0.1:{source_http} backlog=4096;
        listen 127.0.0.1:{source_https} ssl backlog=4096;
        root {folder}/source;
        autoindex on;
    }}
    server {{
        listen 127.0.0.1:{destination_http} backlog=4096;
        listen 127.0.0.1:{destination_https} ssl backlog=4096;
        root {folder}/destination;
        location / {{
            client_body_buffer_size 256k;
            dav_methods PUT DELETE;
        }}
        location /streams/ {{
            client_body_buffer_size 16k;
            dav_methods PUT DELETE;
        }}
{folders}
    }}
}}
"""
# nginx's `if` has no `and`: the conditions are collected in a variable.
_FOLDER = """\
        location /{name}/ {{
            client_body_buffer_size 256k;
            dav_methods PUT DELETE;
            set $asked "";
            if ($request_method = PROPFIND) {{ set $asked "propfind"; }}
            if (-f $request_filename) {{ set $asked "${{asked}} object"; }}
            if (-d $request_filename) {{ set $asked "${{asked}} folder"; }}
            if ($asked = "propfind object") {{ return 207 '{object}'; }}
            if ($asked = "propfind folder") {{ return 207 '{empty}'; }}
            if ($asked = "propfind") {{ return 404; }}
        }}"""
_ANSWER = (
    '<?xml version="1.0"?><d:multistatus'
    ' xmlns:d="DAV:"><d:response><d:href>$uri</d:href><d:propstat><d:prop>{properties}</d:prop><d:status>HTTP/1.1'
    " 200 OK</d:status></d:propstat></d:response></d:multistatus>"
)
_OBJECT = "<d:getcontentlength>{size}</d:getcontentlength><d:resourcetype/>"
_FOLDER_TYPE = "<d:resourcetype><d:collection/></d:resourcetype>"


class Nginx:
    """A running nginx. `sizes` are those that PROPFIND lists, by the first folder of an object's
    path.

    `cipher` is the only TLS 1.3 suite, since OpenSSL prefers AES-256 and Go AES-128, which would
    distort the comparison; if it is empty, each mover gets its preference."""

    def __init__(
        self,
        nginx: str,
        folder: Path,
        sizes: dict[str, int],
        cipher: str = CIPHER,
        connections: int = 16_384,
    ) -> None:
        """Start it in a folder of its own. Raises BenchError if it does not start."""
        self.folder, self.ca = folder, folder / "ca.pem"
        self.source, self.destination = folder / "source", folder / "destination"
        tops = [top / sub for top in (self.source, self.destination) for sub in (*sizes, "streams")]
        for sub in (*tops, folder / "temp"):
            sub.mkdir(parents=True)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(
            str(folder / "server.pem")
        )
        sides = ("source_http", "source_https", "destination_http", "destination_https")
        self._ports = dict(zip(sides, free_ports(len(sides)), strict=True))
        config = _CONFIG.format(
            folder=folder,
            user="user root;" if os.geteuid() == 0 else "",
            files=connections + 1024,
            connections=connections,
            cipher=f"ssl_conf_command Ciphersuites {cipher};" if cipher else "",
            folders="\n".join(_folder(name, size) for name, size in sizes.items()),
            **self._ports,
        )
        (folder / "nginx.conf").write_text(config)
        self._process = self._start_nginx(nginx)

    def _start_nginx(self, nginx: str) -> subprocess.Popen[bytes]:
        log = self.folder / "nginx.log"
        command = [
            nginx,
            "-p",
            str(self.folder),
            "-c",
            str(self.folder / "nginx.conf"),
            "-e",
            str(log),
        ]
        process = subprocess.Popen(
            [*command, "-g", "daemon off;"],
            env=clean_environment(self.folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            await_port(self._ports["destination_https"], process, log, "nginx")
        except BaseException:
            stop(process)
            raise
        return process

    def source_url(self, scheme: str, name: str) -> str:
        """Return where a source object is read."""
        return f"{scheme}://127.0.0.1:{self._ports[f'source_{scheme}']}/{name}"

    def destination_url(self, scheme: str, name: str) -> str:
        """Return where a destination object is put."""
        return f"{scheme}://127.0.0.1:{self._ports[f'destination_{scheme}']}/{name}"

    def write_source(self, name: str, size: int) -> None:
        """Make a source object of random bytes."""
        with (self.source / name).open("wb") as file:
            for offset in range(0, size, PIECE):
                file.write(os.urandom(min(PIECE, size - offset)))

    def is_whole(self, source: str, name: str) -> bool:
        """Return whether a destination object is the source object, byte for byte."""
        return is_same_file(self.source / source, self.destination / name)

    def clear(self) -> None:
        """Delete every destination object."""
        for path in self.destination.rglob("*"):
            if path.is_file():
                path.unlink()

    def ciphers(self) -> dict[str, str]:
        """Return the ciphers of the PUTs over TLS, by destination folder."""
        seen = (line.split() for line in (self.folder / "seen.log").read_text().splitlines())
        return {
            path.split("/")[-2]: f"{tls} {cipher}"
            for verb, path, tls, cipher in seen
            if verb == "PUT" and tls != "-"
        }

    def close(self) -> None:
        """Stop it."""
        stop(self._process)


def _folder(name: str, size: int) -> str:
    """Return the location whose objects all have `size` bytes; a folder in it is listed as empty,
    as it is then."""
    object_ = _ANSWER.format(properties=_OBJECT.format(size=size))
    return _FOLDER.format(name=name, object=object_, empty=_ANSWER.format(properties=_FOLDER_TYPE))


def is_same_file(left: Path, right: Path) -> bool:
    """Return whether two files hold the same bytes."""
    if not right.is_file() or left.stat().st_size != right.stat().st_size:
        return False
    if not left.stat().st_size:
        return True
    with (
        left.open("rb") as a,
        right.open("rb") as b,
        mmap.mmap(a.fileno(), 0, access=mmap.ACCESS_READ) as x,
        mmap.mmap(b.fileno(), 0, access=mmap.ACCESS_READ) as y,
    ):
        return all(x[at : at + PIECE] == y[at : at + PIECE] for at in range(0, len(x), PIECE))


def await_port(
    port: int, process: subprocess.Popen[bytes], log: Path, name: str, seconds: float = 30.0
) -> None:
    """Wait until a process we started listens. Raises BenchError with the last line of its log."""
    until = monotonic() + seconds
    while monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            sleep(0.05)
    raise BenchError(f"{name} did not come up: {last_line(log)}")
