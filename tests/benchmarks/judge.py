"""How fast the judge is: simulate, validate, reading files, ``mallocgame --help``, capture against a full compilation.

``python -m tests.benchmarks.judge [simulate|scaling|help|capture]...`` (none named: all but capture, which needs the
extra ``tpu``). Prints tables; ``scaling`` also draws docs/img/judge_scaling.png.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mallocgame.hierarchy import preset
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HOME, Mapping, Residency, Transfer
from mallocgame.program import Instruction, Program, Tensor, Use, UseKind
from mallocgame.workloads.trace import Trace, load_mapping, load_trace, save_mapping, save_trace
from tests.paths import ROOT

SIZES = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
FIGURE = ROOT / "docs" / "img" / "judge_scaling.png"
SLOTS = 64


def median_seconds(action: Callable[[], object], repeats: int) -> float:
    """Return the median wall time of ``action``, after one call that is not counted."""
    action()
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def simulate_speed() -> None:
    """Instructions a second on every shipped trace, under the compiler's own mapping.

    ``first``: the mapping's tables are built too, as for a mapping that was just found; ``again``: they are there.
    """
    from mallocgame.workloads import suite

    print(f"{'trace':<28}{'steps':>7}{'copies':>8}{'first/s':>12}{'again/s':>12}")
    first, again = [], []
    for name in suite.names(base=True):
        trace = suite.load(name)
        own = trace.mapping
        if own is None:
            continue
        steps = trace.program.num_steps

        def fresh(trace: Trace = trace, own: Mapping = own) -> None:
            mapping = Mapping(residencies=own.residencies, transfers=own.transfers)
            simulate(trace.program, trace.hierarchy, mapping)

        def warm(trace: Trace = trace, own: Mapping = own) -> None:
            simulate(trace.program, trace.hierarchy, own)

        first.append(steps / median_seconds(fresh, 15))
        again.append(steps / median_seconds(warm, 15))
        print(f"{name:<28}{steps:>7}{len(own.transfers):>8}{first[-1]:>12,.0f}{again[-1]:>12,.0f}")
    print(f"{'median':<28}{'':>15}{statistics.median(first):>12,.0f}{statistics.median(again):>12,.0f}")


def large_case(count: int) -> tuple[Program, Mapping]:
    """Return a program of ``count`` tensors that all live in fast memory: half are copied in, half are born there."""
    size, num_steps = 2**20, count + 8
    tensors, residencies, transfers = [], [], []
    for i in range(count):
        copied = i % 2 == 0
        reads = (Use(step=i + 4, bytes=size), Use(step=i + 6, bytes=size))
        uses = reads if copied else (Use(step=i + 2, bytes=size, kind=UseKind.DEFINE), *reads)
        tensors.append(Tensor(name=f"tensor.{i}", size_bytes=size, uses=uses, is_parameter=copied))
        place = (i % SLOTS) * size
        residencies.append(Residency(tensor=i, layer=1, offset_bytes=place, start_step=i + 2, end_step=i + 7))
        if copied:
            copy = Transfer(tensor=i, source=HOME, target=i, start_after=i + 1, done_before=i + 4, size_bytes=size)
            transfers.append(copy)
    instructions = tuple(
        Instruction(name=f"fusion.{t}", compute_seconds=1e-6, opcode="fusion") for t in range(num_steps)
    )
    program = Program(name=f"large{count}", instructions=instructions, tensors=tuple(tensors))
    return program, Mapping(residencies=tuple(residencies), transfers=tuple(transfers))


def scaling(sizes: tuple[int, ...] = SIZES) -> dict[str, list[float]]:
    """Seconds of each operation by the number of residencies; prints them and the slope in a log-log plot."""
    memory = preset("v5e")
    names = ("validate", "simulate", "read mapping", "read trace")
    found: dict[str, list[float]] = {name: [] for name in names}
    print(f"{'residencies':<14}" + "".join(f"{name:>14}" for name in names))
    for size in sizes:
        program, mapping = large_case(size)
        assert validate(program, memory, mapping) == []
        with tempfile.TemporaryDirectory() as folder:
            trace_file, mapping_file = Path(folder) / "t.json.gz", Path(folder) / "m.json.gz"
            save_trace(trace_file, Trace(name="large", program=program, hierarchy=memory, mapping=mapping))
            save_mapping(mapping_file, mapping, program, memory)

            def fresh(mapping: Mapping = mapping) -> Mapping:
                return Mapping(residencies=mapping.residencies, transfers=mapping.transfers)

            actions: dict[str, Callable[[], object]] = {
                "validate": lambda: validate(program, memory, fresh()),  # noqa: B023
                "simulate": lambda: simulate(program, memory, fresh()),  # noqa: B023
                "read mapping": lambda: load_mapping(mapping_file, program, memory),  # noqa: B023
                "read trace": lambda: load_trace(trace_file),  # noqa: B023
            }
            for name, action in actions.items():
                found[name].append(median_seconds(action, 5 if size < 10_000 else 1))
        print(f"{size:<14,}" + "".join(f"{found[name][-1]:>13.4f}s" for name in names))
    far = [i for i, size in enumerate(sizes) if size >= 1_000]
    for name in names:
        logs = np.log([sizes[i] for i in far]), np.log([found[name][i] for i in far])
        print(f"{name}: seconds grow with residencies to the power {np.polyfit(*logs, 1)[0]:.2f} (1,000 and more)")
    return found


def draw(sizes: tuple[int, ...], found: dict[str, list[float]]) -> None:
    """Draw the times against the number of residencies, and what growing in proportion would look like."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for name, seconds in found.items():
        axis.loglog(sizes, seconds, marker="o", markersize=4, label=name)
        middle = sizes.index(1_000)
        line = [seconds[middle] * size / sizes[middle] for size in sizes]
        axis.loglog(sizes, line, color="#999999", linewidth=0.7, linestyle=":", zorder=0)
    axis.set_xlabel("residencies (dotted: in proportion)")
    axis.set_ylabel("seconds")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE)
    print(f"figure: {FIGURE}")


def help_speed() -> None:
    """Wall seconds of ``mallocgame --help``, the interpreter's start included, and of an empty interpreter."""
    start = "from mallocgame.cli import main; main()"

    def run(*command: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)

    print(f"mallocgame --help: {median_seconds(run('-c', start, '--help'), 15):.3f} s")
    print(f"python -c pass:    {median_seconds(run('-c', 'pass'), 15):.3f} s")


def capture_speed(programs: tuple[str, ...] = ("lstm", "resnet50")) -> None:
    """Wall seconds to capture a program for v5e, one compilation, ended early against run to the end."""
    from mallocgame.workloads.capture import capture
    from mallocgame.workloads.program_reference import ProgramReference

    print(f"{'program':<20}{'early':>8}{'full':>8}{'ratio':>8}")
    for name in programs:
        taken = []
        for full in (False, True):
            reference = ProgramReference(module="mallocgame.workloads.models", name=name)
            begin = time.perf_counter()
            capture(reference, chip="v5e", full=full, refine=0)
            taken.append(time.perf_counter() - begin)
        print(f"{name:<20}{taken[0]:>7.1f}s{taken[1]:>7.1f}s{taken[1] / taken[0]:>8.2f}")


def main(wanted: list[str]) -> None:
    """Run the parts named, or all but capture."""
    if not wanted or "simulate" in wanted:
        simulate_speed()
    if not wanted or "scaling" in wanted:
        draw(SIZES, scaling())
    if not wanted or "help" in wanted:
        help_speed()
    if "capture" in wanted:
        capture_speed()


if __name__ == "__main__":
    main(sys.argv[1:])
