"""The process that compiles: ``python -m workloads.compiler_child`` reads requests, one JSON object a line.

It imports JAX once. Each request is carried out in a forked child whose output goes to the request's ``log`` (a FIFO
that the asking process reads); the child's process id is printed, so that the asker can end it once it has what it
needs. Forking before any backend exists is safe and makes an evaluation start in milliseconds.
"""

import json
import os
import sys
from typing import Any

TOPOLOGIES = {"v4": "v4:1x1x1", "v5e": "v5e:1x1", "v5p": "v5p:1x1x1", "v6e": "v6e:1x1"}


def serve() -> None:
    """Answer requests until standard input ends."""
    import jax

    config: Any = jax.config
    config.update("jax_platforms", "cpu")
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = _compile(request)
            finally:
                os._exit(status)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        os.waitpid(child, 0)


def _compile(request: dict[str, Any]) -> int:
    log = os.open(request["log"], os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    try:
        from workloads.program_reference import ProgramReference, resolve

        function, arguments, donated = resolve(ProgramReference(**request["reference"]))
        compile_on(function, arguments, donated, request["chip"], request["options"])
    except BaseException as error:  # the asker reads what went wrong from the log
        text = f"{type(error).__name__}: {error}".replace("\n", " ")
        os.write(2, f"\n{FAILED} {text}\n".encode())
        return 1
    os.write(2, f"\n{FINISHED}\n".encode())
    return 0


def compile_on(
    function: Any, arguments: tuple[Any, ...], donated: tuple[int, ...], chip: str, options: dict[str, Any]
) -> None:
    """Compile for one core of ``chip`` ahead of time; libtpu logs to standard error."""
    import jax
    import numpy
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[chip])
    sharding = SingleDeviceSharding(topology.devices[0])
    struct: Any = jax.ShapeDtypeStruct

    def placed(leaf: Any) -> Any:
        array = leaf if hasattr(leaf, "dtype") else numpy.asarray(leaf)
        return struct(array.shape, array.dtype, sharding=sharding)

    # a function that is jitted already keeps its own options (donation, static arguments)
    jitted = function if hasattr(function, "lower") else jax.jit(function, donate_argnums=donated)
    lowered = jitted.lower(*jax.tree.map(placed, arguments))
    lowered.compile(compiler_options=options)


FAILED = "mallocgame: compilation failed:"
FINISHED = "mallocgame: compilation finished"


if __name__ == "__main__":
    serve()
