"""One-off programs: MLP, DLRM, WaveNet-like audio, a relational graph network, fast block matrix multiplication."""

from collections.abc import Sequence
from functools import reduce

import jax
import jax.numpy as jnp
from jax import Array

from mallocgame.workloads.models.layers import ACTIVATION, Parameter, Program, conv, dense, inference, layer_norm, spec

Blocks = list[Array]


def mlp(*, batch: int, widths: Sequence[int]) -> Program:
    """A plain multi-layer perceptron, inference."""

    def network(parameter: Parameter, x: Array) -> Array:
        return _perceptron(parameter, "layer", x, widths)

    return inference(network, spec(batch, widths[0]))


def dlrm(
    *, batch: int, tables: int, rows: int, width: int, bottom: Sequence[int], top: Sequence[int], numeric: int = 13
) -> Program:
    """Recommendation model, inference: embeddings, pairwise dot products, two perceptrons (arXiv:1906.00091)."""

    def network(parameter: Parameter, x: Array, categories: Array) -> Array:
        features = [_perceptron(parameter, "bottom", x, (*bottom, width))]
        for index in range(tables):
            table = parameter(f"table{index}", (rows, width))
            features.append(jnp.take(table, categories[index], axis=0, mode="clip"))
        stacked = jnp.stack(features, axis=1)
        products = jnp.einsum("bid,bjd->bij", stacked, stacked).reshape(batch, -1)
        x = jnp.concatenate([features[0], products], axis=-1)
        return dense(parameter, "click", _perceptron(parameter, "top", x, top), 1)

    return inference(network, spec(batch, numeric), spec(tables, batch, dtype=jnp.int32))


def wavenet(*, batch: int, length: int, channels: int, stacks: int, depth: int, levels: int = 256) -> Program:
    """WaveNet-like audio model: gated dilated causal convolutions, residuals, summed skips (arXiv:1609.03499)."""

    def network(parameter: Parameter, x: Array) -> Array:
        x = dense(parameter, "stem", x, channels)
        skip = jnp.zeros_like(x)
        for index in range(stacks * depth):
            name, dilation = f"layer{index}", 2 ** (index % depth)
            y = conv(
                parameter,
                f"{name}.dilated",
                x,
                2 * channels,
                (2,),
                dilation=dilation,
                padding=[(dilation, 0)],
                bias=True,
            )
            filtered, gate = jnp.split(y, 2, axis=-1)
            y = jnp.tanh(filtered) * jax.nn.sigmoid(gate)
            skip = skip + dense(parameter, f"{name}.skip", y, channels)
            x = x + dense(parameter, f"{name}.residual", y, channels)
        y = jax.nn.relu(dense(parameter, "head", jax.nn.relu(skip), channels))
        return dense(parameter, "levels", y, levels)

    return inference(network, spec(batch, length, 1))


def graph_network(*, nodes: int, width: int, relations: int, layers: int) -> Program:
    """Relational message passing on a graph given by dense adjacency matrices (Schlichtkrull et al., arXiv:1703.06103).

    Every layer reads every adjacency matrix again. The program is `run(parameters, x[n, width], adjacency) -> x`.
    """

    def network(parameter: Parameter, x: Array, adjacency: list[Array]) -> Array:
        for layer in range(layers):
            name = f"layer{layer}"
            y = dense(parameter, f"{name}.self", x, width)
            for relation, matrix in enumerate(adjacency):
                y = y + matrix @ dense(parameter, f"{name}.relation{relation}", x, width, bias=False)
            x = x + jax.nn.relu(layer_norm(parameter, f"{name}.norm", y))
        return x

    return inference(network, spec(nodes, width), [spec(nodes, nodes)] * relations)


def strassen(*, size: int, levels: int) -> Program:
    """Strassen's block matrix multiplication, `levels` deep: 7 products a level (doi:10.1007/BF02165411)."""

    def run(left: Array, right: Array) -> Array:
        return _strassen(left, right, levels)

    return run, (spec(size, size), spec(size, size))


def winograd(*, size: int, levels: int) -> Program:
    """Winograd's variant of Strassen's algorithm: 7 products and 15 additions a level, with shared sums."""

    def run(left: Array, right: Array) -> Array:
        return _winograd(left, right, levels)

    return run, (spec(size, size), spec(size, size))


def _perceptron(parameter: Parameter, name: str, x: Array, widths: Sequence[int]) -> Array:
    return reduce(
        lambda x, layer: jax.nn.relu(dense(parameter, f"{name}{layer[0]}", x, layer[1])), enumerate(widths), x
    )


def _quarters(matrix: Array) -> Blocks:
    half = matrix.shape[0] // 2
    return [matrix[i : i + half, j : j + half] for i in (0, half) for j in (0, half)]


def _assemble(blocks: Blocks) -> Array:
    a, b, c, d = blocks
    return jnp.concatenate([jnp.concatenate([a, b], axis=1), jnp.concatenate([c, d], axis=1)], axis=0)


def _strassen(left: Array, right: Array, levels: int) -> Array:
    if levels == 0:
        return jnp.matmul(left, right, preferred_element_type=jnp.float32).astype(ACTIVATION)
    a11, a12, a21, a22 = _quarters(left)
    b11, b12, b21, b22 = _quarters(right)
    pairs = (
        (a11 + a22, b11 + b22),
        (a21 + a22, b11),
        (a11, b12 - b22),
        (a22, b21 - b11),
        (a11 + a12, b22),
        (a21 - a11, b11 + b12),
        (a12 - a22, b21 + b22),
    )
    m1, m2, m3, m4, m5, m6, m7 = (_strassen(a, b, levels - 1) for a, b in pairs)
    return _assemble([m1 + m4 - m5 + m7, m3 + m5, m2 + m4, m1 - m2 + m3 + m6])


def _winograd(left: Array, right: Array, levels: int) -> Array:
    if levels == 0:
        return jnp.matmul(left, right, preferred_element_type=jnp.float32).astype(ACTIVATION)
    a11, a12, a21, a22 = _quarters(left)
    b11, b12, b21, b22 = _quarters(right)
    s1, t1 = a21 + a22, b12 - b11
    s2, t2 = s1 - a11, b22 - t1
    s3, t3 = a11 - a21, b22 - b12
    s4, t4 = a12 - s2, t2 - b21
    pairs = ((a11, b11), (a12, b21), (s4, b22), (a22, t4), (s1, t1), (s2, t2), (s3, t3))
    p1, p2, p3, p4, p5, p6, p7 = (_winograd(a, b, levels - 1) for a, b in pairs)
    u2 = p1 + p6
    u3 = u2 + p7
    u4 = u2 + p5
    return _assemble([p1 + p2, u4 + p3, u3 - p4, u3 + p5])
