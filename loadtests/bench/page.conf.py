from gevent import monkey; monkey.patch_all()  # fmt: skip  # noqa: E702, I001

"""ticking.conf.py, and in each worker the cost of an answer: its head names the milliseconds until
it was ready, without those for which a thread of the process was ready to run and had no core
(X-Bench-Ms), those of CPU (X-Bench-Cpu), and how many statements all ledgers of the process have run
so far, before and after it (X-Bench-Before, X-Bench-After)."""

from collections.abc import Callable, Iterable  # noqa: E402
from pathlib import Path  # noqa: E402
from time import perf_counter, process_time  # noqa: E402
from typing import Any  # noqa: E402

from sqlalchemy import event  # noqa: E402
from sqlalchemy.engine import Engine  # noqa: E402

exec(compile(Path("loadtests/bench/ticking.conf.py").read_text(), "ticking.conf.py", "exec"))  # noqa: S102
_ticking = globals()["post_worker_init"]


def _core_waits() -> float:
    """Return the seconds for which threads of this process waited for a core (proc(5):
    schedstat)."""
    files = Path("/proc/self/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[1]) for file in files) / 1e9


class _Costs:
    """The application, with the costs of its answers."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application, self._statements = application, 0
        event.listen(Engine, "before_cursor_execute", self._count)

    def _count(self, *_: object) -> None:
        self._statements += 1

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        began, waited, cpu, before = (
            *(perf_counter(), _core_waits(), process_time()),
            self._statements,
        )

        def start_with_costs(status: str, head: list[tuple[str, str]], *rest: Any) -> Any:
            spent = process_time() - cpu
            took = max(perf_counter() - began - (_core_waits() - waited), spent)
            costs = [
                ("X-Bench-Ms", f"{took * 1e3:.3f}"),
                ("X-Bench-Cpu", f"{spent * 1e3:.3f}"),
                ("X-Bench-Before", str(before)),
                ("X-Bench-After", str(self._statements)),
            ]
            return start(status, [*head, *costs], *rest)

        return self._application(environ, start_with_costs)


def post_worker_init(worker: Any) -> None:
    """gunicorn's hook: relay's own, the ticker, and the costs."""
    _ticking(worker)
    worker.wsgi.wsgi_app = _Costs(worker.wsgi.wsgi_app)
