# The commands of a developer; CI runs the same ones. Each works on a fresh machine with Python 3.11 and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo demo-cutover test test-all test-tls check bench bench-stores bench-ledger bench-plan bench-before bench-page ladder load soak siege crash torture docs clean help

help:
	@echo "make demo   move two dozen objects between two simulated clouds, and see the receipts (PAGE=1: in a browser)"
	@echo "make demo-cutover  keep a simulated bucket current that is written to, cut over, and see the signed report"
	@echo "make test   run the tests that a change can break (about ten minutes on two cores)"
	@echo "make test-all  run all tests, as CI does: the campaigns and the benchmarks' own tests too"
	@echo "make test-tls  run the tests of the wire, the faults and the stores with the other TLS library (about five minutes)"
	@echo "make check  format, lint, types, words"
	@echo "make bench  measure relay beside rclone, curl and the naive loop (wants nginx; about fifteen minutes)"
	@echo "make bench-stores  S3 to S3 and long listings beside rclone, and one worker beside two (about ten minutes)"
	@echo "make bench-ledger  200,000 transfers through the ledger alone, in SQLite and PostgreSQL (about five minutes)"
	@echo "make bench-plan  the merge of a plan: pairs per second and peak memory for 100,000 and 1,000,000 names (about three minutes)"
	@echo "make bench-before BASE=commit  5,000 small objects by this relay, by that of an earlier commit, and by rclone (about five minutes)"
	@echo "make bench-page  its page, streams and metrics over a ledger of 10,000 migrations, one of 1,000,000 objects (about twelve minutes)"
	@echo "make ladder the article's rungs and relay, on the same objects (about ten minutes)"
	@echo "make load   a minute of locust on POST /migrate, judged by thresholds.toml (LOAD='--page' for its page)"
	@echo "make soak   five minutes of it at full load"
	@echo "make siege  slow clients, then a flood of bad requests, beside relay at full speed (about six minutes)"
	@echo "make crash  kill -9 relay two hundred times on its way to each kind of store, and at each failpoint (about 25 minutes)"
	@echo "make torture SEED=1 SEEDS=5000  relay between stores that lie, by seeds, and a judge (about twenty minutes)"
	@echo "make docs   write the generated pages, and build docs/ into out/docs; a warning or a dead link fails"
	@echo "make clean  remove what these made"

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "installing relay and its test tools into $(VENV) (600 MB): once, for some minutes, without further output …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/installed
	@$(BIN)/python -m loadtests.demo $(if $(PAGE),--page)

demo-cutover: $(VENV)/installed
	@$(BIN)/python -m loadtests.demo_cutover

test: $(VENV)/installed
	@$(BIN)/python -m tests $(PYTEST)

test-all: $(VENV)/installed
	@$(BIN)/python -m tests --all

test-tls: $(VENV)/installed
	@$(BIN)/python -m tests --tls

check: $(VENV)/installed
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m tests.words

bench: $(VENV)/installed
	@$(BIN)/python -m loadtests.compare $(BENCH)

bench-stores: $(VENV)/installed
	@$(BIN)/python -m loadtests.stores $(BENCH)

bench-ledger: $(VENV)/installed
	@$(BIN)/python -m tests.ledger_bench $(BENCH)

bench-plan: $(VENV)/installed
	@$(BIN)/python -m tests.plan_bench $(BENCH)

bench-before: $(VENV)/installed
	@$(BIN)/python -m loadtests.stores --only s3-many --many 5000 --before $(or $(BASE),HEAD) $(BENCH)

bench-page: $(VENV)/installed
	@$(BIN)/python -m loadtests.page $(BENCH)

ladder: $(VENV)/installed
	@$(BIN)/python -m loadtests.ladder $(LADDER)

load: $(VENV)/installed
	@$(BIN)/python -m loadtests.load $(LOAD)

crash: $(VENV)/installed
	@$(BIN)/python -m loadtests.crash $(CRASH)

torture: $(VENV)/installed
	@$(BIN)/python -m tests.torture --seed $(or $(SEED),1) --seeds $(or $(SEEDS),150) $(if $(PROOF),--proof) $(TORTURE)

soak: $(VENV)/installed
	@$(BIN)/python -m loadtests.load --seconds 300 --shape soak --report out/soak.html $(LOAD)

siege: $(VENV)/installed
	@$(BIN)/python -m loadtests.siege $(SIEGE)

$(VENV)/docs-installed: $(VENV)/installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	@touch $@

docs: $(VENV)/docs-installed
	@$(BIN)/python -m docs.generate
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --builder html docs out/docs
	@echo "open out/docs/index.html"

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis out build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
