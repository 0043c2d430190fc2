"""The three things that are trained: the generator alone, the discriminator alone, and both together.

NoGAN (Antic, Howard and Uri, "Decrappification, DeOldification, and Super Resolution", 2019): most of the learning
happens in the two calm stages, so that the GAN stage can be short and stopped before it does harm. Each class is a
`keras.Model` whose `train_step` takes a batch `(degraded, clean)`, both float32 [N, H, W, 3] in [0, 1], and returns
every loss term, the gradients' norm and what else is worth a curve, as float32 scalars.

A model that is made, and whose `train_step` is called, in the scope of a `tf.distribute.Strategy` divides each batch
among several devices: of `n` devices the `k`-th has every `n`-th patch, from the `k`-th on. It then takes the steps
that one device would take, but for rounding. What changes weights other than through an optimizer, and what is decided,
stands outside of what each device runs for itself: there each would decide alone, and wait for ever for one that
decided otherwise.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from artifact_remover.config import GanLossConfig, LossConfig
from artifact_remover.discriminator import crop_and_add_grain, normalize_kernels
from artifact_remover.judging.metrics import discriminator_accuracy
from artifact_remover.training import losses
from artifact_remover.training.perceptual import MeanDistance, cut_alike

GATE = 0.65
"""The GAN stage's generator steps only while the discriminator's loss is below this (DeOldify's rule).

A discriminator that cannot tell restored from clean has nothing to teach.
"""

AVERAGE_DECAY = 0.99
"""Decay of the moving average of the generator's weights."""


class GeneratorPretraining(keras.Model):
    """Stage 1: the generator on its own, on pixels and, where pretrained features are at hand, on these.

    Args:
        generator: From `build_generator`.
        loss: Weights of the terms.
        distance: The perceptual loss; `None` trains on pixels alone.
    """

    def __init__(self, generator: keras.Model, loss: LossConfig, distance: MeanDistance | None):
        """Takes the arguments that the class documents."""
        super().__init__(name="pretrain_generator")
        self.generator = generator
        self.objective = GeneratorObjective(loss, distance)

    def train_step(self, batch):
        """One step of the generator; see the module."""
        return run_on_devices(self._step, batch)

    def _step(self, degraded, clean):
        with tf.GradientTape() as tape:
            restored = self.generator(degraded, training=True)
            terms = self.objective(clean, restored, self.optimizer.iterations.value)
        norm = descend(tape, terms["loss"], self.optimizer, self.generator.trainable_variables)
        return {**terms, "gradient_norm": norm}


class DiscriminatorPretraining(keras.Model):
    """Stage 2: the discriminator on its own, clean patches against what the stage-1 generator makes of their JPEGs.

    Never clean against JPEG: a discriminator that has learnt to find blocks has nothing to tell a generator that no
    longer leaves any.

    Args:
        discriminator: From `build_discriminator`.
        generator: The stage-1 generator; it is run, not trained.
    """

    def __init__(self, discriminator: keras.Model, generator: keras.Model):
        """Takes the arguments that the class documents."""
        super().__init__(name="pretrain_discriminator")
        self.discriminator = discriminator
        self.generator = generator

    def train_step(self, batch):
        """One step of the discriminator; see the module."""
        normalize_kernels(self.discriminator)
        return run_on_devices(self._step, batch)

    def _step(self, degraded, clean):
        return discriminator_step(self.discriminator, self.optimizer, clean, self.generator(degraded, training=False))


class ArtifactRemovalGAN(keras.Model):
    """Stage 3: both networks, briefly.

    The discriminator takes every step, the generator only those in which the discriminator's loss is under `GATE`. What
    is judged and exported is `averaged_generator`, the moving average of the generator's weights: the generator itself
    jitters with the discriminator's moods.

    Args:
        generator: From stage 1.
        averaged_generator: A second generator with the same weights, float32.
        discriminator: From stage 2.
        loss: Weights of the terms.
        distance: As for `GeneratorPretraining`.
    """

    def __init__(
        self,
        generator: keras.Model,
        averaged_generator: keras.Model,
        discriminator: keras.Model,
        loss: GanLossConfig,
        distance: MeanDistance | None,
    ):
        """Takes the arguments that the class documents."""
        super().__init__(name="train_gan")
        self.generator = generator
        self.averaged_generator = averaged_generator
        self.discriminator = discriminator
        self.objective = GeneratorObjective(loss, distance)

    def compile(self, generator_optimizer, discriminator_optimizer):
        """Gives each network its own optimizer.

        The generator's is also `self.optimizer`: without one, Keras adds an RMSprop of its own, whose learning rate
        would be what is logged.
        """
        super().compile(optimizer=generator_optimizer)
        self.discriminator_optimizer = discriminator_optimizer
        # Inside `train_step` the generator's optimizer runs in a branch, where variables cannot be made.
        generator_optimizer.build(self.generator.trainable_variables)
        discriminator_optimizer.build(self.discriminator.trainable_variables)

    def train_step(self, batch):
        """One step of the discriminator and, where it is due, one of the generator; see the module."""
        normalize_kernels(self.discriminator)
        judged = run_on_devices(self._discriminator_step, batch)
        due = judged["discriminator_loss"] < GATE
        terms = tf.cond(due, lambda: self._due_step(batch), self._skipped_step)
        return {**terms, **judged, "generator_steps": tf.cast(due, tf.float32)}

    def _discriminator_step(self, degraded, clean):
        restored = self.generator(degraded, training=False)
        return discriminator_step(self.discriminator, self.discriminator_optimizer, clean, restored)

    def _due_step(self, batch):
        terms = run_on_devices(self._generator_step, batch)
        self._average_weights()
        return terms

    def _generator_step(self, degraded, clean):
        with tf.GradientTape() as tape:
            step, restored = self.optimizer.iterations.value, self.generator(degraded, training=True)
            logits = self.discriminator(crop_and_add_grain(restored, step), training=False)
            terms = self.objective(clean, restored, step, logits)
        norm = descend(tape, terms["loss"], self.optimizer, self.generator.trainable_variables)
        return {**terms, "gradient_norm": norm}

    def _skipped_step(self):
        # "Not measured" rather than zero: a curve must not show a loss that nobody computed.
        return {name: tf.constant(float("nan")) for name in ("loss", *self.objective.terms, "gradient_norm")}

    def _average_weights(self):
        # The decay grows with the steps taken, as in tf.train.ExponentialMovingAverage, so that a short stage is not
        # an average of mostly its start.
        steps = tf.cast(self.optimizer.iterations, tf.float32)
        decay = tf.minimum(AVERAGE_DECAY, (1 + steps) / (10 + steps))
        for average, weight in zip(self.averaged_generator.weights, self.generator.weights, strict=True):
            average.assign(decay * average + (1 - decay) * weight)


class GeneratorObjective:
    """Weighted sum that the generator is to make small; each term is weighted by the config's field of its name.

    Args:
        loss: Weights of the terms; those of the GAN stage need a `GanLossConfig`.
        distance: The perceptual loss; it is not even run where it is weighed 0.

    Attributes:
        terms: Names of the terms, in order.
    """

    def __init__(self, loss: LossConfig, distance: MeanDistance | None):
        """Takes the arguments that the class documents."""
        self.weights = loss
        self.distance = distance if loss.perceptual else None
        self._measures = self._list_measures()
        self.terms = tuple(self._measures)

    def _list_measures(self) -> dict[str, Callable[["_Patches"], tf.Tensor]]:
        # A new term is a function, a weight in the config, and a line here.
        pixel_losses: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
            "mse": losses.pixel_loss,
            "l1": losses.l1_loss,
            "log_mse": functools.partial(losses.log_mse_loss, floor=self.weights.floor),
            "rmse": functools.partial(losses.rmse_loss, floor=self.weights.floor),
        }
        pixel_loss = pixel_losses[self.weights.pixel_loss]
        measures: dict[str, Callable[[_Patches], tf.Tensor]] = {
            "pixel": lambda each: pixel_loss(each.clean, each.restored)
        }
        if self.distance:
            measures["perceptual"] = functools.partial(self._measure_perceptual, self.distance)
        if isinstance(self.weights, GanLossConfig):
            measures |= {
                "adversarial": lambda each: losses.adversarial_loss(each.restored_logits),
                # What a discriminator asks for first: a grid looks sharp, a tint looks different.
                "drift": lambda each: losses.drift_loss(each.clean, each.restored),
                "grid": lambda each: losses.grid_loss(each.clean, each.restored),
                # What VGG lets pass.
                "blocking": lambda each: losses.blocking_loss(each.clean, each.restored),
            }
        return measures

    def __call__(
        self, clean: tf.Tensor, restored: tf.Tensor, step: tf.Tensor | int, restored_logits: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Computes every term of a batch, or of a device's part of it.

        Args:
            clean: float32 [N, H, W, 3] in [0, 1].
            restored: float32 [N, H, W, 3], about [0, 1].
            step: int [], the optimizer's, from which the perceptual loss's crop is drawn.
            restored_logits: The discriminator's float32 logits of `restored`, in the GAN stage.

        Returns:
            `loss`, the weighted sum, and its terms unweighted: float32 scalars, whose means over all devices are those
            of the batch.
        """
        patches = _Patches(clean, restored, step, restored_logits)
        terms = {name: measure(patches) for name, measure in self._measures.items()}
        loss = sum(getattr(self.weights, name) * value for name, value in terms.items())
        return {"loss": loss, **terms}

    def _measure_perceptual(self, distance: MeanDistance, patches: "_Patches") -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        devices, device = context.num_replicas_in_sync, context.replica_id_in_sync_group
        # Of the batch's first patches this device has so many. Where it has none, one is shown, which does not count:
        # convolutions fail on none.
        count = (self.weights.perceptual_patches - device + devices - 1) // devices
        share, side = slice(tf.maximum(count, 1)), self.weights.perceptual_crop
        pictures = cut_alike(patches.clean[share], patches.restored[share], side, patches.step)
        return distance(*pictures, tf.cast(count > 0, tf.float32))


class _Patches(NamedTuple):
    """Arguments of the generator's terms, as in `GeneratorObjective.__call__`."""

    clean: tf.Tensor
    restored: tf.Tensor
    step: tf.Tensor | int
    restored_logits: tf.Tensor | None


def run_on_devices(step: Callable[..., dict[str, tf.Tensor]], batch) -> dict[str, tf.Tensor]:
    """Runs a step on each device of the strategy whose scope this is; outside of any, on the one device.

    Args:
        step: From a device's part of the batch, degraded and clean, to float32 scalars.
        batch: `(degraded, clean)`, divided among the devices.

    Returns:
        The means of the scalars over all devices.
    """
    if not tf.distribute.has_strategy():
        return step(*batch)

    def run(*part):
        return tf.distribute.get_replica_context().all_reduce("MEAN", step(*part))

    strategy = tf.distribute.get_strategy()
    return {name: strategy.experimental_local_results(value)[0] for name, value in strategy.run(run, batch).items()}


def discriminator_step(discriminator, optimizer, clean, restored) -> dict[str, tf.Tensor]:
    """Trains the discriminator one step on clean against restored patches, float32 [N, H, W, 3] in [0, 1].

    `normalize_kernels` comes before it.
    """
    # Drawn from the step's number, so that a resumed run goes on as it would have gone.
    patches = crop_and_add_grain(tf.concat([clean, restored], axis=0), optimizer.iterations.value)
    with tf.GradientTape() as tape:
        logits = discriminator(patches, training=False)
        clean_logits, restored_logits = tf.split(logits, 2)
        loss = losses.discriminator_loss(clean_logits, restored_logits)
    norm = descend(tape, loss, optimizer, discriminator.trainable_variables)
    return {
        "discriminator_loss": loss,
        "accuracy_clean": tf.reduce_mean(discriminator_accuracy(clean_logits, clean=True)),
        "accuracy_restored": tf.reduce_mean(discriminator_accuracy(restored_logits, clean=False)),
        "discriminator_gradient_norm": norm,
    }


def descend(tape, loss, optimizer, variables) -> tf.Tensor:
    """Takes one optimizer step down the loss and returns the gradients' joint norm before clipping, float32 []."""
    gradients = tf.distribute.get_replica_context().all_reduce("MEAN", tape.gradient(loss, variables))
    optimizer.apply(gradients, variables)
    return tf.linalg.global_norm(gradients)
