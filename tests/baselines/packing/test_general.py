"""Gaps, windows, conflict lists and buffers that need no memory, against an oracle that looks at single bytes."""

import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.packing import SolverName, pack
from mallocgame.baselines.packing.buffers import (
    Buffer,
    Gap,
    max_live_bytes,
    packing_height,
    read_buffers,
    validate_packing,
    write_packing,
)
from mallocgame.baselines.packing.quick import quick_pack
from mallocgame.errors import InputError, TraceError
from tests.baselines.packing.oracle import small_problems

Cells = set[tuple[int, int]]


def cells(b: Buffer, offset: int) -> Cells:
    """The (step, byte) pairs that a buffer uses."""
    used = {(t, byte) for t in range(b.lower, b.upper) for byte in range(b.size_bytes)}
    for gap in b.gaps:
        used -= {
            (t, byte) for t, byte in used if gap.lower <= t < gap.upper and not gap.window[0] <= byte < gap.window[1]
        }
    return {(t, offset + byte) for t, byte in used}


def clash(a: Buffer, x: int, b: Buffer, y: int) -> bool:
    """Whether two placed buffers share a byte while both use it, or at all where one lists the other."""
    listed = b.name in a.conflicts or a.name in b.conflicts
    used, others = cells(a, x), cells(b, y)
    if used and others and listed:
        return x < y + b.size_bytes and y < x + a.size_bytes
    return bool(used & others)


def least_height(buffers: Sequence[Buffer], highest: int) -> int:
    """The least height of a packing, by trying all offsets."""
    needed = [b for b in buffers if cells(b, 0)]

    def fits(capacity: int, chosen: list[int]) -> bool:
        if len(chosen) == len(needed):
            return True
        b = needed[len(chosen)]
        offsets = range(0, capacity - b.size_bytes + 1, b.alignment_bytes)
        if b.fixed_offset is not None:
            offsets = range(b.fixed_offset, min(b.fixed_offset, capacity - b.size_bytes) + 1)
        return any(
            not any(clash(b, offset, a, x) for a, x in zip(needed, chosen, strict=False))
            and fits(capacity, [*chosen, offset])
            for offset in offsets
        )

    return next(h for h in range(highest + 1) if fits(h, []))


@st.composite
def general_problems(draw: st.DrawFn, most: int = 4, windows: bool = True) -> list[Buffer]:
    """Up to ``most`` small buffers with gaps, windows, conflicts, alignments; some hold nothing."""
    count = draw(st.integers(1, most))
    found: list[Buffer] = []
    for i in range(count):
        lower = draw(st.integers(0, 4))
        upper = draw(st.integers(lower, 6))
        size = draw(st.integers(0, 4))
        marks = sorted(draw(st.lists(st.integers(lower, upper), max_size=4)))
        gaps = []
        for begin, end in zip(marks[::2], marks[1::2], strict=False):
            low = draw(st.integers(0, size))
            high = draw(st.integers(low, size)) if windows else low
            gaps.append(Gap(lower=begin, upper=end, window=(low, high)))
        conflicts = tuple(f"b{j}" for j in range(count) if j != i and draw(st.integers(0, 3)) == 0)
        alignment = draw(st.sampled_from([1, 1, 2, 3]))
        found.append(
            Buffer(
                name=f"b{i}",
                lower=lower,
                upper=upper,
                size_bytes=size,
                alignment_bytes=alignment,
                gaps=tuple(gaps),
                conflicts=conflicts,
            )
        )
    return found


@given(general_problems(), st.lists(st.integers(0, 6), min_size=4, max_size=4))
@settings(max_examples=150, deadline=None)
def test_the_validator_sees_exactly_the_pairs_that_clash(buffers: list[Buffer], drawn: list[int]) -> None:
    offsets = [x * b.alignment_bytes for b, x in zip(buffers, drawn, strict=False)]
    found = validate_packing(buffers, offsets)
    for (a, x), (b, y) in itertools.combinations(list(zip(buffers, offsets, strict=True)), 2):
        told = any(repr(a.name) in line and repr(b.name) in line for line in found)
        assert told == clash(a, x, b, y)


@given(general_problems())
@settings(max_examples=60, deadline=None)
def test_the_bound_counts_bytes_in_use(buffers: list[Buffer]) -> None:
    used = [cell for b in buffers for cell in [(t, (b.name, byte)) for t, byte in cells(b, 0)]]
    assert max_live_bytes(buffers) == max((sum(t == step for t, _ in used) for step in range(6)), default=0)


