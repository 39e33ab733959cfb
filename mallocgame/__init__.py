"""Plan where the tensors of an ML program live on an accelerator, and when they move.

Everything here is imported when it is first used::

    trace = mallocgame.load_trace("gpt2_training-v5e")
    print(mallocgame.solve(trace, solver="anneal", seconds=10).speedup_over_xla)
"""

from typing import TYPE_CHECKING, Any

from mallocgame.game.registration import register_when_gymnasium_loads

if TYPE_CHECKING:
    from mallocgame.compiler_options import load_compiler_options as load_compiler_options
    from mallocgame.evaluation import solve as solve
    from mallocgame.explanation import explain as explain
    from mallocgame.hierarchy import Hierarchy as Hierarchy
    from mallocgame.hoisting import hoist as hoist
    from mallocgame.judge.simulation import lower_bound as lower_bound
    from mallocgame.judge.simulation import simulate as simulate
    from mallocgame.judge.validation import validate as validate
    from mallocgame.mapping import Mapping as Mapping
    from mallocgame.program import Program as Program
    from mallocgame.solver import Problem as Problem
    from mallocgame.workloads.checkpointing.policy import load_checkpoint_policy as load_checkpoint_policy
    from mallocgame.workloads.find import load_trace as load_trace

register_when_gymnasium_loads()

_MODULES = {
    "Hierarchy": "hierarchy",
    "Mapping": "mapping",
    "Problem": "solver",
    "Program": "program",
    "explain": "explanation",
    "hoist": "hoisting",
    "load_checkpoint_policy": "workloads.checkpointing.policy",
    "load_compiler_options": "compiler_options",
    "load_trace": "workloads.find",
    "lower_bound": "judge.simulation",
    "simulate": "judge.simulation",
    "solve": "evaluation",
    "validate": "judge.validation",
}

__all__ = [
    "Hierarchy",
    "Mapping",
    "Problem",
    "Program",
    "__version__",
    "explain",
    "hoist",
    "load_checkpoint_policy",
    "load_compiler_options",
    "load_trace",
    "lower_bound",
    "simulate",
    "solve",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mallocgame")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
