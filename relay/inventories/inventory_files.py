"""Find the files of an inventory, and read them row by row.

Theory of operation. A manifest names the shards; a shard lies beside it, or where its store puts
it, under the last segment of its name. A shard that is missing, or that is not as the manifest
says, is a gap: its rows are not used, and what the other side has may be in it. The MD5 of a shard
is compared before its first row is used, from the same open file.

Decided here: what a manifest means, and what makes an inventory incomplete. Never here: the meaning
of columns (`inventory_rows.py`)."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

from relay.errors import InventoryRefused
from relay.inventories.inventory_rows import (
    AZURE,
    GCS,
    PLAIN,
    S3,
    Dialect,
    RowMaker,
    dialect_of_header,
    places_of,
    seconds_of,
)
from relay.sorting.rows import TreeRow

MANIFEST_BYTES: Final = 64 << 20
"""Maximum length of a manifest."""
MOST_GAPS: Final = 20
"""Maximum number of gaps that are named."""
_GZIP: Final = b"\x1f\x8b"
_BLOCK_BYTES: Final = 1 << 20
_FOLDERS: Final = (".", "data", "files", "../data")
"""Where a shard may lie, beside its manifest: S3 puts them into `data` beside the folder of the
manifest."""
_OTHER_FORMATS: Final = {
    "orc": "ORC is not read.",
    "parquet": "Parquet is not read.",
}
_JSON_COLUMNS: Final = ("name", "size", "modified", "md5", "sha1", "sha256", "sha512")
_AS_CSV: Final = "Let the store write the inventory as CSV."


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of an inventory."""

    path: Path | None
    """None: it was not found."""
    name: str
    md5: str | None = None
    size: int | None = None
    """Its length in bytes by the manifest."""


