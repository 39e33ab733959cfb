"""Fit the network with PyTorch: Adam on the squared error, early stopping on held-out instances, best weights kept."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.data import Example
from mallocgame.baselines.neur2ro.device import import_torch, open_device
from mallocgame.baselines.neur2ro.network import PRESETS, Network, NetworkSize, SetEncoder, describe
from mallocgame.baselines.neur2ro.problem import TwoStageProblem
from mallocgame.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of a fit; ``size`` names the layer widths."""

    size: NetworkSize
    epochs: int = 300
    patience: int = 40  # epochs without a better held-out error before stopping
    batch_instances: int = 8
    batch_plans: int = 16  # of each instance, drawn anew at every step
    batch_scenarios: int = 32
    learning_rate: float = 3e-3
    final_learning_rate: float = 1e-5
    validation_fraction: float = 0.2  # of the instances
    item_l1: float = 0.0  # pulls per-item input weights to zero: fewer unstable neurons in the MILP
    seed: int = 12345
    seconds: float = math.inf  # wall-clock limit
    device: str = "cpu"  # of PyTorch
    threads: int = 1  # of PyTorch; batches are small, and its threads spin against other work when cores are shared


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """Errors after one epoch, in scaled label units."""

    epoch: int
    train_mse: float
    validation_mae: float
    seconds: float


def suited_preset(sample: Callable[[np.random.Generator], TwoStageProblem], wanted: str | None) -> str:
    """Return the preset to train with: the one wanted, else "coupled" where each plan item has a scenario item.

    Raises:
        InputError: an unknown preset, or a coupled one for a problem whose plan and scenario items differ in number.
    """
    if wanted is not None and wanted not in PRESETS:
        raise InputError(f"preset {wanted!r} is unknown; expected one of {', '.join(PRESETS)}")
    features = sample(np.random.default_rng(0)).features()
    pairs = features.x_map.items == features.xi_map.items
    if wanted is not None and PRESETS[wanted].coupled and not pairs:
        raise InputError(
            f"preset {wanted} needs as many scenario items as plan items; this problem has {features.xi_map.items} and "
            f"{features.x_map.items}; use preset knapsack"
        )
    return wanted or ("coupled" if pairs else "knapsack")


