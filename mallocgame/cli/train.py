"""``mallocgame train``: train a MuZero agent on traces, watch it, stop and resume it."""

import math
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.cli.cases import HierarchyOption, HoistOption, find_hierarchy, on_hierarchy
from mallocgame.cli.common import JsonOption, print_json, say
from mallocgame.cli.signals import kept, received, word
from mallocgame.cli.traces import chip_of, open_trace
from mallocgame.errors import InputError
from mallocgame.files import check_folder

if TYPE_CHECKING:
    from mallocgame.agents.muzero.config import Config
    from mallocgame.agents.muzero.trainer import Trainer, TrainingReport
    from mallocgame.hierarchy import Hierarchy
    from mallocgame.mapping import Mapping
    from mallocgame.program import Program
    from mallocgame.solver import SolveResult
    from mallocgame.workloads.trace import Trace


def train(
    workload: Annotated[
        list[str], typer.Option("--workload", metavar="TRACE", help="A trace file or shipped trace; may be repeated.")
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run's folder: checkpoints, metrics, best mappings.")],
    seconds: Annotated[float | None, typer.Option(min=0.0, help="Training budget in seconds.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training budget in moves.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings as TOML; see agents/muzero/config.py.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in RUN, with its settings.")] = False,
    weights: Annotated[
        str | None,
        typer.Option(metavar="RUN|pretrained", help="Start from this run's network."),
    ] = None,
    hybrid: Annotated[
        str | None, typer.Option(metavar="SOLVER", help="Start from this solver's mapping and never return worse.")
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(metavar="SOLVER", help="Compare with this solver, too; may be repeated.")
    ] = None,
    solver_seconds: Annotated[
        float, typer.Option(min=0.0, help="Time for each solver of --hybrid and --against, per trace.")
    ] = 10.0,
    hierarchy: HierarchyOption = None,
    hoist: HoistOption = True,
    seed: Annotated[
        int,
        typer.Option(min=0, help="Of network, games and replay; a resumed run goes on with its own random numbers."),
    ] = 0,
    device: Annotated[
        str | None, typer.Option(help="cpu or gpu; without it JAX_PLATFORMS says, or else cpu.", show_default=False)
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS|local", help="Play on Ray actors of this cluster (extra: ray).")
    ] = None,
    actors: Annotated[int, typer.Option(min=1, help="Number of Ray actors.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Train an agent to map programs; the best mapping of each program is kept and written.

    Example: mallocgame train --workload moe_decode-v5e --out runs/moe --seconds 600
    """
    if seconds is None and steps is None:
        raise InputError("give a budget: --seconds or --steps")
    if resume and weights is not None:
        raise InputError("--resume goes on with the run's own network; leave --weights out, or give another --out")
    check_folder(out)
    from mallocgame.agents.muzero.devices import choose

    choose(device)
    traces = [open_trace(name) for name in workload]
    if hierarchy is not None:
        traces = [on_hierarchy(trace, find_hierarchy(hierarchy)) for trace in traces]
    if len({trace.program.name for trace in traces}) < len(traces):
        traces = [_renamed(trace) for trace in traces]
    programs = [t.program if hoist else t.program.without_hoisting() for t in traces]
    pairs = [(program, t.hierarchy) for program, t in zip(programs, traces, strict=True)]
    first = _weights_folder(weights)
    settings = _settings(out if resume else None, config, first)
    known = [_best_on_disk(out, pair) for pair in pairs] if resume else []
    solved = partial(_solved, traces, hoist=hoist, seconds=solver_seconds, seed=seed)
    starts = [result.mapping for result in solved(hybrid)] if hybrid else []
    rivals = {name: [result.seconds for result in solved(name)] for name in against or ()}
    make_trainer = _trainer_of(ray, actors)
    trainer = make_trainer(pairs, settings, out, seed=seed, starts=starts, known=known, resume=resume, weights=first)
    if resume and trainer.progress(seconds, steps) >= 1.0:
        spent = f"{trainer.steps} moves in {trainer.spent_seconds:.0f} s"
        say(f"mallocgame: {out} has spent this budget before ({spent}); to train on give more --seconds or --steps")
    watch = _Watch(trainer, traces, rivals, out, quiet=as_json)
    with trainer.hold():
        try:
            with watch:
                trainer.train(seconds=seconds, steps=steps, report=watch.report)
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(_interrupted(interrupt, out)) from None
        finally:
            watch.write_best()
    rows = watch.rows()
    if as_json:
        print_json(rows)
    else:
        _print(rows, out)


def _interrupted(interrupt: KeyboardInterrupt, out: Path) -> int:
    """Say how to go on with a run; return the exit code."""
    how = f"continue with: mallocgame train --resume --out {shlex.quote(str(out))} ... (without --weights)"
    if received() is not None:  # before training, which meets its signals itself
        return kept(how)
    code = int(getattr(interrupt, "exit_code", 130))
    say(f"mallocgame: {word(code - 128)}; {how}")
    return code


def _settings(run: Path | None, config: Path | None, weights: Path | None) -> "Config":
    """Return a run's own settings, those of a file, or those that suit the weights to start from.

    Raises:
        InputError: a file with other settings than those of the run to resume.
    """
    from mallocgame.agents.muzero.config import Config
    from mallocgame.agents.muzero.run import RunFolder

    wanted = Config.from_toml(config) if config is not None else None
    if run is not None:
        own = RunFolder(run).config()
        pairs = () if wanted is None else zip(own.to_dict().items(), wanted.to_dict().values(), strict=True)
        different = [f"{name} is {ours!r}, not {theirs!r}" for (name, ours), theirs in pairs if ours != theirs]
        if different:
            raise InputError(f"{run} is resumed with its own settings ({'; '.join(different)}); leave --config out")
        return own
    if wanted is not None:
        return wanted
    return Config() if weights is None else RunFolder(weights).fine_tuning()


def _best_on_disk(out: Path, pair: "tuple[Program, Hierarchy]") -> "Mapping | None":
    """Return the best mapping that the run has written of a program, None before there is one."""
    from mallocgame.agents.muzero.run import RunFolder
    from mallocgame.workloads.formats.mapping_file import load_mapping

    file = RunFolder(out).best_file(pair[0].name)
    return load_mapping(file, *pair) if file.exists() else None


def _weights_folder(weights: str | None) -> Path | None:
    if weights != "pretrained":
        return None if weights is None else Path(weights)
    from mallocgame.agents.muzero.solver import PRETRAINED

    return PRETRAINED


def _trainer_of(ray: str | None, actors: int) -> "Callable[..., Trainer]":
    if ray is None:
        from mallocgame.agents.muzero.trainer import Trainer

        return Trainer
    from mallocgame.agents.muzero.distributed import RayTrainer

    return partial(RayTrainer, address=ray, num_actors=actors)


def _renamed(trace: "Trace") -> "Trace":
    from dataclasses import replace

    return replace(trace, program=replace(trace.program, name=trace.name))


def _solved(traces: "list[Trace]", solver: str, *, hoist: bool, seconds: float, seed: int) -> "list[SolveResult]":
    """Return what a solver makes of each trace."""
    from mallocgame.evaluation import find_solver

    solve, options = find_solver(solver)
    results = []
    for trace in traces:
        program = trace.program if hoist else trace.program.without_hoisting()
        results.append(solve(program, trace.hierarchy, seconds=seconds, seed=seed, **options))
        if results[-1].status == "interrupted":
            raise KeyboardInterrupt
    return results


class _Watch:
    """The live panel, TensorBoard and the best mappings on disk."""

    def __init__(
        self, trainer: "Trainer", traces: list["Trace"], rivals: dict[str, list[float]], out: Path, *, quiet: bool
    ) -> None:
        from mallocgame.judge.simulation import simulate

        self.trainer, self.out, self.quiet = trainer, out, quiet
        self.traces = {trace.program.name: trace for trace in traces}
        self._written: dict[str, float] = {}
        self.xla = {
            name: simulate(t.program, t.hierarchy, t.mapping).total_seconds
            for name, t in self.traces.items()
            if t.mapping is not None
        }
        self.rivals = {solver: dict(zip(self.traces, seconds, strict=True)) for solver, seconds in rivals.items()}

    def __enter__(self) -> "_Watch":
        from rich.console import Console
        from rich.live import Live

        from mallocgame.cli.board import Board

        self.board = Board(self.out / "tensorboard")
        self.live = Live(console=Console(stderr=True), refresh_per_second=2, transient=False)
        self.is_shown = False
        if not self.quiet:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()
        if self.is_shown and not self.live.console.is_terminal:
            self.live.console.print()  # into a file Rich writes the last panel without an end of line

    def report(self, row: "TrainingReport") -> None:
        """Show a report, log it, and write what improved."""
        scalars = {f"loss/{k}": v for k, v in row.losses.items()}
        scalars["play/moves_per_second"] = row.moves_per_second
        if row.mean_return == row.mean_return:  # not NaN: an episode has ended
            scalars["play/mean_return"] = row.mean_return
        for name, seconds in row.best.items():
            scalars[f"best_ms/{name}"] = seconds * 1e3
            scalars |= {f"speedup_over_{solver}/{name}": x for solver, x in self._speedups(name, seconds).items()}
        pictures = {f"map/{name}": self._picture(name) for name in row.improved}
        self.board.write(row.steps, scalars, pictures)
        if row.improved:
            self.write_best()
        if not self.quiet:
            self.live.update(self._panel(row))
            self.is_shown = True

    def write_best(self) -> None:
        """Write each program's best mapping where it is better than what was written before."""
        from mallocgame.workloads.formats.mapping_file import save_mapping

        for name, best in self.trainer.best.items():
            if best.seconds < self._written.get(name, math.inf):
                trace = self.traces[name]
                save_mapping(self.trainer.folder.best_file(name), best.mapping, trace.program, trace.hierarchy)
                self._written[name] = best.seconds

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a program."""
        rows = []
        for name, best in self.trainer.best.items():
            xla, speedups = self.xla.get(name), self._speedups(name, best.seconds)
            rows.append(
                {
                    "trace": self.traces[name].name,
                    "chip": chip_of(self.traces[name]),
                    "device": _device(),
                    "judged_seconds": best.seconds,
                    "xla_judged_seconds": xla,
                    "speedup_over_xla": None,
                    **{f"speedup_over_{solver}": x for solver, x in speedups.items()},
                    "home_seconds": best.home_seconds,
                    "steps": self.trainer.steps,
                    "episodes": self.trainer.episodes,
                    "mapping": str(self.trainer.folder.best_file(name)),
                }
            )
        return rows

    def _speedups(self, name: str, seconds: float) -> dict[str, float]:
        """Return how many times faster ``seconds`` are than the compiler's mapping and each rival's."""
        everyone = {"xla": self.xla, **self.rivals}
        return {solver: found[name] / seconds for solver, found in everyone.items() if name in found}

    def _picture(self, name: str) -> Any:
        """Return the memory map of the best mapping of a program, uint8[H, W, 3]."""
        from mallocgame.game.render import render_rgb

        best, trace = self.trainer.best[name], self.traces[name]
        return render_rgb(trace.program, trace.hierarchy, best.mapping, -1, trace.program.num_steps)

    def _panel(self, row: "TrainingReport") -> Any:
        from rich.panel import Panel
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_row("progress", f"{row.progress:.0%}, {row.elapsed_seconds:.0f} s, {row.steps:,} moves")
        table.add_row("speed", f"{row.moves_per_second:,.0f} moves/s, {row.simulations_per_second:,.0f} simulations/s")
        table.add_row("games", f"{row.episodes:,} finished, replay {row.replay_steps:,} moves")
        losses = "  ".join(f"{k} {v:.4g}" for k, v in row.losses.items())
        table.add_row("learner", f"{row.updates:,} updates  {losses}")
        table.add_row("mean game", f"{math.exp(row.mean_return):.4f} x everything in layer 0")
        for name, seconds in row.best.items():
            against = [f"{x:.3f} x {solver}" for solver, x in self._speedups(name, seconds).items()]
            table.add_row(f"best {name}", ", ".join([f"{seconds * 1e3:.4f} ms", *against]))
        return Panel(table, title=f"mallocgame train on {_device()}", expand=False)


def _device() -> str:
    from mallocgame.agents.muzero.devices import device_kind

    return device_kind()


def _print(rows: list[dict[str, Any]], out: Path) -> None:
    from mallocgame.cli.common import print_table

    def line(row: dict[str, Any]) -> tuple[str, ...]:
        speedup = row["speedup_over_xla"]
        shown = f"{speedup:.3f}" if speedup is not None else "-"
        return row["trace"], row["chip"], f"{row['judged_seconds'] * 1e3:.4f}", shown, row["mapping"]

    columns = ("trace", "chip", "best, ms", "speed-up over XLA", "mapping")
    print_table(f"run {out}, trained on {_device()}", columns, [line(row) for row in rows])
