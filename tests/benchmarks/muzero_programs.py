"""Hundreds of programs to train on, and none of the families that are held out.

``python -m tests.benchmarks.muzero_programs FOLDER --captures 360`` writes traces, and skips those that are there:
shipped training traces as they are and with other capacities, bandwidths and chips; generated programs; and, with
libtpu at hand, captures of the builders of ``workloads/models`` at drawn sizes and of the drawn networks of
``muzero_models``. About half are without hoisting.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
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
_WIDE = {"width": 2048, "heads": 16, "groups": 4, "hidden": 5632, "vocabulary": 32000}
_SMALL = {"width": 1024, "heads": 8, "groups": 4, "hidden": 2816, "vocabulary": 8192}
_NARROW = {"width": 768, "heads": 12, "groups": 12, "hidden": 2048, "vocabulary": 16384}
_LLAMA = {"": (_WIDE, _SMALL, _NARROW)}
SIZES: dict[str, dict[str, tuple[Any, ...]]] = {  # of each builder, what is drawn from; "": several sizes at once
    "vision.alexnet": {"batch": (8, 16, 32, 48, 96, 192, 256), "image": (192, 224, 256)},
    "vision.vgg16": {"batch": (1, 2, 3, 6, 8), "image": (160, 192, 224, 256)},
    "vision.resnet50": {"batch": (4, 8, 16, 24, 64), "image": (160, 192, 224, 288)},
    "assorted.wavenet": {
        "batch": (1, 2, 4, 8), "length": (4096, 8192, 16384), "channels": (64, 96, 128, 192), "stacks": (1, 2),
        "depth": (5, 6, 8, 10),
    },
    "unet.unet": {
        "batch": (1, 2, 4), "image": (192, 256, 384, 512),
        "widths": ((64, 128, 256, 512), (32, 64, 128, 256), (48, 96, 192, 384), (64, 128, 256)),
    },
    "unet.unet_training": {
        "batch": (1, 2, 4, 8), "image": (64, 96, 128), "widths": ((64, 128, 256), (96, 192), (64, 128)),
    },
    "unet.diffusion_step": {
        "batch": (1, 2, 4), "image": (16, 32, 64), "widths": ((128, 256), (192, 384), (256, 512)), "blocks": (1,),
    },
    "transformer.gpt2_training": {
        "batch": (1, 2, 4, 8), "length": (128, 256, 512, 1024), "layers": (2, 3), "vocabulary": (8192, 16384, 32000),
    },
    "recurrent.lstm": {
        "batch": (8, 16, 32, 64, 128), "steps": (16, 32, 96), "width": (512, 768, 1280, 2048), "layers": (1, 2, 3),
    },
    "recurrent.lstm_training": {"batch": (16, 32, 64), "steps": (16, 24, 48), "width": (512, 768, 1280, 1536)},
    "recurrent.tied_loop": {
        "batch": (16, 32, 128, 512), "steps": (4, 8, 12, 24), "width": (1024, 1536, 2048, 3072),
        "hidden": (2816, 4096, 6912),
    },
    "llama.prefill": {"batch": (1, 2, 4), "length": (128, 256, 512, 1024), "layers": (2, 3, 4, 6), **_LLAMA},
    "llama.expert_decode": {
        "batch": (4, 8, 32, 64), "context": (512, 1024, 2048), "layers": (2, 3, 4), "experts": (4, 8, 16),
        "chosen": (1, 2), **_LLAMA,
    },
    "assorted.mlp": {
        "batch": (8, 16, 128, 256, 1024, 4096),
        "widths": ((2048,) * 17, (3072, 6144) * 5, (4096,) * 7, (2560,) * 25, (8192, 1024) * 6, (1024,) * 40),
    },
    "assorted.dlrm": {
        "batch": (256, 512, 1024, 4096), "tables": (8, 13, 26, 40), "rows": (5_000, 20_000, 40_000),
        "width": (64, 128), "bottom": ((512, 256), (1024, 512, 256)), "top": ((1024, 1024, 512, 256), (512, 256)),
    },
    "drawn.sequence": {"seed": tuple(range(1000)), "training": (False, True)},
    "drawn.image": {"seed": tuple(range(1000)), "training": (False, True)},
    "drawn.loop": {"seed": tuple(range(1000))},
}  # fmt: skip
DRAWS = 40  # of each builder: more than are captured


def _workloads() -> dict[str, Workload]:
    """Return programs of each builder at drawn sizes, the first of each builder first."""
    found = {}
    for number in range(DRAWS):
        for where, choices in SIZES.items():
            sizes = _drawn(np.random.default_rng([number, *where.encode()]), choices)
            name = f"{where.partition('.')[2]}_{number}"
            build = partial(_build, where, sizes)
            donated = (0, 1) if "training" in where or sizes.get("training") else (3,) if "decode" in where else ()
            found[name] = Workload(
                name=name, summary=name, family="", split="train", build=build, donate_argnums=donated
            )
    return found


def _drawn(random: np.random.Generator, choices: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Return one choice of each size; what stands under ``""`` is several sizes at once."""
    sizes = {name: values[int(random.integers(len(values)))] for name, values in choices.items()}
    return {**sizes.pop("", {}), **sizes}


def _build(where: str, sizes: dict[str, Any]) -> tuple[Any, tuple[Any, ...]]:
    module, _, function = where.partition(".")
    if module == "drawn":
        return getattr(import_module("tests.benchmarks.muzero_models"), function)(**sizes)  # type: ignore[no-any-return]
    return build_program(module, function, **sizes)


MODELS = _workloads()  # by name, as ``capture`` looks programs up


def main() -> None:
    """Write what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--captures", type=int, default=360, help="of the list, 0: none (they need libtpu)")
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
    asked = [(name, chips[(i + i // len(SIZES)) % 3]) for i, name in enumerate(MODELS)][:most]
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