def _module(torch: Any, size: NetworkSize, example: Example) -> Any:
    """Return the network as a torch module over padded batches of instances I, plans P, scenarios S, items N."""
    nn = torch.nn
    x_width, xi_width = example.x_points.shape[2], example.xi_points.shape[2]

    class SetEncoder(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, inputs: int, features: int, item: tuple[int, int], post: tuple[int, int]) -> None:
            super().__init__()
            self.item_in = nn.Linear(inputs + features + 1, item[0], bias=False)
            self.item_out, self.post_in = nn.Linear(*item, bias=False), nn.Linear(item[1], post[0], bias=False)
            self.post_out = nn.Linear(*post, bias=False)
            self.inputs = inputs

        def static(self, items: Any) -> Any:
            """items [I, N, features] -> [I, 1, N, h], the part that neither plan nor scenario changes."""
            weights = self.item_in.weight
            return (items @ weights[:, self.inputs : -1].T + weights[:, -1])[:, None]

        def pool(self, hidden: Any, mask: Any) -> Any:
            """hidden [..., N, h], mask [I, 1(, 1), N] holding 1 or 1/n and 0 for padding."""
            pooled = (torch.relu(hidden) * mask[..., None]).sum(dim=-2)
            return self.post_out(torch.relu(self.post_in(self.item_out(pooled))))

    class Predictor(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            extra = x_width * (1 + xi_width) if size.coupled else 0
            self.x = SetEncoder(x_width, example.x_items.shape[1], size.x_item, size.x_post)
            self.xi = SetEncoder(xi_width + extra, example.xi_items.shape[1], size.xi_item, size.xi_post)
            self.value_x = nn.Linear(size.x_post[1], size.value, bias=False)
            self.value_xi = nn.Linear(size.xi_post[1], size.value)
            self.value_out = nn.Linear(size.value, 1)

        def forward(self, x: Any, x_items: Any, x_mask: Any, xi: Any, xi_items: Any, xi_mask: Any) -> Any:
            """x [I, P, N, wx], xi [I, S, N, wxi] -> scaled values [I, P, S]."""
            plan = self.x.pool(x @ self.x.item_in.weight[:, :x_width].T + self.x.static(x_items), x_mask)
            weights = self.xi.item_in.weight
            hidden = xi @ weights[:, :xi_width].T + self.xi.static(xi_items)
            if not size.coupled:
                scenario = self.xi.pool(hidden, xi_mask)[:, None]
            else:
                first = xi_width + x_width
                hidden = hidden[:, None] + (x @ weights[:, xi_width:first].T)[:, :, None]
                products = weights[:, first : first + x_width * xi_width].reshape(-1, x_width, xi_width)
                for b in range(xi_width):
                    slope = x @ products[:, :, b].T  # [I, P, N, h]
                    hidden = torch.addcmul(hidden, slope[:, :, None], xi[:, None, :, :, b : b + 1])
                scenario = self.xi.pool(hidden, xi_mask[:, None])
            return self.value_out(torch.relu(self.value_x(plan)[:, :, None] + self.value_xi(scenario))).squeeze(-1)

    return Predictor()


def _batch(torch: Any, examples: Sequence[Example], aggregation: str) -> tuple[Any, ...]:
    """Pad instances to the same number of items: (x, x_items, x_mask, xi, xi_items, xi_mask, labels)."""
    out: list[Any] = []
    for side in ("x", "xi"):
        points = [getattr(example, f"{side}_points") for example in examples]
        statics = [getattr(example, f"{side}_items") for example in examples]
        items = max(len(static) for static in statics)
        padded = np.zeros((len(points), len(points[0]), items, points[0].shape[2]), np.float32)
        features = np.zeros((len(points), items, statics[0].shape[1]), np.float32)
        mask = np.zeros((len(points), 1, items), np.float32)
        for k, (point, static) in enumerate(zip(points, statics, strict=True)):
            padded[k, :, : len(static)] = point
            features[k, : len(static)] = static
            mask[k, :, : len(static)] = 1.0 / len(static) if aggregation == "mean" else 1.0
        out += [torch.from_numpy(padded), torch.from_numpy(features), torch.from_numpy(mask)]
    out.append(torch.from_numpy(np.stack([example.labels for example in examples])))
    return tuple(out)


def _some(torch: Any, batch: tuple[Any, ...], plans: int, scenarios: int, rng: np.random.Generator) -> tuple[Any, ...]:
    """Return the batch at a random subset of its plans and scenarios."""
    x, x_items, x_mask, xi, xi_items, xi_mask, labels = batch
    p = torch.from_numpy(rng.permutation(x.shape[1])[:plans]).to(x.device)
    s = torch.from_numpy(rng.permutation(xi.shape[1])[:scenarios]).to(x.device)
    return x[:, p], x_items, x_mask, xi[:, s], xi_items, xi_mask, labels[:, p][:, :, s]


def _moved(batches: Sequence[tuple[Any, ...]], device: Any) -> list[tuple[Any, ...]]:
    return [tuple(tensor.to(device) for tensor in batch) for batch in batches]


def train(
    examples: Sequence[Example],
    config: TrainConfig,
    about: dict[str, Any],
    *,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[Network, list[Epoch]]:
    """Fit a network and return it (best held-out weights) with the history.

    Args:
        examples: from ``data``; instances may differ in their number of items.
        config: settings.
        about: JSON stored with the network (problem, data).
        on_epoch: called after each epoch.

    Raises:
        InputError: fewer than two instances, no finite label, or a device that cannot be used.
        MissingExtraError: PyTorch is not installed.
    """
    torch, device = import_torch(), open_device(config.device)
    if len(examples) < 2 or not any(np.isfinite(example.labels).any() for example in examples):
        raise InputError("training needs at least two instances with finite labels")
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    order = rng.permutation(len(examples))
    held_out = max(1, round(config.validation_fraction * len(examples)))
    by_size = sorted(order[held_out:], key=lambda k: len(examples[k].x_items))
    fit = [
        _batch(torch, [examples[k] for k in by_size[s : s + config.batch_instances]], config.size.aggregation)
        for s in range(0, len(by_size), config.batch_instances)
    ]
    validation = [_batch(torch, [examples[k]], config.size.aggregation) for k in order[:held_out]]
    fit, validation = _moved(fit, device), _moved(validation, device)
    model = _module(torch, config.size, examples[0]).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    decay = (config.final_learning_rate / config.learning_rate) ** (1.0 / max(1, config.epochs * len(fit)))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, decay)
    history: list[Epoch] = []
    best_mae, best_state, best_epoch = math.inf, model.state_dict(), 0
    began = time.perf_counter()
    for epoch in range(1, config.epochs + 1):
        model.train()
        total = 0.0
        for b in rng.permutation(len(fit)):
            *inputs, labels = _some(torch, fit[b], config.batch_plans, config.batch_scenarios, rng)
            optimiser.zero_grad()
            known = torch.isfinite(labels)
            error = torch.where(known, model(*inputs) - torch.nan_to_num(labels), labels.new_zeros(()))
            loss = error.square().sum() / known.sum().clamp(min=1)
            total += float(loss.detach())
            if config.item_l1:
                loss = loss + config.item_l1 * (
                    model.x.item_in.weight.abs().sum() + model.xi.item_in.weight.abs().sum()
                )
            loss.backward()
            optimiser.step()
            schedule.step()
        mae = _mean_absolute_error(torch, model, validation)
        elapsed = time.perf_counter() - began
        history.append(Epoch(epoch=epoch, train_mse=total / len(fit), validation_mae=mae, seconds=elapsed))
        on_epoch(history[-1])
        if mae < best_mae:
            best_mae, best_epoch = mae, epoch
            best_state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if epoch - best_epoch >= config.patience or elapsed > config.seconds:
            break
    if not math.isfinite(best_mae):
        raise InputError("training diverged: the held-out error is not finite; lower the learning rate")
    settings = {
        key: value for key, value in asdict(config).items() if key not in ("size", "seconds", "threads", "device")
    }
    facts = {
        **about,
        "size": describe(config.size),
        "training": settings,
        "validation_mae_scaled": best_mae,
        "epochs_run": len(history),
        "training_seconds": round(history[-1].seconds, 1),
    }
    return _network(best_state, config.size, facts), history


def _mean_absolute_error(torch: Any, model: Any, batches: Sequence[tuple[Any, ...]]) -> float:
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for *inputs, labels in batches:
            known = torch.isfinite(labels)
            error = torch.where(known, model(*inputs) - torch.nan_to_num(labels), labels.new_zeros(()))
            total += float(error.abs().sum())
            count += int(known.sum())
    return total / max(1, count)


def _network(state: dict[str, Any], size: NetworkSize, about: dict[str, Any]) -> Network:
    def array(name: str) -> npt.NDArray[np.float64]:
        return np.asarray(state[name].cpu().numpy(), np.float64)

    sides = {
        side: SetEncoder(
            item_in=array(f"{side}.item_in.weight"),
            item_out=array(f"{side}.item_out.weight"),
            post_in=array(f"{side}.post_in.weight"),
            post_out=array(f"{side}.post_out.weight"),
        )
        for side in ("x", "xi")
    }
    return Network(
        x=sides["x"],
        xi=sides["xi"],
        value_x=array("value_x.weight"),
        value_xi=array("value_xi.weight"),
        value_bias=array("value_xi.bias"),
        value_out=array("value_out.weight")[0],
        out_bias=float(array("value_out.bias")[0]),
        aggregation=size.aggregation,
        coupled=size.coupled,
        about=about,
    )
