"""Trains a few steps of each stage on the same batches, on one device and on several, and writes what comes of it.

    python -m tests.steps_on_devices FOLDER COUNT

The devices are a processor that TensorFlow takes for several. FOLDER gets `1.npz` and `COUNT.npz`. Where `TF_CONFIG`
names several workers, it is only these that train; each writes a file of its own, such as `worker 0.npz`.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from artifact_remover.config import DiscriminatorConfig, GanLossConfig, LossConfig, Schedule
from artifact_remover.discriminator import build_discriminator
from artifact_remover.training import gan
from artifact_remover.training.devices import is_chief, name_worker, open_devices, share_state
from artifact_remover.training.loop import _list_state, _prepare_step, make_optimizer
from artifact_remover.training.losses import perceptual_loss
from tests.tiny_models import make_stand_in

STEPS, BATCH, SIDE = 6, 6, 32
GATE = 0.69325
CLIP = 0.005


def make_schedule(optimizer):
    return Schedule(STEPS, 1e-2, warmup_steps=1, clip_norm=CLIP, optimizer=optimizer)


def batches(step, context):
    """The same batches for any number of devices; each has every so many-th patch."""
    devices = context.num_replicas_in_sync
    here = devices // context.num_input_pipelines
    first = context.input_pipeline_id * here

    def make_parts(number):
        clean = tf.random.stateless_uniform([BATCH, SIDE, SIDE, 3], [7, number])
        pair = tf.round(clean * 6) / 6, clean
        parts = [tuple(each[device::devices] for each in pair) for device in range(first, first + here)]
        return tuple(tf.stack(each) for each in zip(*parts, strict=True))

    return tf.data.Dataset.range(step, tf.int64.max).map(make_parts).unbatch()


def make_distance():
    """A stand-in for VGG19."""
    picture = keras.Input([None, None, 3])
    grown = keras.layers.Conv2D(4, 3, activation="relu", trainable=False)(picture)
    pooled = keras.layers.MaxPooling2D()(grown)
    features = keras.Model(picture, keras.layers.Conv2D(4, 3, trainable=False)(pooled))
    return lambda clean, restored, counts: perceptual_loss(features(clean), features(restored), counts)


def make_discriminator():
    return build_discriminator(DiscriminatorConfig(features=4))


def make_generator_pretraining(distance):
    # The second device has no patch of its own for the perceptual loss.
    trainer = gan.GeneratorPretraining(make_stand_in(), LossConfig(perceptual=0.5, perceptual_patches=1), distance)
    trainer.compile(optimizer=make_optimizer(make_schedule("adam")))
    trainer.optimizer.build(trainer.generator.trainable_variables)
    return trainer


def make_discriminator_pretraining(_distance):
    trainer = gan.DiscriminatorPretraining(make_discriminator(), make_stand_in())
    trainer.compile(optimizer=make_optimizer(make_schedule("muon")))
    trainer.optimizer.build(trainer.discriminator.trainable_variables)
    return trainer


def make_gan(distance):
    generator, averaged = make_stand_in(), make_stand_in()
    averaged.set_weights(generator.get_weights())
    loss = GanLossConfig(perceptual=0.5, perceptual_patches=3, adversarial=0.1, grid=1.0, blocking=1.0)
    trainer = gan.ArtifactRemovalGAN(generator, averaged, make_discriminator(), loss, distance)
    trainer.compile(make_optimizer(make_schedule("muon")), make_optimizer(make_schedule("adam")))
    return trainer


def train(strategy):
    """Trains all stages; what comes of each by name: a row of scalars for each step, and all that it keeps."""
    results = {}
    for stage, make in (
        ("pretrain_generator", make_generator_pretraining),
        ("pretrain_discriminator", make_discriminator_pretraining),
        ("train_gan", make_gan),
    ):
        keras.utils.set_random_seed(0)
        distance = make_distance()  # outside of the scope, as in a run
        with strategy.scope():
            trainer = make(distance)
        state = _list_state(trainer)
        if not is_chief(strategy):
            for variable in state:
                variable.assign(tf.zeros_like(variable))  # as they must come from the chief
        assert share_state(strategy, state, 7 if is_chief(strategy) else 0) == 7
        take_step = _prepare_step(trainer, batches, 0)
        steps = [take_step()[0] for _ in range(STEPS)]
        results |= {f"{stage}/scalars/{name}": [scalars[name] for scalars in steps] for name in steps[0]}
        results |= {f"{stage}/state/{number}": tf.convert_to_tensor(variable) for number, variable in enumerate(state)}
    return results


def main(folder, count):
    gan.GATE = GATE
    strategy = open_devices(1)
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        np.savez(folder / f"{name_worker(strategy)}.npz", **train(strategy))
        return
    for devices in (1, count):  # TensorFlow takes no more than one number of several in a process
        np.savez(folder / f"{devices}.npz", **train(open_devices(devices)))


if __name__ == "__main__":
    [processor] = tf.config.list_physical_devices("CPU")
    tf.config.set_visible_devices([], "GPU")
    tf.config.set_logical_device_configuration(processor, int(sys.argv[2]) * [tf.config.LogicalDeviceConfiguration()])
    main(Path(sys.argv[1]), int(sys.argv[2]))
