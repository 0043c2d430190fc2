import keras
import numpy as np
import pytest
import tensorflow as tf

from artifact_remover.config import DiscriminatorConfig, GanLossConfig, GeneratorConfig, LossConfig
from artifact_remover.discriminator import build_discriminator, recover_spectral_vectors
from artifact_remover.generator import build_generator
from artifact_remover.training import gan as gan_module
from artifact_remover.training.gan import (
    ArtifactRemovalGAN,
    DiscriminatorPretraining,
    GeneratorObjective,
    GeneratorPretraining,
)
from artifact_remover.training.losses import perceptual_loss
from tests.tiny_models import make_stand_in

TINY = GeneratorConfig(features=8, growth=4, blocks=1)
TINY_DISCRIMINATOR = DiscriminatorConfig(features=4)
LOSS = GanLossConfig()


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


@pytest.fixture
def batch():
    clean = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
    return tf.constant(clean + 0.1 * np.sin(np.arange(16, dtype=np.float32))[:, None]), tf.constant(clean)


@pytest.fixture
def features():
    """A stand-in for VGG19."""
    picture = keras.Input([None, None, 3])
    return keras.Model(picture, keras.layers.Conv2D(4, 3, strides=2, trainable=False)(picture))


@pytest.fixture
def distance(features):
    return lambda clean, restored, counts=1.0: perceptual_loss(features(clean), features(restored), counts)


def adam(rate=1e-3):
    return keras.optimizers.Adam(rate, global_clipnorm=0.1)


def make_pretraining(loss=LossConfig(), distance=None):  # noqa: B008
    trainer = GeneratorPretraining(make_stand_in(), loss, distance)
    trainer.compile(optimizer=adam())
    trainer.optimizer.build(trainer.generator.trainable_variables)
    return trainer


def make_gan(distance=None, loss=LOSS, optimizers=None):
    generator, averaged = make_stand_in(), make_stand_in()
    averaged.set_weights(generator.get_weights())
    discriminator = build_discriminator(TINY_DISCRIMINATOR)
    gan = ArtifactRemovalGAN(generator, averaged, discriminator, loss, distance)
    gan.compile(*(optimizers or (adam(), adam())))
    return gan


def weights(network):
    return np.concatenate([weight.ravel() for weight in network.get_weights()])


def settle(discriminator):
    """Brings the norm of each kernel to one, so that training mode changes it no more."""
    recover_spectral_vectors(discriminator)
    discriminator(tf.zeros([1, 8, 8, 3]), training=True)


def endless(batch):
    return tf.data.Dataset.from_tensors(batch).repeat()


def test_pretraining_lowers_the_loss(batch):
    trainer = make_pretraining()
    step = tf.function(trainer.train_step, autograph=False)
    losses = [float(step(batch)["loss"]) for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]


def test_pretraining_reports_every_term_and_the_weighted_sum(batch, distance):
    loss = LossConfig(pixel=2.0, perceptual=0.5)
    terms = make_pretraining(loss, distance).train_step(batch)
    assert set(terms) == {"loss", "pixel", "perceptual", "gradient_norm"}
    np.testing.assert_allclose(terms["loss"], 2.0 * terms["pixel"] + 0.5 * terms["perceptual"], rtol=1e-6)
    assert {value.dtype for value in terms.values()} == {tf.float32}


def test_pretraining_without_features_has_no_perceptual_term(batch):
    terms = make_pretraining().train_step(batch)
    assert set(terms) == {"loss", "pixel", "gradient_norm"} and terms["loss"] == terms["pixel"]


def test_features_that_weigh_nothing_are_not_computed(batch):
    def distance(clean, restored, counts):
        pytest.fail("VGG19 was run")

    terms = make_pretraining(LossConfig(perceptual=0.0), distance).train_step(batch)
    assert set(terms) == {"loss", "pixel", "gradient_norm"} and terms["loss"] == terms["pixel"]


def test_pretraining_changes_no_feature(batch, features, distance):
    before = weights(features)
    make_pretraining(LossConfig(pixel=0.0, perceptual=1.0), distance).train_step(batch)
    np.testing.assert_array_equal(weights(features), before)


