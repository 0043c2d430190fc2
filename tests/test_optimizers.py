import keras
import numpy as np
import pytest
import tensorflow as tf

from artifact_remover.config import GeneratorConfig
from artifact_remover.generator import build_generator
from artifact_remover.training.optimizers import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(288, 16), (9, 16), (40, 40)])
def test_singular_vectors_are_kept_and_values_made_alike(shape):
    matrix = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    result = left.T @ orthogonalize(tf.constant(matrix * 1e-4)).numpy() @ right.T
    kept = values > 0.05 * values[0]
    assert (np.diag(result)[kept] > 0.5).all() and (np.diag(result)[kept] < 1.3).all()
    assert abs(result - np.diag(np.diag(result))).max() < 0.01


def test_no_gradient_is_no_step():
    assert not orthogonalize(tf.zeros([18, 4])).numpy().any()


@pytest.fixture
def generator():
    keras.utils.set_random_seed(0)
    return build_generator(GeneratorConfig(features=8, growth=4, blocks=1))


def step(generator, optimizer):
    """Takes one step on random gradients; returns by how much each variable moved."""
    variables = generator.trainable_variables
    optimizer.build(variables)
    before = [variable.numpy() for variable in variables]
    rng = np.random.default_rng(1)
    optimizer.apply([tf.constant(rng.standard_normal(each.shape), tf.float32) for each in before], variables)
    pairs = zip(variables, before, strict=True)
    return {variable.path: variable.numpy() - start for variable, start in pairs}


def test_hidden_kernels_move_by_muon_and_all_else_by_adam(generator):
    start = generator.get_weights()
    by_adam = step(generator, keras.optimizers.Adam(1e-2))
    generator.set_weights(start)
    by_muon = step(generator, Muon(1e-2))
    for path, moved in by_muon.items():
        alike = np.allclose(moved, by_adam[path], atol=1e-6)
        assert alike == ("shallow" in path or "correction" in path or "bias" in path), path


def test_a_step_of_muon_is_about_as_long_as_one_of_adam(generator):
    moved = step(generator, Muon(1e-2))
    lengths = [np.sqrt(np.square(moved[path]).mean()) for path in moved if "conv" in path and "kernel" in path]
    assert min(lengths) > 0.5 * 0.2e-2 and max(lengths) < 2 * 0.2e-2


def test_momentum_outlives_the_gradient(generator):
    optimizer = Muon(1e-2)
    step(generator, optimizer)
    variables = generator.trainable_variables
    before = [variable.numpy() for variable in variables]
    optimizer.apply([tf.zeros_like(variable) for variable in variables], variables)
    assert all(abs(variable.numpy() - start).max() > 0 for variable, start in zip(variables, before, strict=True))
