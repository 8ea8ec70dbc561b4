"""The recipes of deploy/ start: each command with the user, the read-only root and the environment
that it gives.

The test needs no container engine and no systemd: namespaces, read-only mounts and `setpriv` create
the same conditions. The command, user, folder and environment are read from the files
themselves."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay.api.serving import gunicorn_settings
from relay.config import SETTINGS, Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PAGE = DEPLOY.parent / "docs/production.md"
INSIDE = Path(__file__).with_name("inside_deploy.py")
TOKEN = "planted-token-0123456789"
UNSHARE = ["unshare", "--mount", "--net", "--propagation", "private"]
HEALTH = "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"
UNIT_USER = 20002
"""The number of the unit's user, which a test must not add to the machine."""


def dockerfile() -> dict[str, Any]:
    """Return the last stage of the Dockerfile: its environment, user, folder, commands and
    volumes."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    stage = text[text.rindex("\nFROM ") :]
    rows = re.findall(r"^([A-Z]+) +(.+)$", stage, re.M)
    instructions = dict(rows)
    environment: dict[str, str] = {}
    for name, row in rows:
        if name == "ENV":
            environment |= dict(pair.split("=", 1) for pair in shlex.split(row))
    return {
        "environment": environment,
        "user": int(instructions["USER"].split(":")[0]),
        "folder": instructions["WORKDIR"],
        "command": json.loads(instructions["CMD"]),
        "health": json.loads(instructions["HEALTHCHECK"].partition("CMD ")[2]),
        "volumes": [row.strip() for name, row in rows if name == "VOLUME"],
        "made": [
            path
            for name, row in rows
            if name == "RUN"
            for path in re.findall(r"install -d .*?(/\S+)", row)
        ],
    }


def unit() -> dict[str, list[str]]:
    """Return the unit's [Service], each name with its values."""
    section = (
        (DEPLOY / "relay.service").read_text().partition("[Service]")[2].partition("[Install]")[0]
    )
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", section, re.M):
        found.setdefault(name, []).append(value)
    return found


def container(tmp_path: Path, token: bool = True) -> dict[str, Any]:
    """Return the recipe of the image as `docker run --read-only` starts it, with a file of
    tokens."""
    image = dockerfile()
    kept = tmp_path / "volume"
    kept.mkdir()
    (volume,) = image["volumes"]
    # docker gives each container the proxy of its client (~/.docker/config.json, "proxies").
    environment = image["environment"] | {"HOME": "/", "http_proxy": "http://127.0.0.1:1"}
    environment["PATH"] = environment["PATH"].replace("$PATH", os.environ["PATH"])
    if token:
        environment["RELAY_TOKENS_FILE"] = "/run/secrets/tokens"
    return {
        "environment": environment,
        "user": image["user"],
        "umask": 0o022,
        "folder": image["folder"],
        "command": ["env", *image["command"]],  # it searches the PATH of the image
        "health": ["env", *image["health"]],
        "empty": ["/opt", "/var/lib", "/run"],
        "links": {f"{image['folder']}/bin": f"{sys.prefix}/bin"},
        "files": {
            f"{image['folder']}/gunicorn.conf.py": (DEPLOY / "gunicorn.conf.py").read_text(),
            "/run/secrets/tokens": TOKEN + "\n",
        },
        "kept": {volume: str(kept)},
        "memory": {},
        "no_writable_code": False,
        "notify": False,
        "token": TOKEN if token else None,
    }


def compose_recipe(tmp_path: Path) -> dict[str, Any]:
    """Return the recipe of compose.yaml: the image with its additions."""
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["relay"]
    recipe = container(tmp_path)
    recipe["environment"] |= service["environment"]
    assert service["read_only"] is True
    targets = [row.split(":")[1] for row in service["volumes"]]
    assert set(targets) >= {service["environment"]["RELAY_TOKENS_FILE"], *recipe["kept"]}
    recipe["memory"] = {row.partition(":")[0]: "open" for row in service["tmpfs"]}
    return recipe


def service(tmp_path: Path) -> dict[str, Any]:
    """Return the recipe of the systemd unit."""
    settings = unit()
    kept = tmp_path / "state"
    kept.mkdir()
    (state,) = settings["StateDirectory"]
    assert (settings["ProtectSystem"], settings["ProtectHome"], settings["PrivateTmp"]) == (
        ["strict"],
        ["yes"],
        ["yes"],
    )
    folder = settings["WorkingDirectory"][0]
    environment = dict(row.split("=", 1) for row in settings["Environment"])
    hidden = ["/home"] if not sys.executable.startswith("/home") else []
    return {
        "environment": {
            "HOME": "/home/relay",
            "USER": "relay",
            "PATH": "/usr/bin:/bin",
            **environment,
        },
        "user": UNIT_USER,
        "umask": int(settings["UMask"][0], 8),
        "folder": folder,
        "command": shlex.split(settings["ExecStart"][0]),
        "health": None,
        "empty": ["/opt", "/var/lib"],
        "links": {f"{folder}/deploy": str(DEPLOY), f"{folder}/.venv": sys.prefix},
        "files": {},
        "kept": {f"/var/lib/{state}": str(kept)},
        "memory": {"/tmp": "open", "/var/tmp": "open"} | dict.fromkeys(hidden, "hidden"),
        "no_writable_code": settings["MemoryDenyWriteExecute"] == ["yes"],
        "notify": settings["Type"] == ["notify"],
        "token": None,
    }


