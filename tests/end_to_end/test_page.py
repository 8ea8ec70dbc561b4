"""The page in a real browser: lists, actions, hostile names, phones, without a script."""

from __future__ import annotations

import csv
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relay.ledger.sample_values import Traffic
from tests.end_to_end.browser import LARGE, SMALL, Visitor, visit
from tests.end_to_end.page_ledger import (
    HOSTILE,
    end_partially,
    fill,
    ledger_url,
    open_ledger,
    pause_by_relay,
    pause_tree,
    plan_tree,
)
from tests.end_to_end.test_serve import SERVE, Server, run_server
from tests.looks import looks

MANY = 10_000
SECONDS = 20.0
"""How long a test waits for a state of the ledger."""


@dataclass(frozen=True)
class Site:
    """A server with a page, its folder, the numbers of its migrations by name, and a plan."""

    server: Server
    home: Path
    numbers: dict[str, int]
    plan: str

    def path(self, pattern: str) -> str:
        """Return the path of a page, by a pattern with names of migrations."""
        return pattern.format(**self.numbers, plan=self.plan)

    @property
    def base(self) -> str:
        """The server's address."""
        return f"http://{self.server.host}:{self.server.port}"

    def wait(self, number: int, is_reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until a migration is as asked, and return it."""
        for _ in looks(SECONDS):
            found = self.server.ask("GET", f"/migrations/{number}")[1]
            if is_reached(found):
                return found
        raise TimeoutError(found)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, chromium: Any) -> Iterator[Site]:
    """Return a server with 10,000 ended migrations and one of each kind that a test acts on."""
    home = tmp_path_factory.mktemp("page")
    config = home / "relay.toml"
    with closing(open_ledger(home)) as ledger:
        made = {
            "hostile": end_partially(ledger, home, "hostile", (*HOSTILE, "a b.txt", "last.txt")),
            "retry": end_partially(ledger, home, "retry", ("a", "b", "c", "d", "e")),
            "refused": pause_by_relay(ledger, home, "refused"),
            **{
                name: pause_tree(ledger, home, name)
                for name in ("steer", "bare", "doomed", "spare")
            },
        }
        plan = plan_tree(ledger, home, "spare").id
        fill(ledger, MANY)
        ledger.leases.leave()
    for name in ("old", "new"):
        (home / name / "photos").mkdir(parents=True)
    for number in range(30):
        (home / "old/photos" / f"{number:02}.jpg").write_bytes(b"y" * 2000)
    config.write_text(
        "".join(
            f'[remotes.{name}]\ntype = "alias"\nremote = "{home / name}"\n'
            for name in ("old", "new")
        )
        + '[remotes.cloud]\ntype = "s3"\nendpoint = "http://u:planted-pass@127.0.0.1:9"\n'
        'access_key_id = "planted-key"\nsecret_access_key = "planted-secret"\n'
    )
    with run_server(
        SERVE,
        RELAY_LEDGER=ledger_url(home),
        RELAY_LOCAL_FOLDERS=str(home),
        RELAY_CONFIG=str(config),
    ) as server:
        yield Site(server, home, {name: one.number for name, one in made.items()}, plan)


@pytest.fixture
def visitor(site: Site, chromium: Any) -> Iterator[Visitor]:
    """Return a window at a desk."""
    with visit(chromium, site.base) as made:
        yield made


def test_a_browser_is_led_to_the_page(site: Site, visitor: Visitor) -> None:
    visitor.page.goto(f"{site.base}/")
    assert visitor.page.url == f"{site.base}/ui/"
    assert visitor.heading() == "Migrations"
    assert site.server.ask("GET", "/")[1]["name"] == "relay"
    assert site.server.ask("GET", "/", Accept="*/*")[1]["name"] == "relay"


def test_e2_a_list_of_ten_thousand(site: Site, visitor: Visitor) -> None:
    page = visitor.open()
    assert page.locator(".row").count() == 50
    assert page.locator(".tabs a").first.inner_text().split() == ["All", f"{MANY + 7:,}"]
    seen: list[str] = page.locator(".row .num").all_inner_texts()
    page.get_by_role("link", name="Older").click()
    page.wait_for_url("**/ui/?before=*")
    rest = page.locator(".row .num").all_inner_texts()
    assert len(rest) == 50 and not set(rest) & set(seen)
    page.get_by_role("searchbox").fill("photos/4711")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=photos*")
    assert page.locator(".row").count() == 1
    page.get_by_role("link", name="Needs you").click()
    page.wait_for_url("**group=needs_you*")
    texts = page.locator(".row").all_inner_texts()
    assert len(texts) == 3 and any("does not accept the credentials" in text for text in texts)
    page.goto(f"{site.base}/ui/?q=nowhere")
    assert f"None of {MANY + 7:,} migrations matches" in page.locator(".empty").inner_text()


def test_e3_browse_plan_start_twice(site: Site, visitor: Visitor) -> None:
    page = visitor.open("new")
    page.get_by_label("Remote").first.select_option("old")
    page.get_by_role("button", name="Browse source").click()
    page.get_by_role("button", name="photos/").click()
    page.get_by_text("00.jpg").wait_for()
    assert page.locator("#source_path").input_value() == "photos/"
    page.get_by_label("Remote").nth(1).select_option("new")
    page.locator("#destination_path").fill("photos/")
    page.locator(".order > .act").get_by_role("button", name="Plan first").dblclick(
        no_wait_after=True
    )
    page.wait_for_url(re.compile(r"/ui/plans/[0-9a-f-]{36}$"))
    # The page shows the end of the planning without a click.
    page.locator(".badge", has_text="Ready").wait_for()
    plan = page.url
    found = " ".join(page.locator("#plan").inner_text().split())
    assert "30 objects, 60.0 kB: copy 30" in found
    assert "level to expect: read_back · time unknown until" in found
    # It may be left, changed, and come back to.
    page.get_by_role("link", name="Change").click()
    page.wait_for_url("**/ui/new?plan=*")
    assert page.locator("#source_remote").input_value() == "old"
    assert page.locator("#destination_path").input_value() == "photos/"
    rows = page.locator("tbody tr")
    assert "copy 30" in rows.first.inner_text()
    rows.first.get_by_role("link").click()
    page.wait_for_url(plan)
    before = site.server.ask("GET", "/migrations?limit=1")[1]["migrations"][0]["number"]
    page.get_by_role("button", name="Start", exact=True).dblclick(no_wait_after=True)
    page.wait_for_url(re.compile(r"/ui/migrations/\d+$"))
    number = int(page.url.rpartition("/")[2])
    assert number == before + 1
    site.wait(number, lambda found: found["state"] == "succeeded")
    assert site.server.ask("GET", "/migrations?limit=1")[1]["migrations"][0]["number"] == number
    page.locator(".badge.succeeded").first.wait_for()
    assert len(list((site.home / "new/photos").iterdir())) == 30
    page.goto(plan)
    page.get_by_role("link", name=f"migration #{number}").wait_for()


def test_a_wrong_form_keeps_its_values(visitor: Visitor) -> None:
    visitor.refusals = 1
    page = visitor.open("new")
    page.locator("#source_path").fill("nowhere:photos/")
    page.locator("#destination_path").fill("new:photos/")
    page.get_by_role("button", name="Start without a plan").click()
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "there is no remote" in alert.inner_text()
    assert page.evaluate("document.activeElement.id") == "alert"
    assert page.locator("#source_path").input_value() == "nowhere:photos/"


def test_start_paused_waits_for_a_resume(site: Site, visitor: Visitor) -> None:
    page = visitor.open("new")
    page.locator("#source_path").fill(f"file://{site.home}/old/photos/")
    page.locator("#destination_path").fill(f"file://{site.home}/later/")
    page.get_by_role("button", name="Start paused").click()
    page.get_by_text("Paused. Nothing is under way.").wait_for()
    assert not (site.home / "later").exists()
    page.get_by_role("button", name="Resume").click()
    page.locator(".badge.succeeded").first.wait_for()
    assert len(list((site.home / "later").iterdir())) == 30


def plant_samples(site: Site, id: str) -> None:
    """Write samples of the last minutes for a migration, of 40 MB and 20 slot-seconds each."""
    with closing(open_ledger(site.home)) as ledger:
        for ago in range(28, 0, -1):
            traffic = Traffic(moved=40_000_000, slot_seconds={"piping": 20.0})
            ledger.live.write_samples({id: traffic}, time.time() - 10 * ago)
        ledger.leases.leave()


def test_e4_what_moves_is_shown(site: Site, visitor: Visitor) -> None:
    source = site.home / "slow/from"
    source.mkdir(parents=True)
    for number in range(3):
        (source / f"{number}.bin").touch()
        os.truncate(source / f"{number}.bin", 400_000_000)
    order = {
        "source": f"file://{source}/",
        "destination": f"file://{site.home}/slow/to/",
        "recursive": True,
        "limits": {"bytes_per_second": 500_000, "slots": 2},
    }
    made = site.server.ask("POST", "/migrate", order)[1]
    number = made["number"]
    site.wait(number, lambda found: found["listing"] == "done")
    plant_samples(site, made["id"])
    page = visitor.open(f"migrations/{number}")
    page.get_by_role("heading", name="Moving now (2 of 2)").wait_for()
    # 1.2 GB at 4 MB/s.
    left = page.locator("[data-live=estimate]").inner_text().replace("\u00a0", " ")
    said = r"about (4|5) min( \d+ s)? left( \(.+ - .+\))?, if the last 5 minutes are typical"
    assert re.fullmatch(said, left), left
    spoken = page.locator("progress.bar").first.get_attribute("aria-valuetext")
    said = r"\d per cent, (4|5) min( \d+ s)? left"
    assert re.fullmatch(said, spoken.replace("\u00a0", " ")), spoken
    page.locator("#plot canvas").wait_for()
    assert page.locator("#moving-rows th").all_inner_texts() == ["0.bin", "1.bin"]
    page.locator("#moving-rows td.right", has_text="kB/s").first.wait_for()
    page.locator(".facts .strong", has_text="kB/s").wait_for()
    page.get_by_role("button", name="Pause").click()
    page.locator(".badge.paused").first.wait_for()
    page.get_by_text("Paused. Nothing is under way.").wait_for()
    assert not page.locator("#moving").is_visible()
    site.server.ask("POST", f"/migrations/{number}/cancel")


def test_e5_pause_and_resume(site: Site, visitor: Visitor) -> None:
    number = site.numbers["steer"]
    page = visitor.open(f"migrations/{number}")
    assert "Paused. Nothing is under way." in page.locator(".activity").inner_text()
    page.get_by_role("button", name="Resume").click()
    site.wait(number, lambda found: found["state"] == "succeeded")
    # The page shows the end without a click.
    page.locator(".badge.succeeded").first.wait_for()
    assert page.locator(".big .figure").inner_text().split() == ["100", "%"]
    assert page.locator("progress.bar").get_attribute("aria-valuetext").startswith("100 per cent")


def test_e6_cancel_asks_first(site: Site, visitor: Visitor) -> None:
    number = site.numbers["doomed"]
    page = visitor.open(f"migrations/{number}")
    page.get_by_role("link", name="Cancel...").click()
    page.wait_for_url("**/cancel")
    text = page.locator("#q").inner_text()
    assert text == f"Cancel #{number}? What has arrived stays."
    page.get_by_role("link", name="Keep it").click()
    page.wait_for_url(f"**/migrations/{number}")
    page.get_by_role("link", name="Cancel...").click()
    page.get_by_role("button", name="Cancel migration").click()
    page.wait_for_url(f"**/migrations/{number}")
    page.locator(".badge.cancelled").first.wait_for()
    assert site.server.ask("GET", f"/migrations/{number}")[1]["state"] == "cancelled"


def test_e7_retry_one_reason(site: Site, visitor: Visitor) -> None:
    number = site.numbers["retry"]
    page = visitor.open(f"migrations/{number}")
    reasons = page.locator(".reasons li").all_inner_texts()
    assert len(reasons) == 2 and "The store denied permission, at the source" in reasons[0]
    page.get_by_role("button", name="Retry 3").click()
    found = site.wait(number, lambda found: found["state"] == "partial")
    assert found["objects"] == {"failed": 1, "verified": 4}
    # The page loads itself again, and shows one reason less.
    page.locator(".reasons li").nth(1).wait_for(state="detached")
    page.get_by_role("link", name="See all").click()
    page.wait_for_url("**/objects?state=failed*")
    assert page.locator("tbody tr").count() == 1


def test_failures_are_acknowledged(site: Site, visitor: Visitor) -> None:
    """It no longer needs a person, and keeps its state and its other buttons."""
    number = site.numbers["hostile"]
    page = visitor.open("?group=needs_you")
    row = page.locator(".row", has_text=f"#{number}")
    row.get_by_role("button", name="Acknowledge").click()
    page.wait_for_url(f"**/ui/migrations/{number}")
    assert page.get_by_role("button", name="Acknowledge").count() == 0
    assert page.get_by_role("button", name="Retry").count() > 0
    assert page.locator(".badge.partial").count() == 1
    found = site.server.ask("GET", f"/migrations/{number}")[1]
    assert (found["state"], found["needs_attention"]) == ("partial", False)
    visitor.open("?group=needs_you")
    assert page.locator(".row", has_text=f"#{number}").count() == 0


def test_e12_report_and_receipt(site: Site, visitor: Visitor) -> None:
    """The receipt of an object that has arrived, and the report in each form, of all objects or of
    some."""
    number = site.numbers["hostile"]
    page = visitor.open(f"migrations/{number}")
    reports = {name: download(page, name) for name in ("HTML", "CSV", "JSONL")}
    for name, (suggested, _) in reports.items():
        assert suggested == f"relay-{number}.{name.lower()}"
    rows = [json.loads(line) for line in reports["JSONL"][1].splitlines()]
    assert {row["state"] for row in rows} == {"failed", "verified"}
    assert [row["name"] for row in csv.DictReader(reports["CSV"][1].splitlines())] == [
        row["name"] for row in rows
    ]
    assert reports["HTML"][1].count("<tr class") == len(rows)
    assert "<script" not in reports["HTML"][1] and "&lt;script&gt;" in reports["HTML"][1]
    visitor.open(f"migrations/{number}/objects")
    page.get_by_label("State").select_option("verified")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**state=verified**")
    suggested, text = download(page, "CSV")
    assert suggested == f"relay-{number}-verified.csv"
    assert [row["name"] for row in csv.DictReader(text.splitlines())] == ["last.txt"]


def test_e12_the_receipt_says_what_was_proved(site: Site, visitor: Visitor) -> None:
    order = {
        "source": f"file://{site.home}/old/photos/00.jpg",
        "destination": f"file://{site.home}/receipt.jpg",
    }
    number = site.server.ask("POST", "/migrate", order, Prefer="respond-async")[1]["number"]
    site.wait(number, lambda found: found["state"] == "succeeded")
    (row,) = site.server.ask("GET", f"/migrations/{number}/transfers")[1]["transfers"]
    page = visitor.open(f"migrations/{number}/objects")
    page.locator("tbody th a").click()
    page.wait_for_url(re.compile(r"/objects/\d+$"))
    found = dict(
        zip(
            page.locator(".pairs dt").all_inner_texts(),
            page.locator(".pairs dd").all_inner_texts(),
            strict=True,
        )
    )
    assert found["Proof"] == row["level"] == "read_back"
    assert found["Size"].replace("\u00a0", " ") == "2.00 kB (2,000 bytes)"
    assert row["receipt"]["digests"].items() <= found.items()
    assert found["Attempts"] == "1" and "Sent again" not in found
    versions = page.locator("table").inner_text()
    assert "Read from the source" in versions and "2000" in versions


def download(page: Any, name: str) -> tuple[str, str]:
    """Return the name and the text of the file behind a link."""
    with page.expect_download() as made:
        page.get_by_role("link", name=name, exact=True).click()
    return made.value.suggested_filename, Path(made.value.path()).read_text()


def test_e21_hostile_names_stay_text(site: Site, visitor: Visitor) -> None:
    visitor.open(f"migrations/{site.numbers['hostile']}")
    page = visitor.open(f"migrations/{site.numbers['hostile']}/objects")
    text = page.locator("tbody").inner_text()
    for name in HOSTILE:
        assert name.replace("\u202e", "\\u202e") in text
    assert "\u202e" not in page.content()
    assert page.locator("tbody script, tbody img").count() == 0
    page.get_by_role("link", name="<script>alert(1)</script>.jpg").click()
    page.wait_for_url(re.compile(r"/objects/\d+$"))
    assert "GET <b>denied</b> (403)" in page.locator("main").inner_text()


def test_secrets_stay_in_their_files(site: Site, visitor: Visitor) -> None:
    for path in ("remotes", "settings", "health", "new"):
        text = visitor.open(path).content()
        assert "planted" not in text, path
    assert "http://127.0.0.1:9" in visitor.open("remotes").content()


def test_a_remote_is_tested(site: Site, visitor: Visitor) -> None:
    page = visitor.open("remotes")
    card = page.locator(".card", has=page.get_by_role("heading", name="old:"))
    card.get_by_label("Folder").fill("photos/")
    card.get_by_role("button", name="Test").click()
    result = page.locator("#result")
    result.wait_for()
    assert "the folder can be listed" in result.inner_text()


PHONE_SCREENS = (
    *("", "new", "plans", "plans/{plan}", "migrations/{hostile}", "migrations/{hostile}/objects"),
    *("remotes", "tokens", "settings", "health"),
)


def test_e17_a_phone_shows_all(site: Site, chromium: Any) -> None:
    with visit(chromium, site.base, SMALL, has_touch=True, is_mobile=True) as visitor:
        for path in PHONE_SCREENS:
            page = visitor.open(site.path(path))
            assert page.evaluate("document.documentElement.scrollWidth") <= SMALL[0], path
            low = page.evaluate(
                "[...document.querySelectorAll('button, .button, select, input, nav a,"
                " .row .name')]"
                ".filter(one => one.offsetParent && !one.matches('.unseen, [type=checkbox],"
                " [type=radio]'))"
                ".map(one => [one.outerHTML.slice(0, 80), one.getBoundingClientRect().height])"
                ".filter(([, height]) => height < 43.5)"
            )
            assert not low, path


def test_e18_dark_still_and_on_paper(site: Site, visitor: Visitor) -> None:
    page = visitor.open(f"migrations/{site.numbers['hostile']}")
    background = "getComputedStyle(document.body).backgroundColor"
    bright = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(background) != bright
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    moving = (
        "getComputedStyle(document.querySelector('.bar'), '::-webkit-progress-value').transition"
    )
    assert "0.4s" not in page.evaluate(moving)
    page.emulate_media(media="print")
    assert not page.get_by_role("navigation").first.is_visible()
    assert page.get_by_role("heading", level=1).is_visible()


def test_e25_every_action_without_a_script(site: Site, chromium: Any) -> None:
    number = site.numbers["bare"]
    with visit(chromium, site.base, java_script_enabled=False) as visitor:
        page = visitor.open(f"migrations/{number}")
        page.get_by_role("link", name="Cancel...").click()
        page.get_by_role("button", name="Cancel migration").click()
        assert page.locator(".badge.cancelled").count() == 1
        page.get_by_role("button", name="Retry").click()
        assert page.locator("h1").count() == 1
        site.wait(number, lambda found: found["state"] == "succeeded")
        page = visitor.open("new")
        page.locator("#source_path").fill(f"file://{site.home}/spare/from/")
        page.get_by_role("button", name="Browse source").click()
        assert page.get_by_text("000.bin").count() == 1
        page.locator("#destination_path").fill(f"file://{site.home}/bare-new/")
        page.locator(".order > .act").get_by_role("button", name="Plan first").click()
        # Without a script the browser loads the page of a plan again until it is ready.
        page.get_by_role("button", name="Start", exact=True).wait_for()
        assert "40 objects" in page.locator("#plan").inner_text()
        page.get_by_role("button", name="Start", exact=True).click()
        page.wait_for_url("**/migrations/*")
        started = int(page.url.rpartition("/")[2])
        site.wait(started, lambda found: found["state"] == "succeeded")
        page.get_by_role("link", name="All objects").click()
        assert page.locator("tbody tr").count() == 40


def test_keys_steer_the_list(site: Site, visitor: Visitor) -> None:
    page = visitor.open()
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.locator(".row.selected").count() == 1
    page.keyboard.press("Enter")
    page.wait_for_url("**/migrations/*")
    page.keyboard.press("g")
    page.keyboard.press("m")
    page.wait_for_url("**/ui/")
    page.keyboard.press("?")
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")
    page.keyboard.press("n")
    page.wait_for_url("**/ui/new")


def test_an_unknown_migration_is_a_page(visitor: Visitor) -> None:
    visitor.refusals = 2
    visitor.open("migrations/99999999")
    assert visitor.heading() == "There is no such migration"
    visitor.open("nothing/here")
    assert visitor.heading() == "There is no such page"


SCREENS = (
    *("", "?group=needs_you", "?q=nowhere", "new", "remotes", "tokens", "settings", "health"),
    *("plans", "plans/{plan}", "new?plan={plan}"),
    *("migrations/{hostile}", "migrations/{spare}", "migrations/{spare}/cancel"),
    *("migrations/{hostile}/objects", "migrations/{refused}"),
)


AXE_SIGHTS = {"320-light 1280-dark": ((SMALL, "light"), (LARGE, "dark"))}
AXE_CAMPAIGN = {"320-dark 1280-light": ((SMALL, "dark"), (LARGE, "light"))}
"""Sizes of the window with a scheme of colours, in which each screen is checked."""


@pytest.mark.parametrize(
    "sights",
    [
        *(pytest.param(sights, id=name) for name, sights in AXE_SIGHTS.items()),
        *(
            pytest.param(sights, id=name, marks=pytest.mark.campaign)
            for name, sights in AXE_CAMPAIGN.items()
        ),
    ],
)
def test_a3_axe_finds_nothing(
    site: Site, chromium: Any, sights: tuple[tuple[tuple[int, int], str], ...]
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with visit(chromium, site.base) as visitor:
        for path in SCREENS:
            page = visitor.open(site.path(path))
            for (width, height), scheme in sights:
                page.set_viewport_size({"width": width, "height": height})
                page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                found = axe.run(page)
                assert found.violations_count == 0, (path, scheme, found.generate_report())
