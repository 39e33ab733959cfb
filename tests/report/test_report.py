"""Pictures and timelines: every residency, copy and stall of the judge is in them, where it belongs."""

import gzip
import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mallocgame.baselines.placement.trivial import random
from mallocgame.errors import InputError
from mallocgame.hierarchy import preset
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HOME, Mapping, Residency, Transfer, rectangles
from mallocgame.program import Program
from mallocgame.report.comparison import save_comparison
from mallocgame.report.memory_map import Report, save_report
from mallocgame.report.perfetto import perfetto_events, save_perfetto
from mallocgame.report.scene import Scene, build_scene, label_color, luminance, tensor_color
from mallocgame.workloads import suite
from tests.strategies import likely_mappings, programs, small_hierarchy
from tests.toy import toy_program

MEMORY = small_hierarchy(num_layers=3)


def solved() -> Report:
    program, memory = toy_program(num_layers=20, trip_count=3), preset("v5e")
    mapping = random(program, memory, steps=30).mapping
    timeline = simulate(program, memory, mapping)
    return Report(
        title="<b>toy & co</b> @DATA@",
        program=program,
        hierarchy=memory,
        mapping=mapping,
        timeline=timeline,
        xla_judged_seconds=2 * timeline.total_seconds,
        lower_bound_seconds=timeline.total_seconds / 2,
    )


def scene_of(report: Report) -> Scene:
    return build_scene(report.program, report.hierarchy, report.mapping, report.timeline)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs().flatmap(lambda p: st.tuples(st.just(p), likely_mappings(p, MEMORY))))
def test_a_scene_agrees_with_the_judge(case: tuple[Program, Mapping]) -> None:
    program, mapping = case
    if validate(program, MEMORY, mapping):
        return
    timeline = simulate(program, MEMORY, mapping)
    scene = build_scene(program, MEMORY, mapping, timeline)
    total = timeline.total_seconds
    assert len(scene.boxes) == len(rectangles(program, mapping))
    assert len(scene.arrows) == len(mapping.transfers)
    waited = sum(wait.end_seconds - wait.start_seconds for wait in scene.stalls)
    assert waited == pytest.approx(timeline.stall_seconds.sum())
    for wait in scene.stalls:  # something is due there, and the last of it arrives when the wait ends
        assert {mapping.transfers[i].done_before for i in wait.arrows} == {wait.step}
        last = max(scene.arrows[i].finish_seconds for i in wait.arrows)
        assert last == pytest.approx(wait.end_seconds)
    for box in scene.boxes:
        assert 0 <= box.start_seconds <= box.filled_seconds <= box.end_seconds <= total * (1 + 1e-12)
    for arrow, x in zip(scene.arrows, mapping.transfers, strict=True):
        assert 0 <= arrow.issue_seconds <= arrow.finish_seconds * (1 + 1e-12) + 1e-12
        assert (arrow.source == HOME, arrow.target == HOME) == (x.source == HOME, x.target == HOME)
    shares = scene.link_instructions + scene.link_copies
    assert float(shares.max(initial=0)) <= 1 + 1e-9
    assert float(scene.link_copies.min(initial=0)) >= 0
    width = np.diff(scene.link_edges_seconds)
    busy = (scene.link_copies * width).sum(axis=1)
    assert np.all(busy <= timeline.link_busy_seconds * (1 + 1e-6) + 1e-9)


def test_a_box_is_where_and_when_its_residency_is() -> None:
    report = solved()
    scene, timeline, mapping = scene_of(report), report.timeline, report.mapping
    for box, r in zip(scene.boxes, mapping.residencies, strict=True):
        steps = range(max(r.start_step, 0), r.end_step)
        # In the middle of each of its steps the box is there; in the middle of the steps around it, it is not.
        middles = timeline.start_seconds + timeline.elapsed_seconds / 2
        inside = (box.start_seconds <= middles) & (middles < box.end_seconds)
        assert np.flatnonzero(inside).tolist() == list(steps)
        assert (box.offset_bytes, box.layer) == (r.offset_bytes, r.layer)
        assert box.size_bytes == report.program.tensors[r.tensor].size_bytes
        assert box.color == tensor_color(r.tensor)
    # What the link carries in the picture is what it carries in the judge, but for the rounding of finish times.
    carried = (scene.link_copies * np.diff(scene.link_edges_seconds)).sum()
    assert carried == pytest.approx(timeline.link_busy_seconds.sum(), rel=0.05)


