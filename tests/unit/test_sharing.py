"""`make test` runs every test once, in several processes; failed tests once more, alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import __main__ as runner
from tests.__main__ import FEW, main
from tests.sharing import File, shares_of

PASSES = "def test_passes(): pass\n"
FAILS = "def test_fails(): assert False\n"
SHAKY = """
from pathlib import Path
def test_shaky():
    mark = Path(__file__).with_name("mark")
    seen = mark.exists()
    mark.touch()
    assert seen
"""
CRASHES = "import os\ndef test_crashes(): os._exit(139)\n"
MANY = f"import pytest\n@pytest.mark.parametrize('n', range({FEW + 1}))\ndef test_many(n): assert False\n"


@pytest.fixture(autouse=True)
def few_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the installed plugins of pytest: to import them costs a second for each run."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.mark.parametrize(
    ("files", "code", "printed"),
    [
        ((PASSES, SHAKY), 0, "SHAKY, passed alone the second time: tests/b/test_1.py::test_shaky"),
        ((FAILS, SHAKY), 1, "once more, alone: tests/"),
        (
            (CRASHES, SHAKY),
            139,
            "a process ended in the middle of tests/a/test_0.py::test_crashes (139)",
        ),
        ((MANY, PASSES), 1, f"{FEW + 1} failed, 1 passed"),
    ],
)
def test_failed_tests_run_once_more_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    files: tuple[str, str],
    code: int,
    printed: str,
) -> None:
    """A test that passes then is named; one that fails again, many failures, and a crash stay
    failures."""
    for number, (folder, text) in enumerate(zip("ab", files, strict=True)):
        path = tmp_path / "tests" / folder / f"test_{number}.py"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    monkeypatch.setattr(runner, "TESTS", tmp_path / "tests")
    assert main([]) == code
    text = capfd.readouterr().out
    assert printed in text
    assert ("SHAKY" in text) is ("SHAKY" in printed)


SERVER = """
from contextlib import contextmanager
from tempfile import TemporaryDirectory
import pytest
from tests.shared_servers import shared_server
@contextmanager
def run():
    with open({log!r}, "a") as log:
        log.write("run\\n")
    with TemporaryDirectory() as folder:
        yield folder
    with open({log!r}, "a") as log:
        log.write("stopped\\n")
@pytest.fixture(scope="session")
def shared(pytestconfig):
    with shared_server(pytestconfig, "folder", run) as folder:
        yield folder
@pytest.fixture(scope="session")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    yield folder
    with open({log!r}, "a") as log:
        log.write("closed\\n")
"""
SHARED = """
import os, pytest
@pytest.mark.parametrize("number", range(5))
def test_(server, shared, number, tmp_path, capsys):
    assert server.is_dir() and tmp_path != server and os.path.isdir(shared)
    print("heard")
    assert capsys.readouterr().out == "heard\\n"
    with open({log!r}, "a") as log:
        log.write(f"{{os.getpid()}} {{os.environ['PYTEST_CURRENT_TEST']}}\\n")
"""


USES = """
import os, time, pytest
def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)
@pytest.mark.parametrize("number", range(1 if __file__.endswith("0.py") else 4))
def test_(number, request):
    if __file__.endswith("1.py"):
        wait_for({log!r})
    assert os.path.isdir(request.getfixturevalue("shared"))
    if __file__.endswith("1.py"):
        open({joined!r}, "w").close()
    wait_for({joined!r})
    time.sleep(number)
"""


def run_shared(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of a folder in three processes."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.sharing",
        "--share",
        "3",
        *words,
        str(folder),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(runner.__file__).parents[1])}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )


def test_each_test_runs_once_and_a_file_in_one_process(tmp_path: Path) -> None:
    """Folders, output and fixtures of a session are each process's own, and closed at its end. A
    shared server is there as long as one of them uses it."""
    log = tmp_path / "log"
    (tmp_path / "conftest.py").write_text(SERVER.format(log=str(log)))
    for number in range(8):
        (tmp_path / f"test_{number}.py").write_text(SHARED.format(log=str(log)))
    done = run_shared(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "40 passed" in done.stdout
    assert all(f"\ntest_{number}.py ....." in done.stdout for number in range(8))
    lines = [line.split() for line in log.read_text().splitlines()]
    ran = [(test, process) for process, test, *_ in (line for line in lines if len(line) > 1)]
    assert len(ran) == len({test for test, _ in ran}) == 40
    assert len({(test.partition("::")[0], process) for test, process in ran}) == 8
    assert 1 <= lines.count(["run"]) <= lines.count(["closed"]) <= 3
    assert lines.count(["stopped"]) == lines.count(["run"])


def test_a_process_waits_for_the_users_of_its_server(tmp_path: Path) -> None:
    """Longer than its last test may take."""
    log, joined = tmp_path / "log", str(tmp_path / "joined")
    (tmp_path / "conftest.py").write_text(SERVER.format(log=str(log)))
    for number in range(2):
        (tmp_path / f"test_{number}.py").write_text(USES.format(log=str(log), joined=joined))
    done = run_shared(tmp_path, "-p", "pytest_timeout", "--timeout", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


def test_files_of_one_browser_are_taken_at_once() -> None:
    names = ("faults/test_a.py", "end_to_end/test_page.py", "end_to_end/test_pages.py")
    files: list[File] = [(Path(name), []) for name in (*names, "end_to_end/test_page_hour.py")]
    one, page, pages, hour = files
    assert shares_of(files) == [[one], [page, hour], [pages]]


def test_it_stops_at_the_first_failure_where_that_is_asked(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"test_{number}.py").write_text(FAILS + PASSES)
    done = run_shared(tmp_path, "-x")
    assert done.returncode == 1, done.stderr
    assert "1 failed" in done.stdout


def test_a_skip_is_shown_with_its_reason(tmp_path: Path) -> None:
    skipped = (
        "import pytest\ndef test_skipped(): pytest.skip('no server')\n@pytest.mark.xfail\n" + FAILS
    )
    (tmp_path / "test_0.py").write_text(skipped)
    done = run_shared(tmp_path, "-ra")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SKIPPED [1] test_0.py:2: no server" in done.stdout
    assert "1 skipped, 1 xfailed" in done.stdout


def test_a_file_that_can_not_be_read_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "test_0.py").write_text("import nothing_like_it\n")
    (tmp_path / "test_1.py").write_text(PASSES)
    done = run_shared(tmp_path)
    assert done.returncode == 2, done.stdout
    assert "nothing_like_it" in done.stdout
