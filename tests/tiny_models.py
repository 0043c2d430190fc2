"""Networks small enough to be built anew for a test."""

import keras
import numpy as np

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
