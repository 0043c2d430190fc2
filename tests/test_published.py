"""The models that users get: all there, small enough, and better than the JPEG on photographs never trained on."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as skimage_data

from artifact_remover import Restorer
from artifact_remover.model_folder import PUBLISHED, find_exports, read_trained_quality
from data_prep.drawing import draw_graphic

MODELS = ("pretrain_generator", "pretrain_discriminator", "gan")
PHOTOGRAPHS = {name: getattr(skimage_data, name)()[:256, :256] for name in ("astronaut", "chelsea", "coffee")}


@pytest.mark.parametrize("model", MODELS)
def test_every_stage_is_published_with_its_manifest(model):
    folder = PUBLISHED / model / "1"
    assert (folder / "saved_model.pb").is_file()
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 22e6
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["steps"] > 0 and manifest["curve"] and manifest["versions"]
    assert read_trained_quality(manifest) == (5, 100)


def texts_of(tree):
    """Yields every string of plain JSON values."""
    if isinstance(tree, str):
        yield tree
    for each in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from texts_of(each)


@pytest.mark.parametrize("model", MODELS)
def test_no_manifest_names_a_place_on_somebody_s_machine(model):
    texts = list(texts_of(json.loads((PUBLISHED / model / "1" / "manifest.json").read_text())))
    assert texts
    place = re.compile(r"(^|[\s\"'(=:])(/(?!/)|~|[A-Za-z]:[\\/](?!/))|\.\.[\\/]")
    assert [text for text in texts if place.search(text)] == []


@pytest.fixture(scope="module", params=["pretrain_generator", "gan"])
def restorer(request):
    return Restorer.load(find_exports(PUBLISHED)[request.param])


def psnr(clean, picture):
    return 10 * np.log10(255**2 / np.mean((clean.astype(float) - picture) ** 2))


def degrade(photo, quality, subsampling="4:2:0"):
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("quality", [5, 10, 20, 40])
def test_the_jpeg_is_beaten_on_every_photograph(restorer, name, quality):
    clean = PHOTOGRAPHS[name]
    jpeg = degrade(clean, quality)
    assert psnr(clean, restorer.restore(jpeg)) > psnr(clean, jpeg)


@pytest.mark.parametrize("program", ["jpegli", "mozjpeg", "guetzli"])
def test_so_are_jpegs_of_other_programs(restorer, program):
    clean = skimage_data.astronaut()[:256, 64:320]
    content = (Path(__file__).parent / "pictures" / "programs" / f"{program}.jpg").read_bytes()
    jpeg, restored = (np.asarray(Image.open(io.BytesIO(each))) for each in (content, restorer.restore_bytes(content)))
    assert psnr(clean, restored) > psnr(clean, jpeg) + 0.5


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_colors_stay(restorer, name):
    clean = PHOTOGRAPHS[name]
    jpeg = degrade(clean, 10, "4:4:4")
    shift = (restorer.restore(jpeg).astype(float) - jpeg).mean(axis=(0, 1))
    assert abs(shift).max() < 1.5, shift


@pytest.mark.parametrize("kind", ["chart", "interface", "pixel_art"])
def test_enlarged_graphics_are_mended_and_not_sharpened(restorer, kind):
    drawn = Image.fromarray(draw_graphic(np.random.default_rng(0), 128, kind))
    clean = np.array(drawn.resize((256, 256), Image.Resampling.BICUBIC))
    jpeg = degrade(clean, 75)
    assert psnr(clean, restorer.restore(jpeg)) > psnr(clean, jpeg)
