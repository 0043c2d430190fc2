"""Exports weights that `train_with_jax.py` trained as the SavedModels of a stage, with TensorFlow.

    python saved_models/export_weights.py pretrain_generator OUT --after "what it went on from" --out saved_models
    python saved_models/export_weights.py pretrain_discriminator OUT --after pretrain_generator --out saved_models
    python saved_models/export_weights.py gan OUT --after pretrain_generator --out saved_models

The folder is what `train_with_jax.py --out` wrote: the weights, and `curve.json`, which goes into the manifest.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import keras
import numpy as np

from artifact_remover import saved_model
from artifact_remover.config import PRESETS
from artifact_remover.discriminator import build_discriminator
from artifact_remover.generator import build_generator
from artifact_remover.training.run import describe_making

# What `train_with_jax.py` calls a model, its file and its stage.
WEIGHTS = {"pretrain_generator": "generator", "pretrain_discriminator": "discriminator", "gan": "gan"}
PICTURES = {
    "photographs": "638 of 246 megapixels: CID22's training set, Unsplash, Pexels, CLIC 2025, pixls.us, Linux desktops",
    "jpegs": "200 of BSDS500 train, at quality 75 and below",
    "graphics": "775 of 189 megapixels, and drawn ones",
    "licenses": "photographs: CC-BY-SA 4.0, CC0, CC-BY, CC-BY-SA, Unsplash's or Pexels's license, public domain; "
    "jpegs: Berkeley, research use; graphics: each under a free license",
}


OF_THE_MACHINE = ("pictures", "validation", "weights", "lpips", "out", "minutes", "minutes_in", "workers", "precision")
"""Options of `train_with_jax.py` that stay out of the manifest, or have a place of their own there."""


def read_weights(network: keras.Model, file: Path) -> None:
    """Gives a network the weights of an npz file, which is keyed by their paths."""
    kept = np.load(file)
    for weight in network.trainable_variables:
        weight.assign(kept[weight.path])


def make_manifest(model: str, folder: Path, after: str) -> dict:
    """Tells how the weights came about, in the terms of a manifest of `fit` as far as they fit."""
    run = json.loads((folder / "curve.json").read_text())
    curve = [row for row in run["curve"] if row["stage"] == WEIGHTS[model]]
    options = {name: value for name, value in run["arguments"].items() if name not in OF_THE_MACHINE}
    # The preset has the weights of the script, which a test holds.
    losses = {"pretrain_generator": ["generator_loss"], "gan": ["gan_loss"]}.get(model, [])
    features = {"perceptual_features": {"network": "lpips v0.1, vgg16", "source": "lpips_vgg16_float16.npz"}}
    return {
        "stage": "train_gan" if model == "gan" else model,
        "parents": {"generator": after},
        "steps": curve[-1]["step"],
        "training_seconds": curve[-1]["seconds"],
        "settings": {
            "script": "train_with_jax.py",
            "arguments": options,
            "data": {"degradation": {"quality": "5-100"}},
            **{loss: dataclasses.asdict(getattr(PRESETS["blind"], loss)) for loss in losses},
        },
        "license": "Apache-2.0",
        "data": PICTURES,
        **(features if model == "gan" else {}),
        "compute_dtype": run["arguments"]["precision"],
        "curve": curve,
        **describe_making(),
    }


def main() -> None:
    """Reads the command line and exports."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", choices=WEIGHTS)
    p.add_argument("folder", type=Path, help="what train_with_jax.py wrote")
    p.add_argument("--after", required=True, help="whose weights the training went on from, for the manifest")
    p.add_argument("--out", type=Path, required=True, help="folder of SavedModels; MODEL/1 must not exist there")
    a = p.parse_args()
    target = a.out / a.model / "1"
    target.parent.mkdir(parents=True, exist_ok=True)
    config = PRESETS["blind"]
    manifest = make_manifest(a.model, a.folder, a.after)
    if a.model == "pretrain_discriminator":
        network = build_discriminator(config.discriminator)
        read_weights(network, a.folder / f"{WEIGHTS[a.model]}.npz")
        saved_model.export_discriminator(network, config.discriminator, target, manifest)
    else:
        network = build_generator(config.generator)
        read_weights(network, a.folder / f"{WEIGHTS[a.model]}.npz")
        saved_model.export_generator(network, config.generator, target, manifest)


if __name__ == "__main__":
    main()
