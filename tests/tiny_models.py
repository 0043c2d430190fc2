"""Networks small enough to be built anew for a test, and those of tiny runs."""

import keras
import numpy as np

from artifact_remover import saved_model
from artifact_remover.config import GeneratorConfig
from artifact_remover.generator import build_generator

TINY = GeneratorConfig(features=8, growth=4, blocks=1)


def make_generator(seed, config=TINY):
    """A generator that changes pixels by some levels, as far as it can see."""
    keras.utils.set_random_seed(seed)
    generator = build_generator(config)
    [kernel] = generator.get_layer("correction").weights
    kernel.assign(0.01 * np.random.default_rng(seed).standard_normal(kernel.shape))
    return generator


def load_generator(run, folder):
    """The generator of an export or a checkpoint folder of a run."""
    generator = build_generator(run.config.generator)
    saved_model.load_weights(generator, folder)
    return generator


def make_stand_in():
    """A stand-in for the generator, which is slow to trace: as untrained, its output is its input."""
    degraded = keras.Input([None, None, 3])
    grown = keras.layers.Conv2D(4, 3, padding="same", activation="leaky_relu")(degraded)
    correction = keras.layers.Conv2D(3, 3, padding="same", kernel_initializer="zeros", name="correction")(grown)
    return keras.Model(degraded, keras.layers.Add()([degraded, correction]), name="generator")