@dataclass(eq=False)
class Inventory:
    """One inventory, to be read once."""

    path: Path
    dialect: Dialect
    shards: Sequence[Shard]
    _: KW_ONLY
    columns: Sequence[str] | None = None
    """The names of the columns; None: the first line of each shard has them."""
    delimiter: str = ","
    is_json: bool = False
    """Whether it is the output of `rclone lsjson`."""
    begun: float | None = None
    """When the store began to write it, in seconds since 1970; None: unknown."""
    records: int | None = None
    """Number of its rows by its manifest."""
    below: str = ""
    """The folder whose objects are compared; '' or a name that ends in '/'."""
    gaps: list[str] = field(default_factory=list)
    """Why it is not complete, once it was read: the first reasons."""
    gap_count: int = 0
    outside: int = 0
    """Number of objects outside of the folder."""
    markers: int = 0
    """Number of empty objects whose names end in '/': the folders of a console."""

    def rows(self) -> Iterator[TreeRow]:
        """Yield the rows of the current objects below the folder, by their names there."""
        count = 0
        for shard in self.shards:
            for cells, make in self._lines_of(shard):
                count += 1
                try:
                    row = make(cells)
                except (ValueError, IndexError):
                    self.note_gap(f"{shard.name}: a row can't be read: {','.join(cells)[:200]!a}")
                    continue
                row = None if row is None else self._below(row)
                if row is not None:
                    yield row
        if self.records is not None and self.records != count and not self.gap_count:
            self.note_gap(f"its manifest names {self.records:,} rows, and {count:,} were read")

    def _below(self, row: TreeRow) -> TreeRow | None:
        if not row.name.startswith(self.below):
            self.outside += 1
            return None
        if row.name.endswith("/") and not row.size:
            self.markers += 1
            return None
        if not self.below:
            return row
        return TreeRow(
            row.name[len(self.below) :],
            size=row.size,
            etag=row.etag,
            digests=row.digests,
            modified=row.modified,
        )

    def note_gap(self, why: str) -> None:
        """Note why the inventory is not complete."""
        self.gap_count += 1
        if len(self.gaps) < MOST_GAPS:
            self.gaps.append(why)

    def _lines_of(self, shard: Shard) -> Iterator[tuple[list[str], RowMaker]]:
        """Yield the cells of each line of a shard, with the maker of its rows. A shard that can't
        be read, or not to its end, is a gap. Raises InventoryRefused for one without names."""
        if shard.path is None:
            self.note_gap(f"{shard.name} is missing")
            return
        try:
            with shard.path.open("rb") as file:
                why = _why_other(file, shard)
                if why is not None:
                    self.note_gap(f"{shard.name} is not the file that its manifest names: {why}")
                    return
                with _text_of(file) as text:
                    yield from self._lines_in(text, shard)
        except (OSError, EOFError, zlib.error, csv.Error, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            self.note_gap(f"{shard.name} can't be read to its end: {why}")

    def _lines_in(self, text: TextIO, shard: Shard) -> Iterator[tuple[list[str], RowMaker]]:
        if self.is_json:
            make = PLAIN.makes(places_of(_JSON_COLUMNS))
            for cells in _cells_of_json(text):
                yield cells, make
            return
        lines = csv.reader(text, delimiter=self.delimiter, strict=True)
        columns = self.columns or next(lines, None)
        if columns is None:
            return
        try:
            make = self.dialect.makes(places_of(columns))
        except KeyError as error:
            why = f"{shard.name} is {self.dialect.name} without a column {error.args[0]!a}"
            raise InventoryRefused(why) from None
        width = len(columns)
        for cells in lines:
            if len(cells) == width:
                yield cells, make
            elif cells:
                self.note_gap(f"{shard.name}: line {lines.line_num} has {len(cells)} columns")


def open_inventory(path: Path, below: str = "") -> Inventory:
    """Return the inventory of a manifest, of the folder with one, or of one file: a CSV file whose
    first line names its columns, or the output of `rclone lsjson`. Reads no row. `below` is the
    folder whose objects are compared. Raises InventoryRefused."""
    path = _manifest_in(path) if path.is_dir() else path
    below = f"{below}/" if below and not below.endswith("/") else below
    try:
        with path.open("rb") as file, _text_of(file) as text:
            beginning = text.read(4096)
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InventoryRefused(f"{path} can't be read: {why}") from None
    first = beginning.lstrip()[:1]
    if first == "{":
        return _of_manifest(path, below)
    only = (Shard(path=path, name=path.name),)
    if first == "[":
        return Inventory(path, PLAIN, only, below=below, is_json=True)
    _refuse_format(path.suffix.removeprefix("."), path)
    header = next(csv.reader(io.StringIO(beginning)), [])
    dialect = dialect_of_header(places_of(header))
    if dialect is None:
        raise InventoryRefused(
            f"{path} is neither a manifest nor a CSV file with a column `name` in its first line"
        )
    found = Inventory(path, dialect, only, below=below)
    if dialect.in_shards:
        found.note_gap(f"{path.name} is {dialect.name} without its manifest: it may be a part")
    return found


def _manifest_in(folder: Path) -> Path:
    found = sorted((*folder.glob("*manifest.json"),))
    if len(found) != 1:
        what = "no manifest" if not found else f"{len(found)} manifests"
        raise InventoryRefused(f"{folder} has {what}", hint="Name the manifest itself.")
    return found[0]


def _of_manifest(path: Path, below: str) -> Inventory:
    data = _bytes_of_manifest(path)
    try:
        members = json.loads(data)
        if "fileSchema" in members:
            return _s3_inventory(path, members, below)
        if "report_shards_file_names" in members:
            return _gcs_report(path, members, below)
        if "ruleDefinition" in members:
            return _azure_inventory(path, members, below)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InventoryRefused(f"{path} is a manifest with a mistake") from None
    raise InventoryRefused(
        f"{path} is not a manifest of S3 Inventory, of Cloud Storage, or of Azure blob inventory"
    )


def _bytes_of_manifest(path: Path) -> bytes:
    """Return the bytes of a manifest, compared with their MD5 if that lies beside it."""
    try:
        with path.open("rb") as file:
            data = file.read(MANIFEST_BYTES + 1)
        promised = path.with_suffix(".checksum")
        text = promised.read_text("ascii").strip() if promised.is_file() else None
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InventoryRefused(f"{path} can't be read: {why}") from None
    if len(data) > MANIFEST_BYTES:
        raise InventoryRefused(f"{path} has more than {MANIFEST_BYTES:,} bytes")
    if text is not None and text.lower() != hashlib.md5(data, usedforsecurity=False).hexdigest():
        raise InventoryRefused(f"{path} is not the file whose MD5 is in {promised.name}")
    return data


def _s3_inventory(path: Path, members: Mapping[str, Any], below: str) -> Inventory:
    """An inventory list (docs.aws.amazon.com, "Locating your inventory list", "manifest.json")."""
    _refuse_format(members["fileFormat"], path)
    stamp = members.get("creationTimestamp")
    return Inventory(
        path,
        S3,
        [_shard(path, one["key"], one["MD5checksum"], one.get("size")) for one in members["files"]],
        columns=[name.strip() for name in members["fileSchema"].split(",")],
        begun=None if stamp is None else int(stamp) / 1000,
        below=below,
    )


def _gcs_report(path: Path, members: Mapping[str, Any], below: str) -> Inventory:
    """An inventory report (cloud.google.com, "Inventory reports", "Shards and manifest"). The
    names of its members are written in either of JSON's usual ways."""
    config = _member(members, "report_config") or {}
    options = _member(config, "csv_options")
    if options is None and _member(config, "parquet_options") is not None:
        _refuse_format("parquet", path)
    options = options or {}
    fields = _member(_member(config, "object_metadata_report_options") or {}, "metadata_fields")
    has_header = _member(options, "header_required")
    names = members["report_shards_file_names"]
    for name in names:
        _refuse_format(name.rpartition(".")[2], path)
    count, processed = members.get("shard_count"), members.get("records_processed")
    found = Inventory(
        path,
        GCS,
        [_shard(path, name) for name in names],
        columns=None if has_header or not fields else list(fields),
        delimiter=_member(options, "delimiter") or ",",
        begun=seconds_of(str(members.get("snapshot_time", ""))),
        records=None if processed is None else int(processed),
        below=below,
    )
    if count is not None and int(count) != len(names):
        found.note_gap(f"its manifest names {len(names)} of {count} shards")
    return found


def _azure_inventory(path: Path, members: Mapping[str, Any], below: str) -> Inventory:
    """A blob inventory (learn.microsoft.com, "Azure Storage blob inventory", "Inventory
    output")."""
    rule = members["ruleDefinition"]
    _refuse_format(rule.get("format", "csv"), path)
    if rule.get("objectType", "blob").lower() != "blob":
        raise InventoryRefused(f"{path} is an inventory of containers, not of blobs")
    found = Inventory(
        path,
        AZURE,
        [_shard(path, one["blob"], None, one.get("size")) for one in members["files"]],
        begun=seconds_of(str(members.get("inventoryStartTime", ""))),
        below=below,
    )
    if members.get("status", "Succeeded") != "Succeeded":
        found.note_gap(f"its manifest has the status {members['status']!a}")
    return found


def _member(members: Mapping[str, Any], name: str) -> Any:
    """Return a member by its name in either form, `snake_case` or `camelCase`; None without it."""
    first, *others = name.split("_")
    return members.get(name, members.get(first + "".join(map(str.capitalize, others))))


def _refuse_format(name: str, path: Path) -> None:
    why = _OTHER_FORMATS.get(name.lower())
    if why is not None:
        raise InventoryRefused(f"{path}: {why}", hint=_AS_CSV)


def _shard(manifest: Path, key: str, md5: str | None = None, size: int | None = None) -> Shard:
    name = key.rpartition("/")[2]
    if name in ("", ".", ".."):
        raise ValueError(key)
    places = [manifest.parent / folder / name for folder in _FOLDERS]
    path = next((place for place in places if place.is_file()), None)
    return Shard(path=path, name=name, md5=None if md5 is None else md5.lower(), size=size)


def _why_other(file: BinaryIO, shard: Shard) -> str | None:
    """Return why an open file is not the one that the manifest names, or None."""
    size = os.fstat(file.fileno()).st_size
    if shard.size is not None and size != shard.size:
        return f"it has {size:,} bytes in place of {shard.size:,}"
    if shard.md5 is None:
        return None
    digest = hashlib.md5(usedforsecurity=False)
    block = file.read(_BLOCK_BYTES)
    while block:
        digest.update(block)
        block = file.read(_BLOCK_BYTES)
    file.seek(0)
    return None if digest.hexdigest() == shard.md5 else "another MD5"


def _text_of(file: BinaryIO) -> TextIO:
    """Return the text of an open file, which may be compressed. Bytes that are not UTF-8 become
    surrogates (PEP 383), as in the names of other listings."""
    is_compressed = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    data: Any = gzip.GzipFile(fileobj=file) if is_compressed else file
    return io.TextIOWrapper(data, "utf-8-sig", errors="surrogateescape", newline="")


def _cells_of_json(text: TextIO) -> Iterator[list[str]]:
    """Yield the cells of `_JSON_COLUMNS` for each object of `rclone lsjson`, which prints one a
    line. Raises ValueError for another form, and EOFError for a list without its end."""
    is_whole = False
    for line in text:
        line = line.strip()
        if line == "]":
            is_whole = True
        elif line not in ("[", ""):
            try:
                one = json.loads(line.removesuffix(","))
                cells = None if one.get("IsDir") else _cells_of_object(one)
            except (KeyError, TypeError, AttributeError, RecursionError):
                raise ValueError(f"{line[:200]!a} is not an object of `rclone lsjson`") from None
            if cells is not None:
                yield cells
    if not is_whole:
        raise EOFError("the list has no end")


def _cells_of_object(one: Mapping[str, Any]) -> list[str]:
    size = one.get("Size", -1)  # -1: the store did not say
    hashes = {
        name.lower().replace("-", ""): text for name, text in (one.get("Hashes") or {}).items()
    }
    cells = [one["Path"], "" if size < 0 else str(size), one.get("ModTime") or ""]
    return [*cells, *(hashes.get(name, "") for name in _JSON_COLUMNS[len(cells) :])]
