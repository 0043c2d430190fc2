r"""Adds to a published generator what training on changed in another one, with TensorFlow.

    python saved_models/add_training.py saved_models/gan/1 --before saved_models/pretrain_generator/1 \
        --after RUN/saved_models/pretrain_generator/1 --out OUT/gan/1

The models must be of one network: the second trained on from the third, the first from the second too. To each weight
of the first is added the difference of the other two, so that what the faithful model learned late the perceptual one
need not learn again: task arithmetic (Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023). Where the first
is also the second, a share below 1 keeps more of what it was (Wortsman et al., Robust Fine-Tuning of Zero-Shot Models,
CVPR 2022).
"""

import argparse
from pathlib import Path

import keras

from artifact_remover import saved_model
from artifact_remover.config import PRESETS
from artifact_remover.generator import build_generator
from artifact_remover.model_folder import SUMS, read_manifest
from artifact_remover.training.run import describe_making


def read_generator(export: Path) -> keras.Model:
    """Reads the generator of an export."""
    generator = build_generator(PRESETS["blind"].generator)
    saved_model.load_weights(generator, export)
    return generator


def add(base: keras.Model, before: keras.Model, after: keras.Model, share: float) -> None:
    """Adds to the weights of the first generator a share of the difference of the other two."""
    for weight, old, new in zip(base.weights, before.weights, after.weights, strict=True):
        weight.assign_add(share * (new - old))


def make_manifest(base: dict, after: dict, share: float) -> dict:
    """Tells how the weights came about: the base's manifest, with what was added."""
    added = {"share": share, **{name: after[name] for name in ("steps", "training_seconds", "settings", "curve")}}
    kept = {name: value for name, value in base.items() if name != SUMS}
    return kept | {"added": [*base.get("added", []), added]} | describe_making()


def main() -> None:
    """Reads the command line and exports."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("base", type=Path, help="export of the generator that is changed")
    p.add_argument("--before", type=Path, required=True, help="export whose training went on")
    p.add_argument("--after", type=Path, required=True, help="export of what came of it")
    p.add_argument("--share", type=float, default=1.0, help="share of the difference (default: %(default)s)")
    p.add_argument("--out", type=Path, required=True, help="folder of the new SavedModel; must not exist")
    a = p.parse_args()
    generator = read_generator(a.base)
    add(generator, read_generator(a.before), read_generator(a.after), a.share)
    manifest = make_manifest(read_manifest(a.base), read_manifest(a.after), a.share)
    a.out.parent.mkdir(parents=True, exist_ok=True)
    saved_model.export_generator(generator, PRESETS["blind"].generator, a.out, manifest)


if __name__ == "__main__":
    main()
