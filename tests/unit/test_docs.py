"""The pages: generated parts are current, links have targets, and the commands on them parse."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from relay.config import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
WRITTEN = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "deploy/README.md",
    *sorted(DOCS.glob("*.md")),
]
BLOCK = re.compile(r"```(?:sh)?\n(.*?)```", re.S)


STALE = """
import sys, docs.generate as generate
generate.PAGES = {**generate.PAGES, "states.md": lambda: "# Other states"}
sys.exit(generate.main(["--check"]))
"""
PARSE = """
import json, sys
from relay.cli.__main__ import cli
import click
context = click.Context(cli, info_name="relay")
for name, *words in json.load(sys.stdin):
    try:
        cli.get_command(context, name).make_context(name, words, parent=context)
    except click.ClickException as error:
        sys.exit(f"relay {name} {words}: {error.format_message()}")
"""


def run(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python in another process: the terminal's modules patch their process."""
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, input=given, capture_output=True, text=True, check=False
    )


def test_the_generated_pages_match_the_program() -> None:
    checked = run("-m", "docs.generate", "--check")
    assert checked.returncode == 0, checked.stderr


def test_a_page_that_is_not_current_is_named() -> None:
    checked = run("-c", STALE)
    assert checked.returncode == 1 and "states.md" in checked.stderr


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"^([a-z-]+)$", (DOCS / "index.md").read_text(encoding="utf-8"), re.M))
    assert listed == {path.stem for path in DOCS.glob("*.md")} - {"index"}


def test_the_readme_fits() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def anchor(heading: str) -> str:
    """Return the anchor that GitHub and MyST give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, heading = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if heading:
            if target.name == "contributing.md":  # a page that includes the other
                target = ROOT / "CONTRIBUTING.md"
            headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.M)
            assert heading in {anchor(one) for one in headings}, link


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_a_page_has_each_heading_once(page: Path) -> None:
    """A link leads to the first one; and a wrong merge repeats a part of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = [anchor(one) for one in re.findall(r"^#+ (.*)", text, re.M)]
    assert len(found) == len({*found})


def commands_in(text: str) -> list[list[str]]:
    """Return the words of each `relay` command in the blocks of a page, without the shell's own
    parts."""
    lines = "\n".join(BLOCK.findall(text)).replace("\\\n", " ").splitlines()
    found = [re.search(r"(?:^|\$ |bin/)relay ([a-z]+\b.*)", line) for line in lines]
    words = [shlex.split(re.split(r"\s[#&|>]", one[1])[0]) for one in found if one]
    return [one for one in words if "[OPTIONS]" not in one]  # a synopsis


def test_every_command_of_the_pages_parses() -> None:
    found = [
        command for page in WRITTEN for command in commands_in(page.read_text(encoding="utf-8"))
    ]
    assert len(found) >= 15
    parsed = run("-c", PARSE, given=json.dumps(found))
    assert parsed.returncode == 0, parsed.stderr


@pytest.mark.parametrize("page", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_setting_and_make_target_of_a_page_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    known = {name.upper() for name in SETTINGS} | {"CONFIG", "FAILPOINT"}
    assert set(re.findall(r"\bRELAY_([A-Z_]*[A-Z])\b", text)) <= known
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(
        r"make ([a-z]+(?:-[a-z]+)*)",
        "\n".join([*BLOCK.findall(text), *re.findall(r"`([^`]+)`", text)]),
    ):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_nginx_speaks_http_1_1_to_relay() -> None:
    """Over HTTP/1.0, nginx's default, an answer that breaks off looks complete."""
    files = [*DOCS.glob("*.md"), *ROOT.glob("deploy/*.conf")]
    found = [
        block
        for file in files
        for block in re.findall(
            r"location [^{]*\{.*?\n *\}", file.read_text(encoding="utf-8"), re.S
        )
        if "proxy_pass" in block
    ]
    assert len(found) == 2
    assert all("proxy_http_version 1.1;" in block for block in found)
    assert all('proxy_set_header Connection "";' in block for block in found)
