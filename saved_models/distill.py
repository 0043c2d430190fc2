r"""Teaches a published generator what it makes of a picture in eight orientations, with TensorFlow and OpenVINO.

    pip install 'artifact-remover[fast]'
    python saved_models/distill.py saved_models/pretrain_generator/1 --data PHOTOGRAPHS --graphics GRAPHICS \
        --out OUT/pretrain_generator/1

A generator restores a mirrored or turned picture a little otherwise. The mean of all eight, turned back, is better, at
eight times the cost (geometric self-ensemble: Lim et al., EDSR, CVPR Workshops 2017). Here the generator learns that
mean (knowledge distillation: Hinton et al., 2015). It says what can be known of a pixel, while the clean picture has
what nobody can know as well. So few patches teach much.

The generator before training restores each patch upright and in a few other orientations. The loss is the distance from
their mean, in parts of the mean's own distance from the clean patch: so dB count alike at every quality.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from artifact_remover import saved_model
from artifact_remover.config import PRESETS, Schedule
from artifact_remover.generator import build_generator
from artifact_remover.model_folder import SUMS, read_manifest
from artifact_remover.openvino_engine import OpenVinoEngine
from artifact_remover.self_ensemble import restore_turned
from artifact_remover.training.loop import make_optimizer
from artifact_remover.training.run import describe_making
from data_prep.config import DataConfig
from data_prep.pipeline import training_batches
from data_prep.sources import open_photographs

FLOOR = 1e-5  # squared error: 50 dB, above which no patch counts for more
LEAST = 1e-4  # below the root, so that its slope is finite
REPORT_EVERY = 50


def estimate_mean(restore: Callable, degraded: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Restores patches as they are and in some of the seven other orientations.

    Args:
        restore: From float32 [N, p, p, 3] in [0, 1] to the same.
        degraded: Patches, float32 [N, p, p, 3] in [0, 1].
        others: Orientations, 1 to 7.

    Returns:
        The patches restored as they are, and an estimate of the mean of all eight, in which the others stand for seven.
    """
    own = restore(degraded)
    turned = np.mean([restore_turned(restore, degraded, each) for each in others], axis=0)
    return own, (own + 7 * turned) / 8


def measure(restored: tf.Tensor, mean: tf.Tensor, clean: tf.Tensor) -> tf.Tensor:
    """Measures the distance from the mean in parts of the mean's own error, for each patch; float32 [N]."""
    distance, error = (tf.reduce_mean(tf.square(each - mean), axis=[1, 2, 3]) for each in (restored, clean))
    return tf.sqrt(distance / (error + FLOOR) + LEAST)


def distill(
    generator: keras.Model, restore: Callable, batches: tf.data.Dataset, schedule: Schedule, others: int, seed: int
) -> list[dict]:
    """Trains a generator on the mean of another one's orientations.

    Args:
        generator: What is trained.
        restore: What it learns from, as in `estimate_mean`: the generator as it was before.
        batches: Pairs of degraded and clean patches.
        schedule: Steps and learning rate.
        others: Orientations that each patch is restored in beside its own, 1 to 7.
        seed: They are drawn from it.

    Returns:
        For every 50 steps the mean loss, and the loss that the generator before had on the same patches.
    """
    optimizer = make_optimizer(schedule)
    optimizer.build(generator.trainable_variables)

    @tf.function
    def take_step(degraded, mean, clean):
        with tf.GradientTape() as tape:
            restored = tf.clip_by_value(generator(degraded, training=True), 0.0, 1.0)  # as an export does
            loss = tf.reduce_mean(measure(restored, mean, clean))
        gradients = tape.gradient(loss, generator.trainable_variables)
        optimizer.apply_gradients(zip(gradients, generator.trainable_variables, strict=True))
        return loss

    rng, losses, curve, started = np.random.default_rng(seed), [], [], time.perf_counter()
    for step, (degraded, clean) in enumerate(batches.take(schedule.steps).as_numpy_iterator(), 1):
        drawn = rng.choice(np.arange(1, 8), others, replace=False)
        own, mean = estimate_mean(restore, degraded, drawn)
        losses.append((float(take_step(degraded, mean, clean)), float(tf.reduce_mean(measure(own, mean, clean)))))
        if step % REPORT_EVERY == 0 or step == schedule.steps:
            loss, before = np.mean(losses[-REPORT_EVERY:], axis=0).round(5).tolist()
            curve.append({"step": step, "seconds": time.perf_counter() - started, "loss": loss, "before": before})
            print(f"{step}/{schedule.steps}: loss {loss:.4f}, of the generator before {before:.4f}", flush=True)
    return curve


def configure_data(photographs: str, graphics: str, folder: Path) -> DataConfig:
    """Configures the patches: those of `fit blind`, but more graphics, enlarged and processed ones."""
    return dataclasses.replace(
        PRESETS["blind"].data,
        data=photographs,
        graphics=graphics,
        graphics_share=0.3,
        enlarged_share=0.25,
        processed_share=0.2,
        data_dir=folder,
    )


def main() -> None:
    """Reads the command line, trains and exports."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("export", type=Path, help="export of the generator")
    p.add_argument("--data", required=True, help="folder of photographs")
    p.add_argument("--graphics", required=True, help="folder of graphics")
    p.add_argument("--steps", type=int, default=3400, help="of six patches each (default: %(default)s)")
    p.add_argument("--learning-rate", type=float, default=2e-5, help="the highest (default: %(default)s)")
    p.add_argument(
        "--others", type=int, default=2, choices=range(1, 8), help="orientations beside upright (default: 2)"
    )
    p.add_argument("--seed", type=int, default=0, help="every random choice follows from it (default: %(default)s)")
    p.add_argument("--out", type=Path, required=True, help="folder of the new SavedModel; must not exist")
    a = p.parse_args()
    if a.out.exists():
        p.error(f"{a.out} exists: choose another --out")  # hours would be lost
    config = PRESETS["blind"].generator
    generator = build_generator(config)
    saved_model.load_weights(generator, a.export)
    schedule = Schedule(a.steps, a.learning_rate, warmup_steps=min(20, a.steps // 2), optimizer="muon")
    with tempfile.TemporaryDirectory() as folder:
        data = configure_data(a.data, a.graphics, Path(folder))
        batches = training_batches(open_photographs(data), "generator", data, seed=a.seed)
        curve = distill(generator, OpenVinoEngine(a.export, "float32"), batches, schedule, a.others, a.seed)
    settings = {"learning_rate": a.learning_rate, "others": a.others, "seed": a.seed}
    made = {"steps": a.steps, "training_seconds": curve[-1]["seconds"], "settings": settings, "curve": curve}
    before = {name: value for name, value in read_manifest(a.export).items() if name != SUMS}
    a.out.parent.mkdir(parents=True, exist_ok=True)
    distilled = [*before.get("distilled", []), made]
    saved_model.export_generator(generator, config, a.out, before | {"distilled": distilled} | describe_making())


if __name__ == "__main__":
    main()
