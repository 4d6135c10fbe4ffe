"""Networks of dense layers only: the course's first steps, on MNIST and on cats and dogs."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from models import ModelSpec, heads
from models.assembly import compose
from models.freezing import batch_normalization
from models.subclassed import ThreePartModel

MNIST_UNITS = (512, 256, 128, 32)
CAT_DOG_UNITS = (1024, 512, 128, 32, 8, 3)
BALANCED_INPUTS = 1024


def plain_mlp(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """Four hidden layers (512-256-128-32) with ReLU, for 28 px grey pictures.

    Weights and biases everywhere, no BatchNorm, He initialisation; `transfer` changes nothing.
    """
    features = backbone(image_size, spec.channels, MNIST_UNITS)
    return compose(spec, image_size, features, heads.linear(features, num_classes))


def deep_mlp(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """Six hidden layers (1024-512-128-32-8-3) with ReLU, for 128 px RGB pictures of cats and dogs.

    50 million weights see each pixel on its own, which is the lesson. No BatchNorm, He initialisation; `transfer`
    changes nothing.
    """
    features = backbone(image_size, spec.channels, CAT_DOG_UNITS)
    return compose(spec, image_size, features, heads.linear(features, num_classes))


def bn_mlp(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """`plain_mlp` with BatchNorm before each ReLU (Ioffe and Szegedy 2015, arXiv:1502.03167): a `BatchNormMLP`."""
    shape = (image_size, image_size, spec.channels)
    return BatchNormMLP(shape, MNIST_UNITS, num_classes, spec.preprocessing, transfer, name=spec.name)


@keras.saving.register_keras_serializable(package="darkroom")
class BatchNormMLP(ThreePartModel):
    """Dense layers without bias, each followed by BatchNorm and ReLU, then logits; written as a subclassed model.

    BatchNorm's beta takes the place of the bias. Momentum 0.9: with Keras's 0.99 the statistics lag for epochs on a
    few thousand pictures. Epsilon 1e-3, Keras's. The arguments are those of `ThreePartModel`.
    """

    def make_backbone(self, input_size: tuple[int, int, int], units: tuple[int, ...], transfer: bool) -> keras.Model:
        """Flattened pixels through dense layers with BatchNorm and ReLU."""
        dtype = self.dtype_policy
        stack: list[keras.layers.Layer] = [layers.Flatten(name="flatten", dtype=dtype)]
        for i, width in enumerate(units, start=1):
            stack += [
                layers.Dense(width, use_bias=False, kernel_initializer="he_normal", name=f"hidden{i}", dtype=dtype),
                batch_normalization(transfer, momentum=0.9, name=f"hidden{i}_bn", dtype=dtype),
                layers.ReLU(name=f"hidden{i}_relu", dtype=dtype),
            ]
        return keras.Sequential([keras.Input(tuple(input_size), name="preprocessed"), *stack], name="backbone")

    def make_head(self, num_classes: int) -> keras.Model:
        """One dense layer of logits."""
        return heads.linear(self.backbone, num_classes)


def backbone(image_size: int, channels: int, units: tuple[int, ...], dtype: Any = None) -> keras.Model:
    """Flattened pixels through dense layers with ReLU; of more than 1,024 numbers, each is made smaller.

    Adam moves every weight by the learning rate whatever the gradient's size, and weights that see the same picture
    move together: at 1e-4 one step moves the sum of a unit over 49,152 numbers (128 px RGB) by 2, three times what it
    is. Two networks for cats and dogs learnt nothing but that noise: the deep one stayed at chance for 5 epochs, and
    the brightness of pictures was guessed worse (mean error 0.14) than by a constant (0.08).
    So the numbers of a larger picture are divided by how many times 1,024 they are, and the first weights are drawn
    larger by the same factor: the function is the same, its steps are those of a layer with 1,024 inputs. That is the
    rule of step sizes in proportion to 1 / inputs for Adam (Yang et al. 2022, arXiv:2203.03466, table 3).
    """
    inputs = keras.Input((image_size, image_size, channels), name="preprocessed")
    x = layers.Flatten(name="flatten", dtype=dtype)(inputs)
    factor = max(1.0, x.shape[-1] / BALANCED_INPUTS)
    x = layers.Rescaling(1 / factor, name="balanced", dtype=dtype)(x)
    for i, width in enumerate(units, start=1):
        # He initialisation, of numbers that were divided by the factor.
        initializer = keras.initializers.VarianceScaling(2.0 * (factor**2 if i == 1 else 1.0))
        x = layers.Dense(width, activation="relu", kernel_initializer=initializer, name=f"hidden{i}", dtype=dtype)(x)
    return keras.Model(inputs, x, name="backbone")