@pytest.mark.parametrize("solver", ["best", "cpsat", "search"])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_the_lowest_packing_is_found_and_proved(solver: SolverName, data: st.DataObject) -> None:
    """The search does so for everything but windows."""
    buffers = data.draw(general_problems(windows=solver != "search"))
    result = pack(buffers, solver=solver, seconds=20, workers=1)
    offsets = result.offsets.tolist()
    assert validate_packing(buffers, offsets, result.height_bytes) == []
    assert packing_height(buffers, offsets) == result.height_bytes
    assert result.height_bytes == least_height(buffers, result.height_bytes)
    assert (result.status, result.lower_bound_bytes) == ("optimal", result.height_bytes)
    if result.height_bytes:
        assert pack(buffers, result.height_bytes - 1, solver=solver, seconds=20, workers=1).status == "infeasible"
        assert pack(buffers, result.height_bytes, solver=solver, seconds=20, workers=1).status in (
            "optimal",
            "feasible",
        )


@given(buffers=general_problems(most=10, windows=False))
@settings(max_examples=25, deadline=None)
def test_the_search_agrees_with_cpsat(buffers: list[Buffer]) -> None:
    search, cpsat = (pack(buffers, solver=solver, seconds=20, workers=1) for solver in ("search", "cpsat"))  # type: ignore[arg-type]
    assert (search.status, search.height_bytes) == (cpsat.status, cpsat.height_bytes)
    assert validate_packing(buffers, search.offsets.tolist(), search.height_bytes) == []


@pytest.mark.parametrize("solver", ["first-fit", "best-fit", "hill-climb", "search"])
@given(buffers=general_problems(most=6), capacity=st.integers(0, 12))
@settings(max_examples=15, deadline=None)
def test_every_solver_tells_the_truth(solver: SolverName, buffers: list[Buffer], capacity: int) -> None:
    result = pack(buffers, capacity, solver=solver, seconds=0.02, workers=1)
    assert validate_packing(buffers, result.offsets.tolist(), result.height_bytes) == []
    assert result.lower_bound_bytes <= least_height(buffers, result.height_bytes)
    assert (result.status in ("optimal", "feasible")) == (result.height_bytes <= capacity)


def test_a_gap_is_used_and_one_offset_serves_the_whole_life() -> None:
    a = Buffer(name="a", lower=0, upper=9, size_bytes=8, gaps=(Gap(lower=3, upper=6),))
    b = Buffer(name="b", lower=3, upper=6, size_bytes=8)
    assert pack([a, b]).height_bytes == 8
    window = Buffer(name="a", lower=0, upper=9, size_bytes=8, gaps=(Gap(lower=3, upper=6, window=(0, 3)),))
    assert pack([window, b]).height_bytes == 11
    split = [
        Buffer(name="s", lower=0, upper=9, size_bytes=4, gaps=(Gap(lower=2, upper=7),)),
        Buffer(name="x", lower=0, upper=5, size_bytes=2, fixed_offset=0),
        Buffer(name="y", lower=5, upper=9, size_bytes=2, fixed_offset=2),
    ]
    assert pack(split).height_bytes == 8  # two rows of their own would need 6


@pytest.mark.parametrize("fixed", [None, 64])
def test_what_needs_no_memory_fits_anywhere(fixed: int | None) -> None:
    full = Buffer(name="full", lower=0, upper=9, size_bytes=4)
    for empty in (
        Buffer(name="e", lower=0, upper=9, size_bytes=0, fixed_offset=fixed),
        Buffer(name="e", lower=3, upper=3, size_bytes=100, fixed_offset=fixed),
        Buffer(name="e", lower=2, upper=5, size_bytes=100, fixed_offset=fixed, gaps=(Gap(lower=2, upper=5),)),
    ):
        result = pack([empty, full], 4)
        assert (result.status, result.height_bytes) == ("optimal", 4)
        assert result.offsets.tolist() == [fixed or 0, 0]
        assert validate_packing([empty, full], result.offsets.tolist(), 4) == []
        assert pack([empty], 0).status == "optimal"


