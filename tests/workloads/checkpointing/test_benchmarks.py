"""The benchmarks of ``mallocgame fit`` where there is no GPU: the script runs, the H100's table is met on paper."""

import json

import pytest

from mallocgame.cli import fitting
from mallocgame.workloads.checkpointing.chips import find_chip
from tests.benchmarks import fit_gpu
from tests.benchmarks.fit_probe import MEASURED, price_row


def test_the_gpu_script_runs_in_its_tiny_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_gpu, "REPEATS", 1)
    monkeypatch.setattr(fit_gpu, "BUDGETS", 1)
    monkeypatch.setattr(fitting, "JAX_POLICIES", ("nothing_saveable",))
    monkeypatch.setattr(fit_gpu, "_working_factor", lambda chip, size: 1.0)
    chip = fit_gpu.calibrate(find_chip("h100"), "tiny")
    assert 0 <= chip.in_overlap <= 1
    rows = fit_gpu.measure_model("recurrent", "tiny", chip, seconds=3600)  # a busy machine, too
    json.dumps(rows)
    found = fit_gpu.summary(rows)
    assert found["runs"] >= 4
    assert found["left_out"] == 0
    assert found["plans"] >= 1
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 0 for row in rows)


@pytest.mark.parametrize("policy", ["recompute all", "dots_with_no_batch_dims_saveable", "save qkv, offload hidden"])
def test_the_measured_table_is_met_on_paper(policy: str) -> None:
    """Within the goals of docs/fit.md: 10 % of time, 5 % of peak."""
    milliseconds, gigabytes = MEASURED[policy]
    price = price_row(policy, find_chip("h100"))
    assert milliseconds is not None
    assert gigabytes is not None
    assert price.seconds * 1e3 == pytest.approx(milliseconds, rel=0.10)
    assert price.peak_bytes / 1e9 == pytest.approx(gigabytes, rel=0.05)
