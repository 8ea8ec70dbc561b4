"""The resumed parts after a crash, as a function of the journal and of the destination's
answers."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from relay.engine.multipart.journal import can_resume, confirmed_parts
from relay.engine.multipart.part_sizes import MIB, split_into_ranges
from relay.ledger.upload_values import StoredPart, UploadRecord
from relay.stores.interfaces import Part, PartLimits

LIMITS = PartLimits(smallest=3 * MIB, largest=100 * MIB, most=10_000, object_bytes=10_000 * MIB)
SIZE, STEP = 50 * MIB + 1, 7 * MIB
SPANS = dict(enumerate(split_into_ranges(SIZE, STEP, LIMITS), start=1))

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["sent", "acknowledged", "written", "lost", "overwritten", "forgotten"]),
        st.sampled_from([*SPANS]),
    ),
    max_size=60,
)
"""The fates of a part: it arrives; its answer is read, and recorded; the store loses it, or another
writer replaces it; a power cut loses the last records."""


def play_events(
    events: list[tuple[str, int]],
) -> tuple[UploadRecord, tuple[Part, ...], dict[int, str]]:
    """Return the recorded parts, the parts that the destination lists, and those that hold the
    object's bytes for certain."""
    there: dict[int, Part] = {}
    heard: dict[int, Part] = {}
    rows: dict[int, StoredPart] = {}
    good: dict[int, str] = {}
    for turn, (event, number) in enumerate(events):
        span, tag = SPANS[number], f'"{turn}"'
        if event == "sent":
            there[number], good[number] = Part(number, span.length, tag, True), tag
        elif event == "acknowledged" and number in there:
            heard[number] = there[number]
        elif event == "written" and number in heard and good.get(number) == heard[number].etag:
            rows[number] = StoredPart(
                number=number, size=span.length, etag=heard[number].etag, digest="00", checked=True
            )
        elif event == "lost":
            there.pop(number, None), good.pop(number, None)
        elif event == "overwritten" and number in there:
            there[number] = Part(number, span.length, tag, True)
            good.pop(number, None)
        elif event == "forgotten" and rows:
            rows.popitem()
    begun = UploadRecord(
        upload_id="id",
        checked=True,
        place="place",
        etag='"v"',
        size=SIZE,
        part_bytes=STEP,
        digest=None,
        parts=tuple(rows.values()),
    )
    return begun, tuple(there.values()), good


@given(EVENTS)
def test_only_parts_that_certainly_exist_are_kept(events: list[tuple[str, int]]) -> None:
    begun, listed, good = play_events(events)
    for part in confirmed_parts(begun, listed):
        assert good[part.number] == part.etag
        assert part.size == SPANS[part.number].length


@given(EVENTS)
def test_parts_that_both_know_are_never_resent(events: list[tuple[str, int]]) -> None:
    begun, listed, good = play_events(events)
    known = {part.number for part in begun.parts if good.get(part.number) == part.etag}
    assert {part.number for part in confirmed_parts(begun, listed)} == known


@given(EVENTS)
def test_kept_and_sent_are_the_whole_object_once(events: list[tuple[str, int]]) -> None:
    begun, listed, _ = play_events(events)
    have = {part.number for part in confirmed_parts(begun, listed)}
    sent = {number for number in SPANS if number not in have}
    spans = sorted((SPANS[number] for number in have | sent), key=lambda span: span.first)
    assert not have & sent
    assert [span.first for span in spans] == [0, *(span.last + 1 for span in spans[:-1])]
    assert spans[-1].last == SIZE - 1


@given(EVENTS)
def test_asking_again_changes_nothing(events: list[tuple[str, int]]) -> None:
    """Recovery may be killed too: what it keeps is kept again."""
    begun, listed, _ = play_events(events)
    first = confirmed_parts(begun, listed)
    assert confirmed_parts(replace(begun, parts=first), listed) == first


@given(st.sampled_from(["place", "etag", "size", "part_bytes"]))
def test_an_upload_of_anything_else_does_not_fit(member: str) -> None:
    begun, _, _ = play_events([])
    asked = {"place": "place", "etag": '"v"', "size": SIZE, "step": STEP}
    assert can_resume(begun, **asked)  # type: ignore[arg-type]
    other = replace(begun, **{member: "another" if member in ("place", "etag") else 9})
    assert not can_resume(other, **asked)  # type: ignore[arg-type]
    assert not can_resume(None, **asked)  # type: ignore[arg-type]
