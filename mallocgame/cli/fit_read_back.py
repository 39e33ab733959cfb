"""``mallocgame fit --read-back``: the plan compiled ahead of time for a TPU chip, in a process of its own."""

import json as text
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mallocgame.cli.common import print_json, print_table
from mallocgame.errors import InputError, MissingExtraError
from mallocgame.system import module_command

if TYPE_CHECKING:
    from mallocgame.cli.fitting import Planned

MODULE = "mallocgame.workloads.checkpointing.readback"


def check_chip(chip: str) -> None:
    """Refuse what cannot be compiled for.

    Raises:
        InputError: no TPU chip, or libtpu is not installed.
    """
    import importlib.util

    if chip not in ("v4", "v5e", "v6e"):
        raise InputError(f"--read-back compiles ahead of time for v4, v5e and v6e, not for {chip}")
    if importlib.util.find_spec("libtpu") is None:
        raise MissingExtraError("libtpu", "tpu")


def show(function: str, args: str, chip: str, planned: "Planned", json: bool) -> None:
    """Compile, and print XLA's peak beside ours and each copy to and from the host.

    Raises:
        InputError: the compiler failed; the message is its own.
    """
    from mallocgame.cli.fitting import gigabytes
    from mallocgame.workloads.checkpointing.policy import save_checkpoint_policy

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.json"
        save_checkpoint_policy(path, planned.row.policy)
        command = [*module_command(MODULE), function, chip, os.getcwd(), str(path), args]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    line = next((line for line in reversed(found.stdout.splitlines()) if line.startswith("{")), "")
    row: dict[str, Any] = text.loads(line) if line else {"error": f"its process ended with {found.returncode}"}
    if row["error"]:
        raise InputError(f"{function}: XLA:TPU cannot compile the plan: {row['error']}")
    if json:
        print_json([{"kind": "read_back", "peak_bytes": row["peak_bytes"], "host_bytes": row["host_bytes"]}])
        print_json({"kind": "host_copy"} | copy for copy in row["copies"])
        return
    ours, theirs = planned.row.price.peak_bytes, row["peak_bytes"]
    predicted = f"predicted {gigabytes(ours)}, {ours / max(theirs, 1) - 1:+.1%}"
    title = f"compiled for {chip}: peak {gigabytes(theirs)} ({predicted}), on the host {gigabytes(row['host_bytes'])}"
    if not row["copies"]:
        typer.echo(title)
        typer.echo("nothing is copied to or from the host")
        return
    columns = ("copy", "direction", "size", "starts at", "done at", "of steps", "hidden behind, of the cycles")
    table = [
        (
            copy["name"],
            "to the host" if copy["to_host"] else "back",
            gigabytes(copy["size_bytes"]),
            str(copy["start_step"]),
            str(copy["done_step"]),
            str(copy["num_steps"]),
            f"{copy['hiding_share']:.1%}",
        )
        for copy in row["copies"]
    ]
    print_table(title, columns, table)
