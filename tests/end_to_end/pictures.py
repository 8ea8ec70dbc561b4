"""`python -m tests.end_to_end.pictures`: take the README's pictures of the page.

A real migration runs between two folders of SeaweedFS, below some that have ended. No picture names
a folder of the machine that took it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from relay.ledger.claim_values import Settlement
from relay.ledger.listing_values import ListedObject
from tests.end_to_end.browser import run_chromium
from tests.end_to_end.page_ledger import DENIED, ledger_url, open_ledger
from tests.end_to_end.test_serve import SERVE, Server, run_server
from tests.ledgers import TREE, verified_end
from tests.seaweed import KEY, REGION, SECRET, seaweedfs

FOLDER = Path(__file__).resolve().parents[2] / "docs/pictures"
FILES, FILE_BYTES = 96, 4_000_000
RATE = 6_000_000
SECONDS = 45
"""How long the migration runs before the pictures are taken: the chart has a point each 10 s."""


def fill(home: Path) -> None:
    """Write migrations that have ended, one with failures and one that relay has paused."""
    with closing(open_ledger(home)) as ledger:
        for name, failures in (("mail", 3), ("logs/2025", 0), ("invoices", 0)):
            made, _ = ledger.create(
                replace(TREE, source=f"old:{name}", destination=f"new:{name}", places=None)
            )
            listing = ledger.listings.claim(made.id)
            assert listing is not None
            page = [ListedObject(f"{number:05}.eml", size=48_000) for number in range(1_800)]
            ledger.listings.add_page(listing, page, page[-1].name)
            ledger.listings.end(listing)
            claims = ledger.claims.claim(len(page), made.id)
            ends = [verified_end(claim, 48_000) for claim in claims[failures:]]
            ends += [Settlement(claim, "failed", error=DENIED) for claim in claims[:failures]]
            ledger.claims.settle(ends)
            ledger.finish()
        made, _ = ledger.create(
            replace(TREE, source="old:scans", destination="new:scans", places=None)
        )
        ledger.pause_for(made.id, {**DENIED, "code": "store-unauthenticated", "detail": "401"})
        ledger.leases.leave()


def start(server: Server, source: str, destination: str, **members: object) -> int:
    """Start a migration, and return its number."""
    order = {"source": source, "destination": destination, "recursive": True, **members}
    found = server.ask("POST", "/migrate", order)[1]
    number: int = found["number"]
    return number


def main() -> None:
    """Take the pictures."""
    FOLDER.mkdir(exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="relay-pictures-"))
    fill(home)
    photos = home / "photos"
    photos.mkdir()
    for number in range(FILES):
        (photos / f"IMG_{4000 + number}.CR3").write_bytes(os.urandom(FILE_BYTES))
    (home / "weed").mkdir()
    with seaweedfs(home / "weed") as weed, run_chromium() as chromium:
        config = home / "relay.toml"
        config.write_text(
            "".join(
                f'[remotes.{name}]\ntype = "s3"\nendpoint = "{weed.endpoint}"\n'
                f'access_key_id = "{KEY}"\nsecret_access_key = "{SECRET}"\nregion = "{REGION}"\n'
                for name in ("old", "new")
            )
        )
        settings = {
            "RELAY_LEDGER": ledger_url(home),
            "RELAY_LOCAL_FOLDERS": str(home),
            "RELAY_CONFIG": str(config),
            "RELAY_EGRESS_ALLOW": "127.0.0.1,localhost",
        }
        apart = settings | {"RELAY_LEDGER": f"sqlite:///{home}/apart.db"}
        words = ("migrate", "-r", str(photos), "old:relay-tests/photos/")
        subprocess.run(
            [sys.executable, "-m", "relay", *words], env=os.environ | apart, cwd=home, check=True
        )
        with run_server(SERVE, **settings) as server:
            number = start(
                server,
                "old:relay-tests/photos/",
                "new:relay-tests/backup/photos/",
                server_copy=False,
                limits={"bytes_per_second": RATE, "slots": 5},
            )
            page = chromium.new_page(viewport={"width": 1280, "height": 900})
            base = f"http://{server.host}:{server.port}/ui"
            page.goto(f"{base}/migrations/{number}")
            page.wait_for_timeout(SECONDS * 1000)
            page.screenshot(path=FOLDER / "migration.png")
            page.goto(f"{base}/")
            page.wait_for_timeout(3000)
            page.set_viewport_size({"width": 1280, "height": 620})
            page.screenshot(path=FOLDER / "list.png")
            while server.ask("GET", f"/migrations/{number}")[1]["ended"] is None:
                time.sleep(0.5)
            page.goto(f"{base}/new")
            for side, name, path in (
                ("source", "old", "photos"),
                ("destination", "new", "backup/2026"),
            ):
                page.locator(f"#{side}_remote").select_option(name)
                page.locator(f"#{side}_path").fill(f"relay-tests/{path}/")
            page.locator(".order > .act").get_by_role("button", name="Plan first").click()
            page.locator(".badge", has_text="Ready").wait_for()
            page.set_viewport_size({"width": 1280, "height": 570})
            page.screenshot(path=FOLDER / "plan.png")


if __name__ == "__main__":
    main()
