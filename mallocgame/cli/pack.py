"""``mallocgame pack``: offsets for buffers with given lifetimes (MiniMalloc's CSV in and out)."""

from pathlib import Path
from typing import Annotated

import typer

from mallocgame.cli.common import JsonOption, print_json, print_table, progress, say


def pack(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="MiniMalloc's CSV: id,lower,upper,size[,alignment][,offset][,gaps][,conflicts]."
        ),
    ],
    capacity: Annotated[
        int | None, typer.Option(min=0, help="Bytes of memory; without it the height is minimised.")
    ] = None,
    minimise: Annotated[
        bool, typer.Option("--minimise", help="Go on below the capacity, for the lowest height.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the packing here, as CSV.")] = None,
    solver: Annotated[str, typer.Option(help="best, search, cpsat, hill-climb, best-fit or first-fit.")] = "best",
    seconds: Annotated[float, typer.Option(min=0.0, help="Time limit; 0 gives the first heuristic's packing.")] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random orders.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; by default one for each core.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw time × address here (.png, .svg, .pdf).")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only validate the offsets that the file gives.")] = False,
    json: JsonOption = False,
) -> None:
    """Pack buffers into one memory so that no two share a byte while both are live.

    Rows with an offset of 0 or more are fixed there. Exit code 0: packed (or valid); 1: proved infeasible, not found
    (two different words in the output) or invalid; 2: bad input; 130: Ctrl-C. --output is written whenever a packing
    within the capacity is known, also after Ctrl-C.

    Example: mallocgame pack A.1048576.csv --capacity 1048576 --output packed.csv --picture packed.png
    """
    from mallocgame.baselines.packing.buffers import packing_height, read_buffers, validate_packing, write_packing
    from mallocgame.baselines.packing.picture import check_picture_path, draw_packing
    from mallocgame.baselines.packing.quick import quick_pack
    from mallocgame.errors import InputError
    from mallocgame.files import check_writable

    buffers = read_buffers(file)
    if picture is not None:
        check_picture_path(picture)
    check_writable(output, picture)
    if check:
        loose = [b.name for b in buffers if b.fixed_offset is None]
        if loose:
            raise InputError(f"{file}: --check needs an offset for every buffer; {loose[0]!r} has none")
        given = [b.fixed_offset or 0 for b in buffers]
        found = validate_packing(buffers, given, capacity)
        if json:
            print_json([{"violation": line} for line in found])
        else:
            say("\n".join(found) or f"valid: {len(buffers)} buffers, height {packing_height(buffers, given):,} bytes")
        if picture is not None:
            draw_packing(picture, buffers, given, capacity_bytes=capacity, title=file.name)
        raise typer.Exit(1 if found else 0)

    result = quick_pack(buffers, capacity, minimise=minimise) if solver == "best" and seconds > 0 else None
    if result is None:
        from mallocgame.baselines.packing import pack as solve  # loads the compiler

        with progress(f"packing {len(buffers)} buffers") as show:
            result = solve(
                buffers,
                capacity,
                solver=solver,  # type: ignore[arg-type]  # checked by pack, which names the choices
                seconds=seconds,
                seed=seed,
                workers=workers,
                minimise=minimise,
                progress=lambda height, bound: show(bound / height if height else 1.0),
            )
    offsets = [int(offset) for offset in result.offsets]
    packed = result.status in ("optimal", "feasible")
    wrong = validate_packing(buffers, offsets, capacity if packed else None, limit=1)
    if wrong:
        raise RuntimeError(f"the packing breaks a rule, which is a bug in the solver: {wrong[0]}")
    if output is not None and packed:
        write_packing(output, buffers, offsets)
    if picture is not None:
        draw_packing(picture, buffers, offsets, capacity_bytes=capacity, title=f"{file.name}: {result.status}")
    row = {
        "file": str(file),
        "buffers": len(buffers),
        "status": result.status,
        "height_bytes": result.height_bytes,
        "lower_bound_bytes": result.lower_bound_bytes,
        "capacity_bytes": capacity,
        "seconds": round(result.seconds, 3),
        "interrupted": result.interrupted,
    }
    if json:
        print_json([row])
    else:
        print_table(file.name, ["", "value"], _cells(row))
        if not packed:
            meaning = "no packing fits, which is proved" if result.status == "infeasible" else "nothing is proved"
            say(f"{result.status}: {meaning}; the lowest packing known needs {result.height_bytes:,} bytes")
    raise typer.Exit(0 if packed else 1)


def _cells(row: dict[str, object]) -> list[tuple[str, str]]:
    told = {key: value for key, value in row.items() if key != "file" and value is not None and value is not False}
    return [
        (key.replace("_", " "), f"{value:,}" if isinstance(value, int) and value is not True else str(value))
        for key, value in told.items()
    ]