def test_slices_are_boxes_of_their_own() -> None:
    program, memory = toy_program(num_layers=6), preset("v5e")
    size = program.tensors[5].size_bytes
    half = size // 2
    place = Residency(tensor=5, layer=1, offset_bytes=0, start_step=1, end_step=7)
    parts = [
        Transfer(tensor=5, source=HOME, target=0, start_after=0, done_before=5, size_bytes=half),
        Transfer(
            tensor=5,
            source=HOME,
            target=0,
            start_after=2,
            done_before=5,
            size_bytes=size - half,
            slice_offset_bytes=half,
        ),
    ]
    mapping = Mapping(residencies=(place,), transfers=tuple(parts))
    scene = build_scene(program, memory, mapping, simulate(program, memory, mapping))
    assert [(box.offset_bytes, box.size_bytes) for box in scene.boxes] == [(0, half), (half, size - half)]
    assert scene.boxes[0].start_seconds < scene.boxes[1].start_seconds
    assert [arrow.target for arrow in scene.arrows] == [0, 1]


@given(st.tuples(*3 * [st.integers(0, 255)]))
def test_a_label_can_be_read_on_any_fill(rgb: tuple[int, int, int]) -> None:
    fill = "#{:02x}{:02x}{:02x}".format(*rgb)
    low, high = sorted((luminance(fill), luminance(label_color(fill))))
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_png(tmp_path: Path) -> None:
    report = solved()
    save_report(tmp_path / "map.png", report)
    data = (tmp_path / "map.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 30_000
    empty = Mapping()
    timeline = simulate(report.program, report.hierarchy, empty)
    nothing = Report(title="", program=report.program, hierarchy=report.hierarchy, mapping=empty, timeline=timeline)
    save_report(tmp_path / "empty.png", nothing)
    save_report(tmp_path / "empty.html", nothing)


def test_html_needs_nothing_else_and_escapes_names(tmp_path: Path) -> None:
    report = solved()
    save_report(tmp_path / "map.html", report)
    text = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)\s*=|https?://|@import|url\(", text)
    assert "&lt;b&gt;toy &amp; co&lt;/b&gt; @DATA@" in text
    assert "<b>toy" not in text
    assert "speed-up 2.000×" in text
    assert "gap 50.0 %" in text
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found
    data = json.loads(found[1])
    scene = scene_of(report)
    (only,) = data["runs"]
    assert [data["tensors"][box[0]][0] for box in only["boxes"]] == [box.name for box in scene.boxes]
    assert [arrow[5] for arrow in only["arrows"]] == [x.size_bytes for x in report.mapping.transfers]
    assert len(only["occupancy"]) == 2
    assert len(only["edges"]) == report.program.num_steps + 1
    assert [step[2] for step in data["steps"]] == [i.source for i in report.program.instructions]


def test_a_name_cannot_leave_the_data_block(tmp_path: Path) -> None:
    report = solved()
    name = "</script><script>alert(1)</script><!--"
    tensors = tuple(_renamed(t, name) for t in report.program.tensors)
    program = Program(name="p", instructions=report.program.instructions, tensors=tensors, loops=report.program.loops)
    timeline = simulate(program, report.hierarchy, report.mapping)
    nasty = Report(title="t", program=program, hierarchy=report.hierarchy, mapping=report.mapping, timeline=timeline)
    save_report(tmp_path / "map.html", nasty)
    text = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script>") == 2
    assert "<!--" not in text


def _renamed(tensor: object, name: str) -> object:
    from dataclasses import replace

    return replace(tensor, name=name)  # type: ignore[type-var]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the page's script")
