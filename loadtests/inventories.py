"""Compare two large inventories with planted defects, without a network: time, memory, and whether
every defect is found.

Decided here: the inventories, and the bounds. Never here: what relay does with them."""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

COLUMNS = "Bucket, Key, Size, LastModifiedDate, ETag, EncryptionStatus"
SHARDS = 4
DEFECTS = 100
MOST_SECONDS, MOST_MIB = 60, 300


def _row(number: int) -> list[str]:
    md5 = hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest()
    name = f"photos/{number % 365:03}/img%20{number:09}.jpg"
    size = str(1000 + number % 5000)
    return ["bucket", name, size, "2023-11-01T00:00:00.000Z", md5, "SSE-S3"]


def _with_defect(row: list[str], kind: int) -> list[str] | None:
    """Return a row of the destination with one kind of defect; None: it is missing."""
    if kind == 0:
        return None
    if kind == 1:
        return [*row[:2], str(int(row[2]) + 1), *row[3:]]
    return [*row[:4], row[4][::-1], row[5]]


def _rows(rows: int, damage: bool) -> Iterator[list[str]]:
    """Yield the rows in an order of their own; with `damage`, DEFECTS of them are damaged."""
    order = list(range(rows))
    random.Random(damage).shuffle(order)
    bad = random.Random(7).sample(range(rows), DEFECTS)
    kinds = {number: place % 3 for place, number in enumerate(bad)} if damage else {}
    for number in order:
        row = _row(number)
        kept = _with_defect(row, kinds[number]) if number in kinds else row
        if kept is not None:
            yield kept


def _write(folder: Path, rows: int, damage: bool) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "run").mkdir()
    shards = [io.StringIO() for _ in range(SHARDS)]
    writers = [csv.writer(one, quoting=csv.QUOTE_ALL, lineterminator="\n") for one in shards]
    for place, row in enumerate(_rows(rows, damage)):
        writers[place % SHARDS].writerow(row)
    files = []
    for number, shard in enumerate(shards):
        data = gzip.compress(shard.getvalue().encode(), 3)
        (folder / "data" / f"{number}.csv.gz").write_bytes(data)
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        files.append({"key": f"x/data/{number}.csv.gz", "size": len(data), "MD5checksum": md5})
    manifest = {
        "creationTimestamp": "1700000000000",
        "fileFormat": "CSV",
        "fileSchema": COLUMNS,
        "files": files,
    }
    path = folder / "run" / "manifest.json"
    path.write_text(json.dumps(manifest))
    return path


def main() -> int:
    """Write two inventories, compare them, and print what it took. Returns 1 if a defect was not
    found, or a bound not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        paths = [_write(home / name, rows, damage) for name, damage in (("a", False), ("b", True))]
        words = [sys.executable, "-m", "relay", "verify", "--json"]
        for path in paths:
            words += ["--inventory", str(path)]
        # A network namespace without a network: no request could leave.
        alone = ["unshare", "-rn"] if shutil.which("unshare") else []
        began = time.monotonic()
        environment = {**os.environ, "RELAY_LEDGER": f"sqlite:///{home}/ledger.db"}
        done = subprocess.run([*alone, *words], capture_output=True, env=environment, check=False)
        seconds = time.monotonic() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != 1:
            print(done.stderr.decode(), file=sys.stderr)
            return 1
        found = json.loads(done.stdout)["found"]
    defects = found["differs"] + found["missing"]
    mib = used.ru_maxrss / 1024
    cpu = used.ru_utime + used.ru_stime
    print(
        f"{rows:,} rows each: {defects} of {DEFECTS} defects, {found['same']:,} the same,"
        f" {seconds:.1f} s ({cpu:.1f} s of CPU), {mib:.0f} MiB"
    )
    is_right = defects == DEFECTS and found["same"] == rows - DEFECTS
    return 0 if is_right and seconds <= MOST_SECONDS and mib <= MOST_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
