"""Filters: rclone's own tables, the limits, and each mistake in one line."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from relay.errors import InvalidFilter
from relay.filters.ages import canonical_age, moment_before
from relay.filters.expressions import bytes_of, check_expressions
from relay.filters.filter_set import MOST_TEXT, Filters, read_filters
from relay.filters.globs import expression_of, folder_patterns
from relay.filters.partition import partition_of
from relay.filters.rule_lines import lines_of, names_between_nuls, significant_lines
from relay.filters.rules import MOST_RULES, RuleBook
from relay.filters.selection import Selection
from relay.filters.sizes import parse_size, shown_size
from tests import filter_tables as tables

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def read(**given: Any) -> Filters:
    found = read_filters(given, NOW)
    assert found is not None
    return found


def selection(**given: Any) -> Selection:
    return Selection(read(**given), now=NOW, seed="")


@pytest.mark.parametrize(("pattern", "wanted"), tables.EXPRESSIONS)
def test_the_expression_of_a_pattern(pattern: str, wanted: str) -> None:
    assert expression_of(pattern) == wanted
    assert expression_of(pattern, ignore_case=True) == f"(?i){wanted}"
    check_expressions([wanted])


@pytest.mark.parametrize(("pattern", "why"), tables.REFUSED)
def test_a_pattern_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        read(include=[pattern])
    assert why.replace("bad glob pattern", "RE2 refuses") in caught.value.message


@pytest.mark.parametrize(("pattern", "wanted"), tables.FOLDERS)
def test_the_folders_of_a_pattern(pattern: str, wanted: tuple[str, ...]) -> None:
    assert folder_patterns(pattern) == list(wanted)


@pytest.mark.parametrize(("pattern", "name", "ignores", "wanted"), tables.MATCHES)
def test_a_pattern_chooses(pattern: str, name: str, ignores: bool, wanted: bool) -> None:
    chosen = selection(filter=[f"+ {pattern}", "- *"], ignore_case=ignores)
    assert chosen.has_name(name) is wanted


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        (tables.RULES, tables.RULES_CHOOSE),
        (tables.REGEXP_RULES, tables.REGEXP_RULES_CHOOSE),
    ],
)
def test_rules_choose(rules: tuple[str, ...], wanted: tuple[tuple[str, bool], ...]) -> None:
    chosen = selection(filter=list(rules))
    assert [(name, chosen.has_name(name)) for name, _ in wanted] == list(wanted)


def test_rules_list_folders() -> None:
    chosen = selection(filter=list(tables.RULES))
    found = [(name, chosen.has_folder(name)) for name, _ in tables.RULES_LIST]
    assert found == list(tables.RULES_LIST)


@pytest.mark.parametrize(("includes", "pattern", "objects", "folders"), tables.RULE_LINES)
def test_the_rules_of_a_pattern(
    includes: bool, pattern: str, objects: tuple[str, ...], folders: tuple[str, ...]
) -> None:
    book = RuleBook()
    book.add(includes, pattern)
    assert tuple(map(str, book.of_objects)) == objects
    assert tuple(map(str, book.of_folders)) == folders


@pytest.mark.parametrize(("name", "part"), tables.PARTS_OF_FOUR)
def test_a_part_by_the_hash_of_the_name(name: str, part: int) -> None:
    assert [partition_of(f"{k}/4", "").has(name) for k in range(4)] == [k == part for k in range(4)]


@pytest.mark.parametrize("text", ["", "17", "-1/2", "1/-2", "0/0", f"0/{2**64}", f"{2**64}/1"])
def test_a_part_is_refused(text: str) -> None:
    with pytest.raises(InvalidFilter):
        partition_of(text, "")


def test_a_part_at_random_stays_the_same_one() -> None:
    assert partition_of("17/3", "") == partition_of("2/3", "")
    assert partition_of(f"{2**64 - 1}/1", "").part == 0
    assert partition_of("@/1000", "a") == partition_of("@/1000", "a")
    assert partition_of("@/1000", "a") != partition_of("@/1000", "b")


@pytest.mark.parametrize(("text", "wanted"), tables.SIZES)
def test_a_size(text: str, wanted: int | None) -> None:
    assert parse_size(text, "min-size") == wanted


@pytest.mark.parametrize("text", tables.SIZES_REFUSED)
def test_a_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidFilter, match="min-size"):
        parse_size(text, "min-size")


@pytest.mark.parametrize(("size", "wanted"), tables.SIZES_SHOWN)
def test_a_size_as_rclone_shows_it(size: int, wanted: str) -> None:
    assert shown_size(size) == wanted


@pytest.mark.parametrize(("text", "seconds"), tables.AGES)
def test_an_age(text: str, seconds: float) -> None:
    assert canonical_age(text, "min-age") == text
    assert moment_before(text, NOW) == NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize("text", tables.AGES_REFUSED)
def test_an_age_is_refused(text: str) -> None:
    with pytest.raises(InvalidFilter, match="min-age"):
        canonical_age(text, "min-age")


@pytest.mark.parametrize(
    "text",
    ["2001-02-03", "2001-02-03 10:11:12", "2001-02-03T10:11:12", "2001-02-03T10:11:12.123+02:00"],
)
def test_a_date_keeps_its_zone(text: str) -> None:
    kept = canonical_age(text, "min-age")
    assert kept is not None and kept[:10] == "2001-02-03"
    assert kept[-6] in "+-"
    assert moment_before(kept, NOW).tzinfo is not None


def test_sizes_and_ages_are_inclusive() -> None:
    sized = selection(min_size="100b", max_size=102)
    assert [sized.has_object("a", size, None) for size in (99, 100, 102, 103, None)] == [
        *(False, True, True, False, True),
    ]
    aged = selection(min_age="1h", max_age="2h")
    seconds = (3599, 3600, 7200, 7201)
    times = [NOW - timedelta(seconds=one) for one in seconds]
    assert [aged.has_object("a", 1, one) for one in (*times, None)] == [
        *(False, True, True, False, True),
    ]
    assert (sized.lacks(None, NOW), aged.lacks(1, None)) == ("size", "time")
    assert sized.lacks(1, None) is aged.lacks(None, NOW) is None


def test_the_lines_of_a_file() -> None:
    text = "; comment\none\n# another comment\n\n\ntwo\n # indented comment\nthree  \nfour    \nfive\r\n  six  "
    assert significant_lines(lines_of(text)) == ["one", "two", "three", "four", "five", "six"]
    assert lines_of("a \r\n\n#b\n") == ["a ", "", "#b"]
    assert names_between_nuls("one\0two\nthree\0\0four") == ["one", "two\nthree", "", "four"]
    assert names_between_nuls("one\0") == ["one"]
    assert names_between_nuls("") == lines_of("") == []


def test_names_of_a_list() -> None:
    chosen = selection(
        files_from=[" a/b ", "# c", "/d/"], files_from_raw=["# c"], files_from0=["e\nf"]
    )
    names = ("a/b", "# c", "d", "e\nf", "c", "a/c")
    assert [chosen.has_name(name) for name in names] == [True, True, True, True, False, False]
    assert chosen.has_folder("a/") and not chosen.has_folder("b/")
    assert not selection(files_from=[]).has_name("a")


def test_a_folder_is_excluded_by_a_marker() -> None:
    asked: list[str] = []

    def rejects(folder: str) -> bool:
        asked.append(folder)
        return folder == "a/b/"

    chosen = Selection(read(exclude_if_present=[".skip"]), now=NOW, seed="", rejects=rejects)
    names = ("x", "a/x", "a/b/x", "a/b/y", "a/b/c/x", "a/z", "b/x")
    assert [chosen.has_name(name) for name in names] == [
        *(True, True, False, False, False, True, True)
    ]
    assert asked == ["", "a/", "a/b/", "b/"]


@pytest.mark.parametrize(
    ("given", "member", "words"),
    [
        ({"min_size": "10Q"}, "min_size", "unknown unit"),
        ({"max_age": "3x"}, "max_age", "unknown unit"),
        ({"min_size": "2K", "max_size": "1K"}, "min_size", "larger than max-size"),
        ({"min_age": "2d", "max_age": "1d"}, "min_age", "larger than max-age"),
        ({"include": [""]}, "include", "empty"),
        ({"exclude": [""]}, "exclude", "empty"),
        ({"filter": ["+ "]}, "filter", "empty"),
        ({"filter": ["*.jpg"]}, "filter", "begins with neither"),
        ({"filter_from": ["+a"]}, "filter", "begins with neither"),
        ({"exclude": ["{{(}}"]}, "", "RE2 refuses"),
        ({"exclude": [r"\C"]}, "", "RE2 refuses"),
        ({"exclude": ["{{(?=a)}}"]}, "", "RE2 refuses"),
        ({"exclude": ["{{a**}}"], "filter": ["!"]}, "", "RE2 refuses"),
        ({"include": ["a"], "exclude": ["a"]}, "exclude", "both included and excluded"),
        ({"files_from": ["a"], "include": ["a"]}, "files_from", "no other filter"),
        ({"files_from0": ["a"], "min_size": "1"}, "files_from", "no other filter"),
        ({"exclude_if_present": ["../a"]}, "exclude_if_present", "not the name"),
        ({"exclude_if_present": list("abcdefghijklmnopqrstu")}, "exclude_if_present", "20"),
        ({"hash_filter": "1"}, "hash_filter", "K/N"),
        ({"exclude": ["a" * (MOST_TEXT + 1)]}, "", "characters"),
        ({"exclude": [f"{n}" for n in range(MOST_RULES + 1)]}, "exclude", "rules"),
        ({"include": ["/a" * 5000]}, "include", "rules"),
    ],
)
def test_a_mistake_is_one_clear_line(given: dict[str, Any], member: str, words: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        read(**given)
    assert words in caught.value.message
    assert "\n" not in caught.value.message and len(caught.value.message) < 500
    assert caught.value.pointer == f"/filters/{member}".rstrip("/")


def test_filters_that_exclude_nothing_are_none() -> None:
    assert read_filters({}, NOW) is None
    assert read_filters({"ignore_case": True, "min_size": "off", "include": []}, NOW) is None
    assert read_filters({"include_from": []}, NOW) is not None


def test_equal_filters_are_kept_alike() -> None:
    one = read(include=["a"], include_from=["# c", "b"], files_from=None)
    other = read(include=["a", "b"])
    assert one == other == Filters.from_json(one.to_json())
    assert other.to_json() == {"include": ["a", "b"]}


def test_filters_as_a_request_are_the_same_filters() -> None:
    for given in ({"files_from_raw": ["# a", " b"]}, {"include_from": []}, {"max_size": 2**62}):
        one = read(**given)
        assert read(**one.to_request()) == one == Filters.from_json(one.to_json())
    assert read(max_size=2**62).to_json() == {"max_size": f"{2**62}B"}


def test_warnings() -> None:
    assert [*read(filter=["- [^3].txt"]).warnings()] == []
    (text,) = read(filter=["- [!3].txt"]).warnings()
    assert "[^...]" in text
    assert [*read(include=[r"\[!3\]"]).warnings()] == []
    assert len([*read(include=["a"], exclude=["b"]).warnings()]) == 1
    assert "exclude nothing" in "".join(read(filter=["+ *.jpg"]).warnings())
    assert [*read(filter=["+ *.jpg", "- **"]).warnings()] == []


def test_a_false_negation_is_a_class() -> None:
    chosen = selection(include=["[!3].txt"])
    assert [chosen.has_name(f"{one}.txt") for one in "!34"] == [True, True, False]


def test_digits_and_ends_are_those_of_re2() -> None:
    chosen = selection(include=[r"\d", "{{[[:alpha:]]+}}.txt"])
    assert [chosen.has_name(name) for name in ("3", "\u0663", "ab.txt", "ab.txt\n")] == [
        *(True, False, True, False)
    ]


def test_rules_in_a_row_are_one_expression_if_they_can_be() -> None:
    names = [f"{letter}.{number}" for letter in "abQ" for number in range(3)]
    runs = (
        ["+ a.1", "+ b.2", "- a.*", "- b.*"],
        [r"+ c\Q", r"+ {{\QQ.1\E}}", "+ b.2", "- *"],
        ["+ {{(?P<x>a).1}}", "+ {{(?P<x>b).2}}", "- *"],
        ["+ {{(?i)A.1|zz}}", "- {{A.1}}", "- {{a|b.0}}", "+ *"],
    )
    found = [[name for name in names if selection(filter=run).has_name(name)] for run in runs]
    assert found == [
        ["a.1", "b.2", "Q.0", "Q.1", "Q.2"],
        ["b.2", "Q.1"],
        ["a.1", "b.2"],
        ["a.0", "a.1", "a.2", "b.1", "b.2", "Q.0", "Q.1", "Q.2"],
    ]


def test_a_name_that_is_not_unicode() -> None:
    assert bytes_of("a\udcff") == "a\ufffd".encode()
    assert selection(include=["a?"]).has_name("a\udcff")


def test_a_hostile_expression_takes_no_time() -> None:
    expression = "{{(a*)*(a*)*(a*)*(a|a)*(a|a)*(aa|a)*(aa|a)*b}}"
    assert len(expression) <= 64
    paused: list[None] = []
    found = read(exclude=[expression])
    chosen = Selection(found, now=NOW, seed="", pause=lambda: paused.append(None))
    assert all(chosen.has_name("a" * 1000) for _ in range(500))
    assert paused


def test_re2_is_loaded_by_filters_only() -> None:
    program = """
import sys
import relay.cli.ls, relay.engine.listing_filter
assert "re2" not in sys.modules
from relay.filters.expressions import matchers_of
matchers_of([["a"]])
assert "re2" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
