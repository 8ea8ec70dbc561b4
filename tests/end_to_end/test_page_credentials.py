"""Fresh credentials in the browser, for a migration whose signature has expired (E8)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulators.proxy import Proxy
from simulators.source import Source
from tests.end_to_end.browser import visit
from tests.end_to_end.test_credentials import (
    IN_FLIGHT,
    MIB,
    PART,
    SIZE,
    SLACK,
    is_paused,
    kept_bytes,
)
from tests.end_to_end.test_migrations import has_ended, wait_for
from tests.end_to_end.test_serve import SERVE, Server, run_server
from tests.seaweed import KEY, REGION, SECRET, Seaweed

STALE, FRESH = "planted-stale", "planted-fresh"


@pytest.fixture
def way(seaweed: Seaweed) -> Iterator[Proxy]:
    """Return the route to the destination, which counts."""
    with Proxy(seaweed.endpoint.removeprefix("http://")) as proxy:
        yield proxy


@pytest.fixture
def server(tmp_path: Path, way: Proxy) -> Iterator[Server]:
    """Return a relay that knows the bucket as `far:`."""
    (tmp_path / "relay.toml").write_text(
        f'[remotes.far]\ntype = "s3"\nendpoint = "{way.url()}"\naccess_key_id = "{KEY}"\n'
        f'secret_access_key = "{SECRET}"\nregion = "{REGION}"\n'
    )
    settings = {
        "RELAY_CONFIG": str(tmp_path / "relay.toml"),
        "RELAY_LEDGER": f"sqlite:///{tmp_path}/relay.db",
        "RELAY_PARTED_BYTES": str(12 * MIB),
        "RELAY_PART_BYTES": str(PART),
        "RELAY_PARTS_IN_FLIGHT": str(IN_FLIGHT),
        "RELAY_SETTLE_SECONDS": "2",
    }
    with run_server(SERVE, **settings) as made:
        yield made


@pytest.mark.timeout(180)
def test_e8_new_credentials_send_no_part_again(
    seaweed: Seaweed, way: Proxy, server: Server, chromium: Any, tmp_path: Path
) -> None:
    key, asked = "e8/photos.tar", {"Prefer": "respond-async"}
    with Source(seed="e8") as source:
        url = source.url(f"/{key}?size={SIZE}")
        expiring = f"{url}&X-Amz-Signature={STALE}&X-Amz-Fault=on(GET,after(6,status(403)))"
        order = {"source": expiring, "destination": f"far:{seaweed.bucket}/{key}"}
        made = server.ask("POST", "/migrate", order, **asked)[1]
        wait_for(server, made["id"], is_paused)
        kept = kept_bytes(tmp_path / "relay.db", seaweed, key)
        assert kept >= 2 * PART
        before, read = way.bytes_carried("up"), len(source.journal.snapshot())
        with visit(chromium, f"http://{server.host}:{server.port}") as visitor:
            page = visitor.open("?group=needs_you")
            note = page.locator(".row .note").inner_text()
            assert "The source does not accept the credentials any more." in note
            page.get_by_role("link", name="Give new ones").click()
            page.wait_for_url("**/credentials")
            page.locator("#source_url").fill(f"{url}&X-Amz-Signature={FRESH}")
            page.get_by_role("button", name="Resume with these").click()
            page.wait_for_url(f"**/ui/migrations/{made['number']}")
            page.locator(".badge.succeeded").first.wait_for(timeout=60_000)
            # The page loads itself again once more, when the last transfer has ended.
            page.get_by_text("whole_digest").first.wait_for()
            text = page.content()
            assert STALE not in text and FRESH not in text
        # A part in flight at the pause has not arrived.
        assert wait_for(server, made["id"], has_ended)["bytes_resent"] <= IN_FLIGHT * PART
        assert way.bytes_carried("up") - before <= SIZE - kept + SLACK
        later = [one for one in source.journal.snapshot()[read:] if one["method"] == "GET"]
        assert len(later) == (SIZE - kept) // PART