def test_only_a_conflict_list(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("id,size,conflicts\na,8,b c\nb,4,c\nc,4,\nd,10,a\n", encoding="utf-8")
    buffers = read_buffers(path)
    result = pack(buffers)
    assert (result.status, result.height_bytes) == ("optimal", 18)
    write_packing(path, buffers, result.offsets.tolist())
    again = read_buffers(path)
    assert validate_packing(again, [b.fixed_offset or 0 for b in again], 18) == []
    assert [b.conflicts for b in again] == [("b", "c"), ("c",), (), ("a",)]


@given(general_problems(), st.lists(st.integers(0, 9), min_size=4, max_size=4))
@settings(max_examples=60, deadline=None)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, buffers: list[Buffer], drawn: list[int]) -> None:
    path = tmp_path_factory.mktemp("csv") / "p.csv"
    offsets = [x * b.alignment_bytes for b, x in zip(buffers, drawn, strict=False)]
    write_packing(path, buffers, offsets)
    back = read_buffers(path)
    assert [(b.fixed_offset, b.conflicts, b.pieces) for b in back] == [
        (offset, b.conflicts, b.pieces) for b, offset in zip(buffers, offsets, strict=True)
    ]


def test_gaps_as_minimalloc_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("id,lower,upper,size,gaps\na,0,10,8,2-4@0:3 6-8\n", encoding="utf-8")
    gaps = (Gap(lower=2, upper=4, window=(0, 3)), Gap(lower=6, upper=8))
    assert read_buffers(path)[0].gaps == gaps
    path.write_text("id,start,end,size,gaps\na,0,9,8,6-7 2-3@0:3\n", encoding="utf-8")
    assert read_buffers(path)[0].gaps == gaps
    for text, reason in (
        ("2-", "does not read as"),
        ("1-3-5", "does not read as"),
        ("4-2", "must lie in its lifetime"),
        ("2-5 4-6", "after the gap before"),
        ("8-11", "must lie in its lifetime"),
        ("2-4@3:9", "window 3:9 must lie within"),
        ("2-4@3:2", "window 3:2 must lie within"),
    ):
        path.write_text(f"id,lower,upper,size,gaps\na,0,10,8,{text}\n", encoding="utf-8")
        with pytest.raises(TraceError, match=f"p.csv:2: .*{reason}"):
            read_buffers(path)


def test_conflicts_must_name_another_buffer(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    for name in ("z", "a"):
        path.write_text(f"id,size,conflicts\na,8,{name}\n", encoding="utf-8")
        with pytest.raises(TraceError, match=f"p.csv:2: 'a' conflicts with '{name}'"):
            read_buffers(path)
        with pytest.raises(InputError, match="is no other buffer"):
            pack([Buffer(name="a", lower=0, upper=1, size_bytes=8, conflicts=(name,))])
    a = Buffer(name="a", lower=0, upper=1, size_bytes=4, fixed_offset=0, conflicts=("b",))
    b = Buffer(name="b", lower=5, upper=6, size_bytes=4, fixed_offset=2)
    with pytest.raises(InputError, match="fixed offsets clash"):
        pack([a, b])


def test_names_cannot_run_in_a_spreadsheet_or_write_on_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    names = ["=1+1", "@x", "-2", "-x", "+x", "'=1+1", "plain"]
    write_packing(path, [Buffer(name=n, lower=0, upper=1, size_bytes=1) for n in names[:5]], range(5))
    assert [line.split(",")[0] for line in path.read_text(encoding="utf-8").splitlines()[1:]] == [
        *("'=1+1", "'@x", "-2", "'-x", "'+x")
    ]
    assert [b.name for b in read_buffers(path)] == names[:5]
    path.write_text("id,lower,upper,size\n\x1b[31mred,0,1,1\n", encoding="utf-8")
    with pytest.raises(TraceError) as caught:
        read_buffers(path)
    assert str(caught.value).isprintable()


@given(buffers=small_problems(aligned=True), capacity=st.one_of(st.none(), st.integers(0, 20)), minimise=st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_quick_answer_is_one_that_the_oracle_gives(
    buffers: list[Buffer], capacity: int | None, minimise: bool
) -> None:
    result = quick_pack(buffers, capacity, minimise=minimise)
    if result is None:
        return
    assert validate_packing(buffers, result.offsets.tolist(), capacity) == []
    assert result.height_bytes == packing_height(buffers, result.offsets.tolist())
    if minimise or capacity is None:
        assert result.height_bytes == least_height(buffers, result.height_bytes)
        assert result.status == "optimal"
    assert result.status in ("optimal", "feasible")


def test_easy_packings_need_no_compiler(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("id,lower,upper,size\na,0,3,4\nb,1,5,4\n", encoding="utf-8")
    script = (
        "import sys\nfrom mallocgame.cli import main\ntry:\n    main()\n"
        "finally:\n    print([m for m in ('numba', 'ortools', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "pack", str(path), "--json"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