def test_perceptual_term_is_of_the_first_patches_only(batch, distance):
    degraded, clean = batch
    objective = GeneratorObjective(LossConfig(perceptual_patches=1), distance)
    expected = GeneratorObjective(LossConfig(), distance)(clean[:1], degraded[:1], 0)["perceptual"]
    np.testing.assert_allclose(objective(clean, degraded, 0)["perceptual"], expected, rtol=1e-5)


def test_perceptual_term_looks_at_the_same_crop_of_both_and_at_another_each_step():
    image = np.random.default_rng(0).random((2, 48, 40, 3), np.float32)
    seen = []

    def distance(clean, restored, counts):
        np.testing.assert_array_equal(clean, restored)
        seen.append(clean.numpy())
        return tf.reduce_mean(clean)

    objective = GeneratorObjective(LossConfig(perceptual_crop=16), distance)
    for step in (0, 1, 2, 3, 0):
        objective(tf.constant(image), tf.constant(image), step)
    assert {crop.shape for crop in seen} == {(2, 16, 16, 3)}
    assert len({crop.tobytes() for crop in seen}) == 4 and np.array_equal(seen[0], seen[4])


@pytest.mark.parametrize("name", ["log_mse", "rmse"])
def test_the_floor_is_the_configs(batch, name):
    losses = [GeneratorObjective(LossConfig(pixel_loss=name, floor=floor), None)(*batch, 0) for floor in (1e-4, 1e-2)]
    assert losses[0]["pixel"] > 1.1 * losses[1]["pixel"]


def test_gan_step_changes_both_networks_and_the_average(batch):
    gan = make_gan()
    networks = gan.generator, gan.averaged_generator, gan.discriminator
    before = [weights(network) for network in networks]
    gan.train_step(batch)
    assert all(np.any(weights(network) != kept) for network, kept in zip(networks, before, strict=True))


def test_gan_step_reports_every_term_and_the_weighted_sum(batch, distance):
    loss = GanLossConfig(pixel=2.0, perceptual=0.5, adversarial=0.1, drift=3.0, grid=30.0, blocking=2.0)
    terms = make_gan(distance, loss).train_step(batch)
    measured = {"discriminator_loss", "accuracy_clean", "accuracy_restored", "discriminator_gradient_norm"}
    generators = {
        "loss",
        "pixel",
        "perceptual",
        "adversarial",
        "drift",
        "grid",
        "blocking",
        "gradient_norm",
        "generator_steps",
    }
    assert set(terms) == measured | generators and terms["generator_steps"] == 1
    parts = 2.0 * terms["pixel"] + 0.5 * terms["perceptual"] + 0.1 * terms["adversarial"]
    parts += 3.0 * terms["drift"] + 30.0 * terms["grid"] + 2.0 * terms["blocking"]
    np.testing.assert_allclose(terms["loss"], parts, rtol=1e-6)


def test_closed_gate_keeps_the_generator_from_stepping(batch, distance, monkeypatch):
    monkeypatch.setattr(gan_module, "GATE", 1e-9)
    gan = make_gan(distance)
    before = [weights(network) for network in (gan.generator, gan.averaged_generator, gan.discriminator)]
    terms = gan.train_step(batch)
    np.testing.assert_array_equal(weights(gan.generator), before[0])
    np.testing.assert_array_equal(weights(gan.averaged_generator), before[1])
    assert np.any(weights(gan.discriminator) != before[2])
    skipped = {"loss", "pixel", "perceptual", "adversarial", "drift", "grid", "blocking", "gradient_norm"}
    assert {name for name, value in terms.items() if np.isnan(value)} == skipped
    assert terms["generator_steps"] == 0 and gan.optimizer.iterations == 0


def test_generator_step_leaves_the_discriminator_to_its_own_step(batch):
    gan = make_gan()
    alone = build_discriminator(TINY_DISCRIMINATOR)
    alone.set_weights(gan.discriminator.get_weights())
    trainer = DiscriminatorPretraining(alone, gan.generator)
    trainer.compile(optimizer=adam())
    for each in (trainer, gan):
        tf.random.set_seed(1)
        each.train_step(batch)
    np.testing.assert_array_equal(weights(gan.discriminator), weights(alone))


def test_optimizer_is_the_generators_and_each_keeps_to_its_network():
    gan = make_gan(optimizers=(adam(1e-3), adam(2e-3)))
    rates = [float(each.learning_rate) for each in (gan.optimizer, gan.discriminator_optimizer)]
    assert rates == pytest.approx([1e-3, 2e-3])
    moments = [len(each.variables) - 2 for each in (gan.optimizer, gan.discriminator_optimizer)]  # - step, rate
    networks = gan.generator, gan.discriminator
    assert moments == [2 * len(network.trainable_variables) for network in networks]


