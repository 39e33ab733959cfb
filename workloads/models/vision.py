"""Convolutional classifiers: AlexNet, VGG-16, ResNet-50, MobileNetV2."""

import jax
import jax.numpy as jnp
from jax import Array

from mallocgame.workloads.models.layers import (
    Parameter,
    Program,
    batch_norm,
    conv,
    cross_entropy,
    dense,
    inference,
    max_pool,
    spec,
)
from mallocgame.workloads.models.training import momentum_step


def alexnet(*, batch: int, image: int = 224, classes: int = 1000) -> Program:
    """AlexNet inference, one-tower layout without local response normalisation (Krizhevsky, arXiv:1404.5997)."""

    def network(parameter: Parameter, x: Array) -> Array:
        x = jax.nn.relu(conv(parameter, "conv1", x, 64, (11, 11), stride=4, padding=[(2, 2), (2, 2)], bias=True))
        x = max_pool(x, 3, 2)
        x = max_pool(jax.nn.relu(conv(parameter, "conv2", x, 192, (5, 5), bias=True)), 3, 2)
        for index, features in enumerate((384, 256, 256), start=3):
            x = jax.nn.relu(conv(parameter, f"conv{index}", x, features, (3, 3), bias=True))
        x = max_pool(x, 3, 2)
        return _classifier(parameter, x, classes)

    return inference(network, spec(batch, image, image, 3))


def vgg16(*, batch: int, image: int = 224, classes: int = 1000) -> Program:
    """VGG-16 inference (Simonyan and Zisserman, arXiv:1409.1556)."""

    def network(parameter: Parameter, x: Array) -> Array:
        for stage, (features, repeats) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
            for index in range(repeats):
                x = jax.nn.relu(conv(parameter, f"stage{stage}.conv{index}", x, features, (3, 3), bias=True))
            x = max_pool(x, 2, 2)
        return _classifier(parameter, x, classes)

    return inference(network, spec(batch, image, image, 3))


def resnet50(*, batch: int, image: int = 224, classes: int = 1000) -> Program:
    """ResNet-50 inference (He et al., arXiv:1512.03385)."""

    def network(parameter: Parameter, x: Array) -> Array:
        return _resnet50(parameter, x, classes, training=False)

    return inference(network, spec(batch, image, image, 3))


def resnet50_training(*, batch: int, image: int = 224, classes: int = 1000) -> Program:
    """One ResNet-50 training step, SGD with momentum; running statistics are left out."""

    def loss(parameter: Parameter, x: Array, labels: Array) -> Array:
        return cross_entropy(_resnet50(parameter, x, classes, training=True), labels)

    return momentum_step(loss, spec(batch, image, image, 3), spec(batch, dtype=jnp.int32))


def mobilenet(*, batch: int, image: int = 224, classes: int = 1000) -> Program:
    """MobileNetV2 inference (Sandler et al., arXiv:1801.04381)."""
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

    def network(parameter: Parameter, x: Array) -> Array:
        def block(name: str, x: Array, features: int, kernel: int, *, stride: int = 1, groups: int = 1) -> Array:
            y = conv(parameter, name, x, features, (kernel, kernel), stride=stride, groups=groups)
            return batch_norm(parameter, f"{name}.norm", y, training=False)

        x = jax.nn.relu6(block("stem", x, 32, 3, stride=2))
        for stage, (expansion, features, repeats, first_stride) in enumerate(stages):
            for index in range(repeats):
                name = f"stage{stage}.block{index}"
                stride = first_stride if index == 0 else 1
                wide = x.shape[-1] * expansion
                y = jax.nn.relu6(block(f"{name}.expand", x, wide, 1)) if expansion > 1 else x
                y = jax.nn.relu6(block(f"{name}.depthwise", y, wide, 3, stride=stride, groups=wide))
                y = block(f"{name}.project", y, features, 1)
                x = x + y if x.shape == y.shape else y
        x = jax.nn.relu6(block("head", x, 1280, 1))
        return dense(parameter, "classifier", jnp.mean(x, axis=(1, 2)), classes)

    return inference(network, spec(batch, image, image, 3))


def _classifier(parameter: Parameter, x: Array, classes: int) -> Array:
    x = x.reshape(x.shape[0], -1)
    x = jax.nn.relu(dense(parameter, "dense1", x, 4096))
    x = jax.nn.relu(dense(parameter, "dense2", x, 4096))
    return dense(parameter, "dense3", x, classes)


def _resnet50(parameter: Parameter, x: Array, classes: int, *, training: bool) -> Array:
    def block(name: str, x: Array, features: int, kernel: int, stride: int = 1) -> Array:
        y = conv(parameter, name, x, features, (kernel, kernel), stride=stride)
        return batch_norm(parameter, f"{name}.norm", y, training=training)

    x = max_pool(jax.nn.relu(block("stem", x, 64, 7, 2)), 3, 2, "SAME")
    for stage, (features, repeats) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for index in range(repeats):
            name = f"stage{stage}.block{index}"
            stride = 2 if stage > 0 and index == 0 else 1
            y = jax.nn.relu(block(f"{name}.conv1", x, features, 1))
            y = jax.nn.relu(block(f"{name}.conv2", y, features, 3, stride))
            y = block(f"{name}.conv3", y, 4 * features, 1)
            shortcut = x if x.shape == y.shape else block(f"{name}.shortcut", x, 4 * features, 1, stride)
            x = jax.nn.relu(y + shortcut)
    return dense(parameter, "classifier", jnp.mean(x, axis=(1, 2)), classes)
