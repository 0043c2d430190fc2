"""The three things that are trained: the generator alone, the discriminator alone, and both together.

NoGAN (Antic, Howard and Uri, "Decrappification, DeOldification, and Super Resolution", 2019): most of the learning
happens in the two calm stages, so that the GAN stage can be short and stopped before it does harm. Each class is a
`keras.Model` whose `train_step` takes a batch `(degraded, clean)`, both float32 [N, H, W, 3] in [0, 1], and returns
every loss term, the gradients' norm and what else is worth a curve, as float32 scalars.
"""

import keras
import tensorflow as tf

from artifact_remover.config import GanLossConfig, GanSchedule, LossConfig
from artifact_remover.discriminator import show
from artifact_remover.judging.metrics import discriminator_accuracy
from artifact_remover.training import losses


class GeneratorPretraining(keras.Model):
    """Stage 1: the generator on its own, on pixels and, where pretrained features are at hand, on VGG19 features.

    Args:
        generator: From `build_generator`.
        loss: Weights of the terms.
        features: VGG19 up to a layer, float32 [N, H, W, 3] in [0, 1] to features; `None` trains on pixels alone.
    """

    def __init__(self, generator: keras.Model, loss: LossConfig, features: keras.Model | None):
        """See the class."""
        super().__init__(name="generator_pretraining")
        self.generator = generator
        self.objective = GeneratorObjective(loss, features)

    def train_step(self, batch):
        """One step of the generator; see the module."""
        degraded, clean = batch
        with tf.GradientTape() as tape:
            terms = self.objective(clean, self.generator(degraded, training=True))
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
        """See the class."""
        super().__init__(name="discriminator_pretraining")
        self.discriminator = discriminator
        self.generator = generator

    def train_step(self, batch):
        """One step of the discriminator; see the module."""
        degraded, clean = batch
        return discriminator_step(self.discriminator, self.optimizer, clean, self.generator(degraded, training=False))


class ArtifactRemovalGAN(keras.Model):
    """Stage 3: both networks, briefly.

    The discriminator takes every step. The generator takes each `discriminator_steps`-th, and only while the
    discriminator's loss is under the gate. What is judged and exported is `averaged_generator`, the moving average of
    the generator's weights: the generator itself jitters with the discriminator's moods.

    Args:
        generator: From stage 1.
        averaged_generator: A second generator with the same weights, float32.
        discriminator: From stage 2.
        loss: Weights of the terms.
        features: As for `GeneratorPretraining`.
        schedule: Gate, discriminator steps and decay of the average.
    """

    def __init__(
        self,
        generator: keras.Model,
        averaged_generator: keras.Model,
        discriminator: keras.Model,
        loss: GanLossConfig,
        features: keras.Model | None,
        schedule: GanSchedule,
    ):
        """See the class."""
        super().__init__(name="artifact_removal_gan")
        self.generator = generator
        self.averaged_generator = averaged_generator
        self.discriminator = discriminator
        self.objective = GeneratorObjective(loss, features)
        self.schedule = schedule

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
        degraded, clean = batch
        turn = self.discriminator_optimizer.iterations % self.schedule.discriminator_steps
        judged = discriminator_step(
            self.discriminator, self.discriminator_optimizer, clean, self.generator(degraded, training=False)
        )
        due = tf.logical_and(tf.equal(turn, 0), judged["discriminator_loss"] < self.schedule.gate)
        terms = tf.cond(due, lambda: self._generator_step(degraded, clean), self._skipped_step)
        return {**terms, **judged, "generator_steps": tf.cast(due, tf.float32)}

    def _generator_step(self, degraded, clean):
        with tf.GradientTape() as tape:
            restored = self.generator(degraded, training=True)
            # Not in training mode, in which spectral normalisation would change the discriminator's weights.
            logits = self.discriminator(show(restored, self.optimizer.iterations.value), training=False)
            terms = self.objective(clean, restored, logits)
        norm = descend(tape, terms["loss"], self.optimizer, self.generator.trainable_variables)
        self._average_weights()
        return {**terms, "gradient_norm": norm}

    def _skipped_step(self):
        # "Not measured" rather than zero: a curve must not show a loss that nobody computed.
        names = (*self.objective.terms, "adversarial", "drift", "grid", "blocking", "gradient_norm")
        return {name: tf.constant(float("nan")) for name in names}

    def _average_weights(self):
        # The decay grows with the steps taken, as in tf.train.ExponentialMovingAverage, so that a short stage is not
        # an average of mostly its start.
        steps = tf.cast(self.optimizer.iterations, tf.float32)
        decay = tf.minimum(self.schedule.ema, (1 + steps) / (10 + steps))
        for average, weight in zip(self.averaged_generator.weights, self.generator.weights, strict=True):
            average.assign(decay * average + (1 - decay) * weight)


class GeneratorObjective:
    """What the generator is to make small: the weighted sum of pixel, perceptual and adversarial loss.

    Args:
        loss: Weights of the terms. VGG19 is not even run where the perceptual one is 0.
        features: As for `GeneratorPretraining`.
    """

    def __init__(self, loss: LossConfig, features: keras.Model | None):
        """See the class."""
        self.weights = loss
        self.features = features if loss.perceptual else None
        self.terms = ("loss", "pixel", *(["perceptual"] if self.features else []))

    def __call__(self, clean, restored, restored_logits=None) -> dict[str, tf.Tensor]:
        """Computes every term of a batch.

        Args:
            clean: float32 [N, H, W, 3] in [0, 1].
            restored: float32 [N, H, W, 3], about [0, 1].
            restored_logits: The discriminator's float32 logits of `restored`, in the GAN stage.

        Returns:
            `loss`, the weighted sum, and its terms unweighted: float32 scalars.
        """
        pixel_losses = {
            "mse": losses.pixel_loss,
            "log_mse": losses.log_mse_loss,
            "rmse": losses.rmse_loss,
            "charbonnier": losses.charbonnier_loss,
        }
        terms = {"pixel": pixel_losses[self.weights.pixel_loss](clean, restored)}
        if self.features:
            share = slice(self.weights.perceptual_patches)
            terms["perceptual"] = losses.perceptual_loss(self.features(clean[share]), self.features(restored[share]))
        if restored_logits is not None:
            terms["adversarial"] = losses.adversarial_loss(restored_logits)
            # What a discriminator asks for first: a grid looks sharp, a tint looks different.
            terms["drift"] = losses.drift_loss(clean, restored)
            terms["grid"] = losses.grid_loss(clean, restored)
            # What VGG19 lets pass.
            terms["blocking"] = losses.blocking_loss(clean, restored)
        loss = sum(getattr(self.weights, name) * value for name, value in terms.items())
        return {"loss": loss, **terms}


def discriminator_step(discriminator, optimizer, clean, restored) -> dict[str, tf.Tensor]:
    """Trains the discriminator one step on clean against restored patches, float32 [N, H, W, 3] in [0, 1]."""
    # Drawn from the step's number, so that a resumed run goes on as it would have gone.
    patches = show(tf.concat([clean, restored], axis=0), optimizer.iterations.value)
    with tf.GradientTape() as tape:
        logits = discriminator(patches, training=True)
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
    gradients = tape.gradient(loss, variables)
    optimizer.apply(gradients, variables)
    return tf.linalg.global_norm(gradients)
