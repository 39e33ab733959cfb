"""At least 300 programs to train on, and none of the families that are held out.

``python -m tests.benchmarks.muzero_programs FOLDER --captures 60`` writes traces, and skips those that are there:
shipped training traces as they are and with other capacities, bandwidths and chips; generated programs; and, with
libtpu at hand, captures of the builders of ``workloads/models`` at other sizes. About half are without hoisting.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mallocgame.cli.cases import on_hierarchy
from mallocgame.errors import InputError
from mallocgame.hierarchy import Hierarchy, preset
from mallocgame.workloads import suite
from mallocgame.workloads.capture import capture
from mallocgame.workloads.models import Workload, build_program
from mallocgame.workloads.program_reference import ProgramReference
from mallocgame.workloads.synthetic.generate import FAMILIES, Recipe, generate
from mallocgame.workloads.trace import Trace, save_trace
from mallocgame.workloads.xla.compiler import Compiler

HELD_OUT = (  # whole families of builders: nothing like them is trained on
    *("vit", "bert", "bert_training", "mobilenet", "graph_network", "strassen", "strassen_deep", "winograd"),
    *("llama_decode", "llama_decode_batch16", "decode_loop"),
)
CHIPS = ("v4", "v5e", "v5p", "v6e")
CAPACITIES, BANDWIDTHS = (0.4, 0.6, 0.8, 1.25, 1.6), (0.5, 0.7, 1.0, 1.4, 2.0)
MOST_DECISIONS = 1500  # in what is trained on: games stay short, and all of one batch alike
GENERATED = 14  # of each family
_LLAMA = {"width": 2048, "heads": 16, "groups": 4, "hidden": 5632, "vocabulary": 32000}
_SMALL = {"width": 1024, "heads": 8, "groups": 4, "hidden": 2816, "vocabulary": 8192}
SIZES: tuple[tuple[str, tuple[dict[str, Any], ...]], ...] = (
    ("vision.alexnet", tuple({"batch": b} for b in (16, 48, 256))),
    ("vision.vgg16", tuple({"batch": b} for b in (1, 2, 8))),
    ("vision.resnet50", tuple({"batch": b} for b in (4, 16, 64))),
    (
        "assorted.wavenet",
        tuple({"batch": b, "length": n, "channels": c, "stacks": 2, "depth": d} for b, n, c, d in (
            (1, 16384, 64, 8), (2, 16384, 128, 6), (8, 8192, 192, 10),
        )),
    ),
    (
        "unet.unet",
        tuple({"batch": b, "image": i, "widths": w} for b, i, w in (
            (1, 256, (64, 128, 256, 512)), (4, 256, (32, 64, 128, 256)), (1, 512, (48, 96, 192, 384)),
        )),
    ),
    (
        "unet.unet_training",
        tuple({"batch": b, "image": i, "widths": w} for b, i, w in ((2, 128, (64, 128, 256)), (8, 96, (96, 192, 384)))),
    ),
    (
        "unet.diffusion_step",
        tuple({"batch": b, "image": i, "widths": w, "blocks": n} for b, i, w, n in (
            (1, 64, (128, 256), 1), (4, 32, (192, 384), 1), (1, 32, (256, 512), 2),
        )),
    ),
    (
        "transformer.gpt2_training",
        tuple({"batch": b, "length": n, "layers": k, "vocabulary": 16384} for b, n, k in (
            (2, 256, 2), (8, 256, 3), (2, 1024, 2), (4, 512, 6),
        )),
    ),
    ("recurrent.lstm", tuple({"batch": b, "steps": 32, "width": w, "layers": k} for b, w, k in (
        (16, 768, 1), (64, 1280, 2), (32, 1024, 3),
    ))),
    ("recurrent.lstm_training", tuple({"batch": b, "steps": n, "width": w} for b, n, w in (
        (16, 16, 768), (64, 48, 1024), (32, 32, 1536),
    ))),
    ("recurrent.tied_loop", tuple({"batch": b, "steps": n, "width": w, "hidden": h} for b, n, w, h in (
        (32, 8, 1536, 4096), (128, 16, 2048, 4096), (64, 12, 2560, 6912),
    ))),
    ("llama.prefill", (
        {"batch": 1, "length": 256, "layers": 4, **_LLAMA}, {"batch": 2, "length": 512, "layers": 8, **_SMALL},
        {"batch": 1, "length": 1024, "layers": 4, **_SMALL},
    )),
    ("llama.expert_decode", (
        {"batch": 4, "context": 512, "layers": 3, "experts": 4, "chosen": 2, **_SMALL},
        {"batch": 32, "context": 1024, "layers": 2, "experts": 16, "chosen": 2, **_SMALL},
        {"batch": 8, "context": 2048, "layers": 6, "experts": 8, "chosen": 2, **_SMALL},
    )),
    ("assorted.mlp", tuple({"batch": b, "widths": w} for b, w in (
        (16, (2048,) * 17), (128, (3072, 6144) * 5), (256, (4096,) * 7), (1024, (2560,) * 25),
    ))),
    ("assorted.dlrm", tuple(
        {"batch": b, "tables": t, "rows": 20_000, "width": 128, "bottom": (512, 256), "top": (1024, 1024, 512, 256)}
        for b, t in ((512, 13), (4096, 26), (1024, 40))
    )),
)  # fmt: skip


def _workloads() -> dict[str, Workload]:
    """Return a program for each builder and size, sizes first."""
    found = {}
    for number in range(max(len(sizes) for _, sizes in SIZES)):
        for where, sizes in SIZES:
            if number < len(sizes):
                name = f"{where.split('.')[1]}_{number}"
                build = partial(build_program, *where.split("."), **sizes[number])
                donated = (0, 1) if "training" in where else (3,) if "decode" in where else ()
                found[name] = Workload(
                    name=name, summary=name, family="", split="train", build=build, donate_argnums=donated
                )
    return found


MODELS = _workloads()  # by name, as ``capture`` looks programs up


def main() -> None:
    """Write what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--captures", type=int, default=60, help="at most, 0: none (they need libtpu)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no capture after so long")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + chosen.seconds
    for trace in (*_variants(), *_generated()):
        _keep(chosen.folder, trace)
    if chosen.captures:
        _capture(chosen.folder, chosen.captures, until)
    sys.stderr.write(f"{len(list(chosen.folder.glob('*.json.gz')))} programs in {chosen.folder}\n")


