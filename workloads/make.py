"""What ``gymnasium.make("MallocGame-v0", ...)`` accepts, and where its programs come from.

The one place, next to the command line, that knows both the game and ``workloads``; it imports them on call.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mallocgame.errors import InputError
from mallocgame.hierarchy import Hierarchy, preset
from mallocgame.program import Program
from mallocgame.rehoming import rehome

if TYPE_CHECKING:
    from gymnasium.vector import AutoresetMode

    from mallocgame.game.env import MallocEnv
    from mallocgame.game.observation import ObservationConfig
    from mallocgame.game.vector import MallocVectorEnv
    from mallocgame.workloads.trace import Trace

Pair = tuple[Program, Hierarchy]
Names = str | Sequence[str]

SOURCES = ("program", "programs", "trace", "suite", "family")


def make_env(
    *,
    render_mode: str | None = None,
    observation: "ObservationConfig | None" = None,
    reward: str = "saved",
    **source: Any,
) -> "MallocEnv":
    """Return the environment: ``gymnasium.make("MallocGame-v0", ...)`` calls this.

    Args:
        render_mode: ``"rgb_array"``, ``"ansi"`` or None.
        observation: grid sizes and look-ahead of the observation.
        reward: ``"saved"``, the part of the layer-0 time that a step saves, or ``"log"`` of the ratio of times.
        source: what to play, the arguments of ``find_programs``; nothing plays a small shipped trace.

    Raises:
        InputError: see ``find_programs``.
    """
    from mallocgame.game.env import MallocEnv

    return MallocEnv(find_programs(**source), observation=observation, reward=reward, render_mode=render_mode)


# What ``gymnasium.make`` reads before it makes one: it then adds ``human`` and the lists of frames or texts itself.
make_env.metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 8}  # type: ignore[attr-defined]


def make_vector_env(
    *,
    num_envs: int = 1,
    observation: "ObservationConfig | None" = None,
    reward: str = "saved",
    autoreset_mode: "AutoresetMode | str" = "NextStep",
    render_mode: str | None = None,
    **source: Any,
) -> "MallocVectorEnv":
    """Return ``num_envs`` games stepped in one call: ``gymnasium.make_vec("MallocGame-v0", ...)`` calls this.

    The arguments are those of ``make_env``, and ``autoreset_mode`` as in Gymnasium's own vector environments.
    """
    from mallocgame.game.vector import MallocVectorEnv

    return MallocVectorEnv(
        find_programs(**source),
        num_envs,
        observation=observation,
        reward=reward,
        autoreset_mode=autoreset_mode,
        render_mode=render_mode,
    )


def find_programs(
    *,
    program: Program | None = None,
    programs: Sequence[Pair] | None = None,
    trace: "str | Path | Sequence[str | Path] | None" = None,
    suite: Names | None = None,
    family: Names | None = None,
    hierarchy: Hierarchy | str | None = None,
    seed: int = 0,
    count: int = 1,
    **recipe: Any,
) -> tuple[Pair, ...]:
    """Return the (program, hierarchy) pairs that the arguments name; give at most one of the first five.

    Args:
        program: a program; plays on ``hierarchy``, by default v5e.
        programs: pairs of program and hierarchy.
        trace: path or paths of trace files, or names of shipped ones.
        suite: name or names of shipped traces, or ``"all"``.
        family: family or families of ``workloads/synthetic``; ``recipe`` holds the other fields of its ``Recipe``
            (``decisions``, ``capacity_pressure``, ...), ``count`` seeds from ``seed`` on are generated for each.
        hierarchy: a hierarchy or a preset's name; replaces the trace's own.

    Raises:
        InputError: two sources, an unknown name, a file that is not a trace, no program.
    """
    given = [name for name, value in zip(SOURCES, (program, programs, trace, suite, family), strict=True) if value]
    if len(given) > 1:
        raise InputError(f"give one of {', '.join(SOURCES)}, not {' and '.join(given)}")
    if recipe and family is None:
        raise InputError(f"unknown argument {next(iter(recipe))!r}; the fields of a recipe need family=...")
    chip = preset(hierarchy) if isinstance(hierarchy, str) else hierarchy
    if program is not None:
        return ((program, chip or preset("v5e")),)
    if programs is not None:
        found = tuple((p, chip or h) for p, h in programs)
    elif trace is not None:
        found = tuple(_from_file(path, chip) for path in _several(trace))
    elif family is not None:
        found = _generated(_several(family), chip, seed, count, recipe)
    else:
        found = _shipped(_several(suite or DEFAULT_TRACE), chip)
    if not found:
        raise InputError("no program to play")
    return found


DEFAULT_TRACE = "alexnet-v5e"  # small: 36 decisions


def _several(one_or_more: Any) -> tuple[Any, ...]:
    return (one_or_more,) if isinstance(one_or_more, str | Path) else tuple(one_or_more)


def _from_file(path: str | Path, hierarchy: Hierarchy | None) -> Pair:
    from mallocgame.workloads.find import load_trace

    return _on(load_trace(path), hierarchy)


def _shipped(names: tuple[str, ...], hierarchy: Hierarchy | None) -> tuple[Pair, ...]:
    from mallocgame.workloads import suite

    wanted = suite.names() if names == ("all",) else names
    traces = [suite.load(name) for name in wanted]
    return tuple(_on(trace, hierarchy) for trace in traces)


def _on(trace: "Trace", hierarchy: Hierarchy | None) -> Pair:
    return (trace.program, trace.hierarchy) if hierarchy is None else rehome(trace.program, trace.hierarchy, hierarchy)


def _generated(
    families: tuple[str, ...], hierarchy: Hierarchy | None, seed: int, count: int, fields: dict[str, Any]
) -> tuple[Pair, ...]:
    from mallocgame.workloads.synthetic.generate import Recipe, generate

    try:
        recipes = [Recipe(family=family, **fields) for family in families]
    except TypeError as wrong:
        raise InputError(f"family {families[0]}: {wrong}") from None
    instances = [generate(r, seed=s, hierarchy=hierarchy) for r in recipes for s in range(seed, seed + count)]
    return tuple((instance.program, instance.hierarchy) for instance in instances)