def test_the_script_of_the_page_runs(tmp_path: Path) -> None:
    """A canvas that only counts: drawing, zooming, dragging and pointing raise nothing and find what is there."""
    save_report(tmp_path / "map.html", solved())
    harness = Path(__file__).parent / "report_harness.js"
    done = subprocess.run(
        ["node", str(harness), str(tmp_path / "map.html")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["drawn"] > 100
    assert seen["zoomed"] > 20
    assert any("MiB at offset" in tip for tip in seen["tips"])
    assert any(tip.startswith("copy of") for tip in seen["tips"])
    assert any("stall of" in tip and "waits for" in tip for tip in seen["tips"])
    assert any("step 7: fusion.7" in tip and "model.py:7" in tip for tip in seen["tips"])
    (a, b), (c, d) = seen["before"], seen["after"]
    assert c > a  # moved by a sideways swipe
    assert d - c == pytest.approx(b - a)  # and not zoomed
    assert seen["dragged"][0] > c
    total = solved().timeline.total_seconds
    assert seen["whole"] == [0, pytest.approx(total)]
    assert seen["deepest"][1] - seen["deepest"][0] == pytest.approx(1e-6 * total)
    for said in ("in fast memory", "uses", "model.py:"):
        assert said in seen["pinned"]
    assert seen["unpinned"] == ""
    assert seen["matches"].startswith("11 tensors, 0 steps")  # param.1, and param.10 to param.19
    assert seen["first"] == "1 of 11"
    assert seen["narrowed"][1] - seen["narrowed"][0] < total
    assert seen["nothing"] == "nothing found"


def test_before_and_after_share_a_scale(tmp_path: Path) -> None:
    report = replace(solved(), before=Mapping())
    save_report(tmp_path / "map.html", report)
    save_report(tmp_path / "map.png", report)
    text = (tmp_path / "map.html").read_text(encoding="utf-8")
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found
    before, after = json.loads(found[1])["runs"]
    assert (before["label"], after["label"]) == ("before", "after")
    assert before["boxes"] == []
    assert after["total"] == pytest.approx(report.timeline.total_seconds)
    assert "<span>before</span>" in text


NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_of_a_large_trace_works_in_a_browser(dark: bool, tmp_path: Path) -> None:
    """The trace of the suite with the most instructions, before and after: real events, real pixels."""
    trace = suite.load("resnet50_training-v5e")
    assert trace.mapping is not None
    empty = simulate(trace.program, trace.hierarchy, Mapping())
    report = Report(
        title="large",
        program=trace.program,
        hierarchy=trace.hierarchy,
        mapping=Mapping(),
        timeline=empty,
        before=trace.mapping,
    )
    save_report(tmp_path / "map.html", report)
    text = (tmp_path / "map.html").read_text(encoding="utf-8")
    drive = (Path(__file__).parent / "report_drive.js").read_text(encoding="utf-8")
    (tmp_path / "map.html").write_text(text.replace("</body>", f"<script>{drive}</script></body>"), encoding="utf-8")
    command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"]
    command += ["--virtual-time-budget=5000", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "map.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert "<title>error" not in done.stdout
    attribute = re.search(r'data-found="([^"]*)"', done.stdout)
    assert attribute, done.stderr[-2000:]
    seen = json.loads(html.unescape(attribute[1]))
    assert "at offset" in seen["tip"]
    assert "step " in seen["tip"]
    assert "in fast memory" in seen["pinned"]
    assert "uses" in seen["pinned"]
    assert seen["swiped"] == pytest.approx(seen["zoom"])  # five turns of the wheel; the swipe does not zoom
    assert re.match(r"\d+ tensors, \d+ steps", seen["matches"])
    assert seen["colors"] > 30
    assert seen["labels"] > 50
    assert seen["worst"][0] >= 4.5, seen["worst"]  # WCAG 2.2 AA
    assert seen["milliseconds"] < 5000
    assert seen["paper"] == ("rgb(21, 23, 27)" if dark else "rgb(255, 255, 255)")


@pytest.mark.parametrize("name", ["map.pdf", "no/folder/map.png", "no/folder/map.html"])
def test_reports_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"expected a name|cannot write"):
        save_report(tmp_path / name, solved())


def test_perfetto_slices_nest_and_tell_the_judge_s_times(tmp_path: Path) -> None:
    report = solved()
    args = (report.program, report.hierarchy, report.mapping, report.timeline)
    save_perfetto(tmp_path / "t.json", *args)
    save_perfetto(tmp_path / "t.json.gz", *args)
    text = (tmp_path / "t.json").read_bytes()
    assert gzip.decompress((tmp_path / "t.json.gz").read_bytes()) == text
    events = json.loads(text)["traceEvents"]
    assert events == json.loads(json.dumps(perfetto_events(*args)))
    slices = [e for e in events if e["ph"] == "X"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["ph"] == "M" and "name" in e["args"]}
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for e in slices:
        tracks.setdefault((e["pid"], e["tid"]), []).append((e["ts"], e["ts"] + e["dur"]))
    assert set(tracks) <= set(names)
    for spans in tracks.values():
        spans.sort()
        assert all(b >= a - 1e-6 for (_, a), (b, _) in pairwise(spans))
    kinds = {names[key]: spans for key, spans in tracks.items()}
    assert len(kinds["instructions"]) == report.program.num_steps
    assert kinds["instructions"][-1][1] <= 1e6 * report.timeline.total_seconds + 1e-6
    stalled = sum(b - a for a, b in kinds["stalls"])
    assert stalled == pytest.approx(1e6 * float(report.timeline.stall_seconds.sum()))
    copies = [e for e in slices if e["pid"] != 1]
    assert sum(e["args"]["bytes"] for e in copies) == sum(x.size_bytes for x in report.mapping.transfers)
    lanes = {names[e["pid"], e["tid"]] for e in copies}
    assert {lane.split(",")[0] for lane in lanes} == {"HBM to VMEM", "VMEM to HBM"}
    assert len(lanes) == len({(e["pid"], e["tid"]) for e in copies})  # each lane has a name of its own
    for stall in (e for e in slices if names[e["pid"], e["tid"]] == "stalls"):
        assert stall["args"]["microseconds"] == pytest.approx(stall["dur"])
        assert stall["args"]["waits for"]
        assert stall["args"]["source"].startswith("model.py:")
    check_flows(events, slices, len(report.mapping.transfers))
    counters = [e["args"]["VMEM"] for e in events if e["ph"] == "C"]
    assert counters == report.timeline.occupancy_bytes[:, 1].tolist()


def check_flows(events: list[dict[str, Any]], slices: list[dict[str, Any]], copies: int) -> None:
    """Each copy has an arrow that begins on it and ends on the instruction, or the wait, that it is due before."""

    def on(event: dict[str, Any]) -> dict[str, Any]:
        there = [e for e in slices if (e["pid"], e["tid"]) == (event["pid"], event["tid"])]
        return next(e for e in there if e["ts"] - 1e-6 <= event["ts"] <= e["ts"] + e["dur"] + 1e-6)

    last = max((e for e in slices if (e["pid"], e["tid"]) == (1, 1)), key=lambda e: float(e["ts"]))["name"]
    begins, ends = ({e["id"]: e for e in events if e["ph"] == kind} for kind in "sf")
    assert len(begins) == len(ends) == copies
    for number, begin in begins.items():
        copy, use = on(begin), on(ends[number])
        assert copy["pid"] != use["pid"]
        assert begin["ts"] <= ends[number]["ts"]
        due = copy["args"]["due before"]
        is_at_end = due == "the program's end" and use["name"] == last  # where nothing is waited for
        assert is_at_end or due == use["args"].get("before", use["name"])


def test_comparison_figure(tmp_path: Path) -> None:
    rows = [
        {"trace": t, "solver": s, "speedup_over_xla": v, "xla_judged_seconds": 2.0, "lower_bound_seconds": 1.0}
        for t in ("a", "b")
        for s, v in (("xla", 1.0), ("greedy", 1.5))
    ]
    rows.append({"trace": "c", "solver": "greedy", "speedup_over_xla": None, "xla_judged_seconds": None})
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        save_comparison(tmp_path / f"f{suffix}", rows, ["xla", "greedy"])
        assert (tmp_path / f"f{suffix}").read_bytes().startswith(start)
    with pytest.raises(InputError, match="nothing to draw"):
        save_comparison(tmp_path / "f.png", rows[-1:], ["greedy"])
