"""nginx with TLS in front of a server that has none: both sides of a move are encrypted then."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

from loadtests.bench.nginx import CIPHER, await_port
from loadtests.bench.ports import free_port
from loadtests.bench.processes import clean_environment, stop

_CONFIG = """\
{user}
worker_processes auto;
worker_rlimit_nofile 8192;
pid {home}/front.pid;
error_log {home}/front.log warn;
events {{ worker_connections 4096; multi_accept on; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {home}/front-temp;
    client_body_buffer_size 256k;
    proxy_temp_path {home}/front-temp;
    proxy_buffers 32 16k;
    keepalive_requests 10000000;
    ssl_protocols TLSv1.3;
    ssl_conf_command Ciphersuites {cipher};
    ssl_certificate {home}/front.pem;
    ssl_certificate_key {home}/front.pem;
    upstream server {{ server {server}; keepalive 256; keepalive_requests 10000000; }}
    server {{
        listen 127.0.0.1:{port} ssl backlog=4096;
        location / {{
            proxy_pass http://server;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
        }}
    }}
}}
"""


@contextmanager
def tls_front(nginx: str, home: Path, server: str) -> Iterator[tuple[str, Path]]:
    """Run nginx in front of `server` (host and port) for the time of the block. Yield its URL, and
    the file of its certificate authority. Raises BenchError if it does not start."""
    port, authority, ca = free_port(), trustme.CA(), home / "front-ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    chain = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem
    chain.write_to_path(str(home / "front.pem"))
    (home / "front-temp").mkdir()
    user = "user root;" if os.geteuid() == 0 else ""
    config = home / "front.conf"
    config.write_text(_CONFIG.format(home=home, user=user, server=server, port=port, cipher=CIPHER))
    log = home / "front.log"
    command = [nginx, "-p", str(home), "-c", str(config), "-e", str(log), "-g", "daemon off;"]
    process = subprocess.Popen(
        command,
        env=clean_environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        await_port(port, process, log, "nginx")
        yield f"https://127.0.0.1:{port}", ca
    finally:
        stop(process)
