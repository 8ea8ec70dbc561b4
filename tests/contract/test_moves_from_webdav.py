"""`relay move` from WebDAV servers: objects whose ETags are dates in seconds are read again."""

from __future__ import annotations

from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.end_to_end.terminal import Terminal


def put(url: str, data: bytes) -> None:
    urlopen(Request(url, data, method="PUT"), timeout=10).close()


@pytest.mark.parametrize("server", ["nginx", "wsgidav"])
def test_a_tree_is_moved_from_webdav(
    server: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    base = f"{request.getfixturevalue(server)}/moved"
    urlopen(Request(f"{base}/", method="MKCOL"), timeout=10).close()
    for name in ("a", "b%20c"):
        put(f"{base}/{name}", name.encode() * 100)
    terminal = Terminal(tmp_path, RELAY_EGRESS_ALLOW="127.0.0.1")
    target = f"{tmp_path}/to"
    source = f"webdav+{base}/"
    code, out, err = terminal.run("move", "-r", source, target)
    if server == "nginx":  # its WebDAV lists nothing
        code, out, err = terminal.run("move", f"webdav+{base}/a", f"{target}-a")
        assert (code, "1 objects deleted" in out) == (0, True), out + err
        assert Path(f"{target}-a").read_bytes() == b"a" * 100
        with pytest.raises(OSError, match="404"):
            urlopen(f"{base}/a", timeout=10)
        return
    assert (code, "2 objects deleted" in out) == (0, True), out + err
    assert {path.name: path.read_bytes() for path in Path(target).iterdir()} == {
        "a": b"a" * 100,
        "b c": b"b%20c" * 100,
    }
    for name in ("a", "b%20c"):
        with pytest.raises(OSError, match="404"):
            urlopen(f"{base}/{name}", timeout=10)
    assert (request.getfixturevalue("wsgidav_root") / "moved").is_dir()


def test_a_webdav_folder_becomes_a_mirror(wsgidav: str, tmp_path: Path) -> None:
    base = f"{wsgidav}/mirror"
    urlopen(Request(f"{base}/", method="MKCOL"), timeout=10).close()
    for name in ("a", "extra"):
        put(f"{base}/{name}", b"old")
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a").write_bytes(b"a new one")
    terminal = Terminal(tmp_path, RELAY_EGRESS_ALLOW="127.0.0.1")
    words = ("migrate", "-r", f"{tmp_path}/from", f"webdav+{base}/", "--mirror")
    code, out, err = terminal.run(*words, "--max-delete", "1")
    assert (code, "1 objects deleted" in out) == (0, True), out + err
    assert urlopen(f"{base}/a", timeout=10).read() == b"a new one"
    with pytest.raises(OSError, match="404"):
        urlopen(f"{base}/extra", timeout=10)