def test_average_follows_its_formula(batch, monkeypatch):
    monkeypatch.setattr(gan_module, "AVERAGE_DECAY", 0.3)
    gan = make_gan()
    expected = weights(gan.averaged_generator)
    for step in range(1, 5):
        gan.train_step(batch)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights(gan.generator)
    np.testing.assert_allclose(weights(gan.averaged_generator), expected, rtol=1e-5, atol=1e-7)


def test_adversarial_term_pulls_restored_patches_towards_clean(batch):
    only_adversarial = GanLossConfig(pixel=0.0, adversarial=1.0)
    gan = make_gan(loss=only_adversarial, optimizers=(adam(3e-3), keras.optimizers.SGD(1e-12)))
    settle(gan.discriminator)  # else its logits would move on their own

    def judge():
        return float(tf.reduce_mean(gan.discriminator(gan.generator(batch[0]))))

    before = judge()
    for _ in range(4):
        gan.train_step(batch)
    assert judge() > before


def test_discriminator_learns_to_tell_another_generator_apart(batch):
    discriminator, generator = build_discriminator(TINY_DISCRIMINATOR), make_stand_in()
    generator.get_layer("correction").bias.assign(3 * [0.5])  # restores everything half the range too bright
    before = weights(generator)
    trainer = DiscriminatorPretraining(discriminator, generator)
    trainer.compile(optimizer=adam(1e-2))
    trainer.optimizer.build(discriminator.trainable_variables)
    step = tf.function(trainer.train_step, autograph=False)
    for _ in range(60):
        terms = step(batch)
    assert terms["accuracy_clean"] > 0.9 and terms["accuracy_restored"] > 0.9
    assert terms["discriminator_loss"] < 0.6
    np.testing.assert_array_equal(weights(generator), before)


def test_discriminator_is_trained_on_noisy_patches(batch):
    """Else that clean values are multiples of 1/255 would give restored ones away."""
    trainer = DiscriminatorPretraining(build_discriminator(TINY_DISCRIMINATOR), make_stand_in())
    trainer.compile(optimizer=keras.optimizers.SGD(1e-12))
    settle(trainer.discriminator)
    assert trainer.train_step(batch)["discriminator_loss"] != trainer.train_step(batch)["discriminator_loss"]


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_twenty_steps_of_the_real_networks_stay_finite(batch, distance, dtype):
    generator, averaged = build_generator(TINY, dtype), build_generator(TINY)
    averaged.set_weights(generator.get_weights())
    discriminator = build_discriminator(TINY_DISCRIMINATOR, dtype)
    gan = ArtifactRemovalGAN(generator, averaged, discriminator, LOSS, distance)
    gan.compile(adam(), adam())
    step = tf.function(gan.train_step, autograph=False)
    for _ in range(20):
        terms = step(batch)
    assert all(np.isfinite(value) for value in terms.values())
    assert np.isfinite(weights(gan.averaged_generator)).all()
    assert terms["pixel"] < 0.05


@pytest.mark.parametrize("make", [make_pretraining, make_gan])
def test_works_under_keras_fit(batch, make):
    history = make().fit(endless(batch), epochs=2, steps_per_epoch=3, shuffle=False, verbose=0).history
    assert {"loss", "pixel", "gradient_norm"} <= set(history)
    assert np.isfinite(history["loss"]).all() and history["loss"][1] < history["loss"][0]


def test_state_survives_a_checkpoint_with_both_optimizers(batch, tmp_path):
    first, second = make_gan(), make_gan()
    first.train_step(batch)
    states = [
        tf.train.Checkpoint(
            networks=[gan.generator, gan.averaged_generator, gan.discriminator],
            optimizers=[gan.optimizer, gan.discriminator_optimizer],
        )
        for gan in (first, second)
    ]
    states[1].restore(states[0].save(str(tmp_path / "state"))).assert_consumed()
    for gan in (first, second):
        tf.random.set_seed(1)
        gan.train_step(batch)
    np.testing.assert_array_equal(weights(second.averaged_generator), weights(first.averaged_generator))
    np.testing.assert_array_equal(weights(second.discriminator), weights(first.discriminator))
