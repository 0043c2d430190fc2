"""Makes the int8 model of a generator's export, for OpenVINO on the processor, with Intel's NNCF.

    pip install -e '.[fast]' nncf
    python saved_models/quantize.py saved_models/pretrain_generator/1 --data PHOTOGRAPHS --graphics GRAPHICS

It is written beside the SavedModel, as `openvino_int8.xml` and `.bin`, whose checksums go into the manifest.

Post-training quantization: each convolution's input is rounded to 255 steps of a range, the mean of the patches'
ranges, and its weights to as many for each output channel. Chosen by measurement, on LIVE1 and 32 graphics:

* The sums of residuals stay float. In int8 as well they lose 0.7 dB on photographs of quality 90, up to 3.4 dB.
* Convolutions at half the picture's resolution stay float: on hard edges between colors their values reach far beyond
  the usual, and no step is right for both. In int8 as well, those at the end lose up to 2 dB on graphics of quality
  90, those at the beginning 0.03 dB on photographs.
* Two thirds of the patches are graphics, which have the largest values.

What lies beyond a range is clipped, and `OpenVinoEngine` restores in float where that is too much. A range that holds
all values of the patches would be no better: its steps are so wide that photographs of quality 90 lose 0.3 dB, and
graphics 1.8, up to 16.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import nncf
import numpy as np
import openvino

from artifact_remover.config import PRESETS
from artifact_remover.model_folder import MANIFEST, SUMS, read_manifest, sum_up
from artifact_remover.openvino_engine import INT8
from data_prep.files import write_whole
from data_prep.pipeline import training_batches
from data_prep.sources import open_photographs

PATCHES = 300
FIRST_IN_FLOAT = 9  # convolutions: `shallow`, and the blocks of `down1`
LAST_IN_FLOAT = 11  # the last `double`, the blocks of `up1`, `reconstruction` and `correction`


def quantize(model: openvino.Model, patches: list[np.ndarray]) -> openvino.Model:
    """Quantizes a generator of the published size.

    Args:
        model: As OpenVINO reads it from a SavedModel.
        patches: Degraded, each float32 [1, p, p, 3] in [0, 1].
    """
    convolutions = [
        each.get_friendly_name() for each in model.get_ordered_ops() if each.get_type_name() == "Convolution"
    ]
    in_float = convolutions[:FIRST_IN_FLOAT] + convolutions[-LAST_IN_FLOAT:]
    scope = nncf.IgnoredScope(names=in_float, types=["Add"])
    return nncf.quantize(model, nncf.Dataset(patches), subset_size=len(patches), ignored_scope=scope)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("export", type=Path, help="folder of a generator's SavedModel")
    parser.add_argument("--data", required=True, help="folder of photographs")
    parser.add_argument("--graphics", required=True, help="folder of graphics")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as prepared:
        config = dataclasses.replace(
            PRESETS["blind"].data,
            data=arguments.data,
            graphics=arguments.graphics,
            graphics_share=2 / 3,
            data_dir=Path(prepared),
            patch_size=192,
            patches_per_photo=1,
            batch_size=1,
        )
        batches = training_batches(open_photographs(config), "generator", config, seed=0)
        patches = [degraded for degraded, _ in batches.take(PATCHES).as_numpy_iterator()]
    model = quantize(openvino.Core().read_model(arguments.export), patches)
    file = arguments.export / INT8
    openvino.save_model(model, file, compress_to_fp16=True)
    manifest = read_manifest(arguments.export)
    sums = {each.name: sum_up(each) for each in (file, file.with_suffix(".bin"))}
    manifest[SUMS] = manifest.get(SUMS, {}) | sums
    write_whole(arguments.export / MANIFEST, f"{json.dumps(manifest, indent=2)}\n".encode())


if __name__ == "__main__":
    main()