def test_each_recipe_starts_with_a_place_for_the_ledger(tmp_path: Path) -> None:
    """The image, the compose file, the unit: healthy, ready, and accepted migrations survive a
    restart."""
    if ROOT.is_relative_to("/tmp"):
        pytest.skip("the checkout lies in /tmp, which the recipes cover with a folder of their own")
    for number, recipe_of in enumerate((container, compose_recipe, service)):
        folder = tmp_path / str(number)
        folder.mkdir()
        recipe = recipe_of(folder)
        check_possible()
        for migrations, seen in enumerate(
            start_recipe(recipe, times=2 if number == 0 else 1), start=1
        ):
            assert seen["healthy"], (recipe_of.__name__, seen)
            assert (seen["ready"][0], seen["ready"][1]["ledger"]) == (200, "ok"), recipe_of.__name__
            assert (seen["accepted"], seen["migrations"], seen["exit"]) == (202, migrations, 0), (
                recipe_of.__name__
            )
            assert seen["remote"] == 422, recipe_of.__name__  # an unreadable home is not a bug
            assert not recipe["notify"] or "READY=1" in seen["notified"]
            assert TOKEN not in seen["output"] and "Traceback" not in seen["output"]


def test_a_container_without_tokens_does_not_start(tmp_path: Path) -> None:
    """Inside a container everything comes from outside."""
    recipe = container(tmp_path, token=False)
    check_possible()
    seen = start_recipe(recipe)[0]
    assert (seen["healthy"], seen["exit"]) == (False, 2)
    assert "relay token create" in seen["output"]


def check_possible() -> None:
    """Skip if this machine permits no namespaces."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("setpriv") is None:
        pytest.skip("wants root, unshare and setpriv (util-linux)")
    if subprocess.run(
        [*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/opt"], capture_output=True, check=False
    ).returncode:
        pytest.skip("no namespaces of its own may be made here")


def start_recipe(recipe: dict[str, Any], times: int = 1) -> list[dict[str, Any]]:
    """Start a recipe several times in namespaces of its own; return the observations."""
    recipe = recipe | {
        "times": times,
        "default_health": HEALTH,
        "needed": [sys.base_prefix, sys.prefix, str(ROOT)],
    }
    done = subprocess.run(
        [*UNSHARE, sys.executable, str(INSIDE)],
        input=json.dumps(recipe),
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


# -- the content of the files


def test_each_recipe_names_the_ledgers_place() -> None:
    """A folder that the recipe makes, that is the user's own, and that outlives the container."""
    image = dockerfile()
    (volume,) = image["volumes"]
    assert image["environment"]["RELAY_LEDGER"].startswith(f"sqlite:///{volume}/")
    assert image["made"] == [volume]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    name = next(
        row.partition(":")[0]
        for row in compose["services"]["relay"]["volumes"]
        if f":{volume}" in row
    )
    assert name in compose["volumes"]
    environment = dict(row.split("=", 1) for row in unit()["Environment"])
    assert environment["RELAY_LEDGER"].startswith(
        f"sqlite:////var/lib/{unit()['StateDirectory'][0]}/"
    )
    assert "RELAY_LEDGER" in PAGE.read_text()


def test_nginx_closes_idle_connections_first() -> None:
    """Else a request may go to a connection that relay closes at that moment."""
    upstream = (DEPLOY / "nginx.conf").read_text().partition("upstream")[2].partition("}")[0]
    found = re.search(r"^ *keepalive_timeout (\d+)s;", upstream, re.M)
    assert found is not None and int(found[1]) < gunicorn_settings(Settings())["keepalive"]


def test_the_stop_timeout_exceeds_the_drain() -> None:
    """Otherwise the drain is cut short."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["relay"]
    drains = int(compose["environment"]["RELAY_GRACEFUL_TIMEOUT"])
    assert int(compose["stop_grace_period"].removesuffix("s")) > drains
    environment = dict(row.split("=", 1) for row in unit()["Environment"])
    assert int(unit()["TimeoutStopSec"][0]) > int(environment["RELAY_GRACEFUL_TIMEOUT"])


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"workers": 3, "slots": 40},
        {"parts_in_flight": 1, "buffer_bytes": 1 << 16},
        {"parts_in_flight": 64, "part_bytes": 5 << 20},
        {"part_bytes": 1 << 30, "buffer_bytes": 64 << 20},
    ],
)
def test_the_formula_of_memory_is_the_codes(given: dict[str, int]) -> None:
    """The formula on the page for operators, with the existing settings, and its figure for the
    defaults."""
    page = PAGE.read_text()
    formula = re.search(r"## Memory.*?`(.+?)`", page, re.S)
    assert formula is not None
    settings = Settings(**given)
    values = {name: getattr(settings, name) for name in SETTINGS}
    counted = eval(formula[1].replace("×", "*"), {"max": max, "__builtins__": {}}, values)  # noqa: S307
    assert counted == settings.memory_ceiling_bytes()
    figure = re.search(r"With all defaults that is (\d+) MiB", page)
    assert figure is not None and int(figure[1]) << 20 == Settings().memory_ceiling_bytes()