def _keep(folder: Path, trace: Trace) -> None:
    file = folder / f"{trace.name}.json.gz"
    if not file.exists() and 4 <= trace.program.num_decisions <= MOST_DECISIONS:
        save_trace(file, replace(trace, program=replace(trace.program, name=trace.name)))


def _variants() -> Iterator[Trace]:
    """Yield the shipped training traces with hoisting and without, scaled, and on other chips."""
    for number, name in enumerate(suite.names(base=True)):
        if suite.entry(name).program in HELD_OUT:
            continue
        random, trace = np.random.default_rng([number]), suite.load(name)
        bare = replace(trace, program=trace.program.without_hoisting())
        yield replace(bare, name=name)
        yield replace(trace, name=f"{name}-hoist")
        for index in range(2):
            capacity, bandwidth = random.choice(CAPACITIES), random.choice(BANDWIDTHS)
            other = scaled(trace.hierarchy, float(capacity), float(bandwidth))
            text = f"{name}-{capacity}-{bandwidth}"
            yield replace((bare, trace)[index], name=text, hierarchy=other, mapping=None)
        chip = str(random.choice([chip for chip in CHIPS if not name.endswith(chip)]))
        yield replace(on_hierarchy((bare, trace)[number % 2], preset(chip)), name=f"{name}-on-{chip}")


def scaled(hierarchy: Hierarchy, capacity: float, bandwidth: float) -> Hierarchy:
    """Return a chip whose fast layer is larger by ``capacity`` and whose home and links are faster by ``bandwidth``."""
    home, *fast = hierarchy.layers
    layers = [replace(home, bytes_per_second=home.bytes_per_second * bandwidth)]
    for layer in fast:
        size = int(layer.capacity_bytes * capacity) // layer.alignment_bytes * layer.alignment_bytes
        layers.append(replace(layer, capacity_bytes=size))
    links = [replace(link, bytes_per_second=link.bytes_per_second * bandwidth) for link in hierarchy.links]
    name = f"{hierarchy.name}-{capacity}-{bandwidth}"
    return replace(hierarchy, name=name, layers=tuple(layers), links=tuple(links))


def _generated() -> Iterator[Trace]:
    for family in FAMILIES:
        for seed in range(GENERATED):
            random = np.random.default_rng([seed, *family.encode()])
            recipe = Recipe(
                family=family,
                decisions=int(np.exp(random.uniform(np.log(40), np.log(500)))),
                capacity_pressure=float(np.exp(random.uniform(np.log(0.8), np.log(6)))),
                bandwidth_pressure=float(np.exp(random.uniform(np.log(0.7), np.log(5)))),
                trip_count=int(random.integers(2, 40)),
            )
            made = generate(recipe, seed=seed, hierarchy=preset(str(random.choice(CHIPS))))
            program = made.program.without_hoisting() if seed % 2 else made.program
            yield Trace(name=f"{family}-{seed}", program=program, hierarchy=made.hierarchy)


def _capture(folder: Path, most: int, until: float) -> None:
    """Capture programs that are not there yet, each for another chip than the one before."""
    chips = ("v5e", "v4", "v6e")
    asked = [(name, chips[(number + turn) % 3]) for turn in range(3) for number, name in enumerate(MODELS)][:most]
    missing = [(name, chip) for name, chip in asked if not (folder / f"{name}-{chip}.json.gz").exists()]
    with Compiler() as compiler:
        for number, (name, chip) in enumerate(missing):
            if time.monotonic() > until:
                break
            begun, full = time.perf_counter(), f"{name}-{chip}"
            reference = ProgramReference(module="tests.benchmarks.muzero_programs", name=name)
            try:
                trace = capture(reference, chip=chip, name=full, compiler=compiler)
            except InputError as error:
                sys.stderr.write(f"{full}: {error}\n")
                continue
            program = trace.program if number % 2 else trace.program.without_hoisting()
            _keep(folder, replace(trace, program=program))
            sys.stderr.write(f"{full}: {program.num_decisions} decisions, {time.perf_counter() - begun:.1f} s\n")


if __name__ == "__main__":
    main()
