import functools
import io
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from skimage import data as skimage_data

from artifact_remover import model_folder, restoration
from artifact_remover.config import DiscriminatorConfig
from artifact_remover.discriminator import build_discriminator
from artifact_remover.generator import receptive_field
from artifact_remover.model_folder import name_export, read_manifest
from artifact_remover.pictures.picture import decode_picture
from artifact_remover.restoration import Restorer
from artifact_remover.saved_model import export_discriminator, export_generator
from data_prep.errors import InputError
from tests.sample_pictures import levels, to_jpeg, to_png
from tests.tiny_models import TINY, make_generator

LEVEL = 1 / 255


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run's folder with both generators, which differ, and the discriminator."""
    folder = tmp_path_factory.mktemp("run")
    manifest = {"settings": {"data": {"degradation": {"quality": "10-60"}}}}
    for seed, stage in enumerate(("pretrain_generator", "train_gan")):
        export_generator(make_generator(seed), TINY, name_export(folder, stage), manifest | {"stage": stage})
    discriminator = DiscriminatorConfig(features=4)
    export_discriminator(
        build_discriminator(discriminator), discriminator, folder / "saved_models" / "pretrain_discriminator" / "1", {}
    )
    return folder


@pytest.fixture(scope="module", params=["tensorflow", "openvino"])
def load(request):
    """`Restorer.load` with each engine."""
    pytest.importorskip(request.param)
    return functools.partial(Restorer.load, engine=request.param)


@pytest.fixture(scope="module")
def restorer(load, run_folder):
    return load(run_folder, precision="float32")


@pytest.fixture(scope="module")
def photo():
    """A photograph with the artifacts of JPEG, of odd size."""
    return np.asarray(Image.open(io.BytesIO(to_jpeg(skimage_data.coffee()[:201, :299]))))


def identity(pictures):
    return pictures


def brighter(pictures):
    return np.clip(pictures + LEVEL, 0, 1)


sizes = pytest.mark.parametrize("shape", [(1, 1), (15, 17), (1000, 3), (130, 200)])
tiles = pytest.mark.parametrize("tile", [64, 100, None])


@sizes
@tiles
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_identity_gives_back_every_bit(shape, tile, channels, dtype):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (*shape, channels), dtype, endpoint=True)
    np.testing.assert_array_equal(Restorer(identity, 16, tile=tile).restore(pixels), pixels)


@sizes
@tiles
def test_every_pixel_is_restored_once(shape, tile):
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    np.testing.assert_array_equal(Restorer(brighter, 16, tile=tile).restore(pixels), pixels + 1)


@pytest.mark.parametrize("tile", [64, 112, 160])
def test_tiles_that_overlap_by_the_receptive_field_give_what_the_whole_gives(run_folder, restorer, photo, tile):
    overlap = -(-receptive_field(TINY) // 16) * 16
    tiled = Restorer(restorer._network, overlap, tile=tile + 2 * overlap).restore(photo)
    np.testing.assert_array_equal(tiled, restorer.restore(photo))


@pytest.mark.parametrize("tile", [64, 100, 160])
def test_tiles_with_the_measured_overlap_are_within_a_level_of_the_whole(load, run_folder, restorer, photo, tile):
    whole = restorer.restore(photo)
    assert levels(whole, photo) > 3
    assert levels(load(run_folder, precision="float32", tile=tile).restore(photo), whole) <= 1


def test_bfloat16_is_within_a_level_of_float32(load, run_folder, restorer, photo):
    in_bfloat16 = load(run_folder, precision="bfloat16")
    restored, exact = in_bfloat16.restore(photo), restorer.restore(photo)
    assert levels(restored, exact) <= 1
    # Where the processor has no such instructions OpenVINO says so, and TensorFlow, which needs AVX-512, does not.
    cpuinfo = Path("/proc/cpuinfo")
    is_there = "avx512f" in cpuinfo.read_text() if cpuinfo.exists() else True
    assert np.array_equal(restored, exact) == (in_bfloat16.precision == "float32" or not is_there)


def test_strength_goes_from_the_input_to_the_restoration(restorer, photo):
    np.testing.assert_array_equal(restorer.restore(photo, strength=0), photo)
    restored = restorer.restore(photo).astype(float)
    half = restorer.restore(photo, strength=0.5)
    assert np.abs(half - (restored + photo) / 2).max() <= 1
    quarter = restorer.restore(photo, strength=0.25)
    assert 0 < np.abs(quarter - photo.astype(float)).mean() < np.abs(half - photo.astype(float)).mean()


def test_gray_stays_gray(restorer, photo):
    gray = np.ascontiguousarray(photo[:, :, 1:2])
    restored = restorer.restore(gray)
    assert restored.shape == gray.shape and levels(restored, gray) > 3
    np.testing.assert_array_equal(restorer.restore(np.repeat(gray, 3, axis=2)), np.repeat(restored, 3, axis=2))
    in_color = restorer._network(np.repeat(gray, 3, axis=2)[np.newaxis] / np.float32(255))[0] * 255
    assert np.abs(in_color @ [0.299, 0.587, 0.114] - restored[:, :, 0]).max() <= 0.51


def test_sixteen_bits_are_not_crushed(restorer, photo):
    photo = photo.clip(1, 254)
    fine = photo.astype(np.uint16) * 257 + np.random.default_rng(0).integers(-60, 60, photo.shape).astype(np.uint16)
    restored = restorer.restore(fine)
    assert restored.dtype == np.uint16 and len(np.unique(restored & 255)) == 256
    assert levels(restored // 257, restorer.restore(photo)) <= 1


def test_progress_adds_up_to_the_picture(load, run_folder, photo):
    done = []
    load(run_folder, tile=64).restore(photo, progress=done.append)
    assert len(done) > 1 and sum(done) == photo.shape[0] * photo.shape[1]


@pytest.mark.parametrize("pixels", [np.zeros([4, 4], np.uint8), np.zeros([4, 4, 4], np.uint8), np.zeros([4, 4, 3])])
def test_other_arrays_are_refused(pixels):
    with pytest.raises(ValueError, match="pixels must be uint8 or uint16"):
        Restorer(identity, 16).restore(pixels)


@pytest.mark.parametrize("options", [{"blend": -0.1}, {"blend": 1.5}, {"blend": np.nan}, {"tile": 0}, {"tile": 63}])
def test_options_out_of_range_are_refused(run_folder, options):
    with pytest.raises(InputError, match="must"):
        Restorer.load(run_folder, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "OpenVINO"}, "^engine must be one of auto, tensorflow, openvino: OpenVINO$"),
        ({"engine": None}, "^engine must be one of .*: None$"),
        ({"precision": "fp16"}, "^precision must be one of auto, float32, bfloat16, int8: fp16$"),
    ],
)
def test_engines_and_precisions_that_there_are_not_are_refused(run_folder, options, said):
    with pytest.raises(InputError, match=said):
        Restorer.load(run_folder, **options)


def test_strength_beyond_one_is_refused(photo):
    with pytest.raises(InputError, match="strength must lie"):
        Restorer(identity, 16).restore(photo, strength=1.5)


def test_model_that_gives_no_numbers_is_refused(photo):
    with pytest.raises(InputError, match="gives no numbers"):
        Restorer(lambda pictures: pictures * np.nan, 16).restore(photo)


@pytest.mark.parametrize("blend", [None, 1])
def test_seams_of_the_published_models_cannot_be_seen(blend):
    photo = np.concatenate([skimage_data.coffee()[:256], skimage_data.astronaut()[:256]], axis=1)
    jpeg = decode_picture(to_jpeg(photo, quality=80)).pixels
    whole, tiled = (
        Restorer.load(blend=blend, engine="openvino", precision="float32", tile=tile).restore(jpeg)
        for tile in (1120, 512)
    )
    apart = levels(whole, tiled)
    assert 0 < apart <= 2 and np.mean(np.abs(whole.astype(int) - tiled).max(axis=2) > 1) < 1e-3


def test_small_tiles_are_restored_together():
    seen = []
    Restorer(lambda pictures: (seen.append(pictures.shape), pictures)[1], 16, tile=64).restore(
        np.zeros([320, 320, 3], np.uint8) + np.arange(3, dtype=np.uint8)
    )
    assert max(shape[0] for shape in seen) > 4
    assert all(shape[0] * shape[1] * shape[2] <= 512**2 for shape in seen)


class ShortOfMemory:
    """A network that cannot hold more than so many pixels."""

    def __init__(self, most):
        self.most, self.too_large, self.largest = most, [], 0

    def __call__(self, pictures):
        if pictures[..., 0].size > self.most:
            self.too_large.append(pictures[..., 0].size)
            raise MemoryError
        self.largest = max(self.largest, pictures[..., 0].size)
        return brighter(pictures)


def test_tiles_are_halved_when_memory_runs_out():
    pixels = np.random.default_rng(0).integers(0, 255, (700, 500, 3), np.uint8)
    network, done = ShortOfMemory(140**2), []
    restorer = Restorer(network, 16)
    np.testing.assert_array_equal(restorer.restore(pixels, progress=done.append), pixels + 1)
    assert sum(done) == 700 * 500
    # What was too large once is not tried again with this picture.
    assert network.too_large and network.too_large == sorted(set(network.too_large), reverse=True)
    network.most = np.inf
    np.testing.assert_array_equal(restorer.restore(pixels), pixels + 1)
    assert network.largest > 140**2  # a shortage that is over makes nothing slow


def test_too_little_memory_for_the_smallest_tile_is_one_clear_line():
    with pytest.raises(InputError, match="^not enough memory even for the smallest tiles: close other programs$"):
        Restorer(ShortOfMemory(100), 16).restore(np.zeros([300, 300, 1], np.uint8))


def test_side_of_tiles_follows_the_free_memory(monkeypatch):
    def choose_with(megabytes, memory_per_pixel=960):
        monkeypatch.setattr(restoration, "_free_memory", lambda: megabytes * 1e6)
        shapes = []
        restorer = Restorer(lambda pictures: (shapes.append(pictures.shape), pictures)[1], 16, memory_per_pixel)
        restorer.restore(np.zeros([64, 4000, 1], np.uint8))
        return max(width for _, _, width, _ in shapes)

    most = 848  # of 0.7 GB
    assert choose_with(0) <= 64 and most - 64 < choose_with(100_000) <= most
    assert 64 < choose_with(200) < choose_with(800) < choose_with(100_000)
    assert choose_with(800) < choose_with(800, 240)


@pytest.mark.parametrize(
    ("limit", "used", "statistics", "prefix"),
    [
        ("memory.max", "memory.current", "memory.stat", ""),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_"),
    ],
    ids=["cgroup v2", "cgroup v1"],
)
def test_free_memory_is_no_more_than_the_container_has(tmp_path, monkeypatch, limit, used, statistics, prefix):
    monkeypatch.setattr(restoration, "_CONTAINER", tmp_path)
    (tmp_path / "memory").mkdir()
    (tmp_path / used).write_text("1000000\n")
    (tmp_path / limit).write_text("5000000\n")
    (tmp_path / statistics).write_text("anon 1000000\n")
    assert restoration._free_memory() == 4_000_000
    # Files that were read or written stay in memory until others need it.
    (tmp_path / statistics).write_text(f"anon 200000\n{prefix}inactive_file 700000\n{prefix}active_file 100000\n")
    assert restoration._free_memory() == 4_800_000
    for unlimited in ("max\n", "9223372036854771712\n"):
        (tmp_path / limit).write_text(unlimited)
        assert restoration._free_memory() > 10_000_000


def test_free_memory_is_no_more_than_the_machine_has():
    assert 0 < restoration._free_memory() <= psutil.virtual_memory().total


def test_threads_may_share_a_restorer(load, run_folder, photo):
    shared = load(run_folder, precision="bfloat16")
    expected, results = shared.restore(photo), {}
    threads = [
        threading.Thread(target=lambda number=number: results.update({number: shared.restore(photo)}))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        np.testing.assert_array_equal(results[number], expected)


# Which model


@pytest.mark.parametrize(
    "place", ["", "saved_models", "saved_models/pretrain_generator", "saved_models/pretrain_generator/1"]
)
def test_faithful_model_is_found_in_any_folder_of_a_run(load, run_folder, place):
    export = run_folder / "saved_models" / "pretrain_generator" / "1"
    assert load(str(run_folder / place)).description == str(export)


def test_perceptual_model_is_taken_where_it_is_the_only_one(load, run_folder):
    export = run_folder / "saved_models" / "gan" / "1"
    assert load(export).description == str(export)


def test_blend_goes_from_the_faithful_to_the_perceptual_model(load, run_folder, restorer, photo):
    def restore(**options):
        return load(precision="float32", **options).restore(photo)

    perceptual = restore(model=run_folder / "saved_models" / "gan")
    np.testing.assert_array_equal(restore(model=run_folder, blend=0), restorer.restore(photo))
    np.testing.assert_array_equal(restore(model=run_folder, blend=1), perceptual)
    between = restore(model=run_folder, blend=0.5)
    assert levels(between, perceptual) > 1 < levels(between, restorer.restore(photo))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_blending_anew_is_loading_with_that_blend(load, run_folder, photo, precision):
    restorer = load(run_folder, blend=0.25, precision=precision)
    for blend in (1, 0.7, 0.25, 0):
        before = restorer.restore(photo)
        restorer.reblend(blend)
        after, loaded = restorer.restore(photo), load(run_folder, blend=blend, precision=precision)
        np.testing.assert_array_equal(after, loaded.restore(photo))
        assert restorer.description == loaded.description and (blend == 0.25 or (before != after).any())


def test_blending_anew_needs_both_models(load, restorer, run_folder):
    with pytest.raises(ValueError, match="one model only"):
        restorer.reblend(0.5)
    with pytest.raises(InputError, match="0..1"):
        load(run_folder, blend=0).reblend(2)


def test_blend_needs_both_models(run_folder):
    with pytest.raises(InputError, match="holds no gan, and blend mixes both"):
        Restorer.load(run_folder / "saved_models" / "pretrain_generator" / "1", blend=0.5)


def test_models_of_two_sizes_are_not_blended(monkeypatch, tmp_path):
    channels = {}
    for stage, count in (("pretrain_generator", 8), ("gan", 12)):
        folder = tmp_path / stage / "1"
        folder.mkdir(parents=True)
        (folder / "saved_model.pb").touch()
        (folder / "manifest.json").write_text("{}")
        channels[folder] = count

    def load_engine(_, folder, __, to_blend):  # a real one would take half a minute to make and load
        return types.SimpleNamespace(
            memory_factor=1, read_weights=lambda: {"shallow/kernel": np.zeros([3, 3, 12, channels[folder]])}
        )

    monkeypatch.setattr(restoration, "load_engine", load_engine)
    with pytest.raises(InputError, match="of another size"):
        Restorer.load(tmp_path, blend=0.5)


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path} holds no model: give the folder of a finished run"):
        Restorer.load(tmp_path)
    with pytest.raises(InputError, match="holds no model"):
        Restorer.load(tmp_path / "missing")


def test_discriminator_is_refused(load, run_folder):
    with pytest.raises(InputError, match="it is a discriminator"):
        load(run_folder / "saved_models" / "pretrain_discriminator" / "1")


def test_without_a_published_model_the_way_to_one_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(model_folder, "PUBLISHED", tmp_path)
    with pytest.raises(InputError, match=r"no model is published .* folder, such as runs/quick"):
        Restorer.load()


def test_published_model_is_the_default(monkeypatch, run_folder):
    monkeypatch.setattr(model_folder, "PUBLISHED", run_folder / "saved_models")
    assert Restorer.load().description == str(run_folder / "saved_models" / "pretrain_generator" / "1")


def test_what_the_manifest_says_is_used(run_folder, restorer):
    assert restorer.trained_quality == (10, 60)
    assert restorer._overlap == read_manifest(run_folder / "saved_models" / "pretrain_generator" / "1")["overlap"]


# Pictures and files


def test_bytes_give_a_png_of_the_restored_pixels(restorer, photo):
    content = to_jpeg(skimage_data.coffee()[:201, :299])
    restored = Image.open(io.BytesIO(restorer.restore_bytes(content)))
    assert restored.format == "PNG"
    np.testing.assert_array_equal(np.asarray(restored), restorer.restore(photo))


def test_block_grid_is_that_of_the_stored_picture_and_the_result_is_upright(restorer, photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = to_jpeg(skimage_data.coffee()[:201, :299], exif=exif)
    restored = Image.open(io.BytesIO(restorer.restore_bytes(content)))
    assert restored.getexif().get(0x0112, 1) == 1
    np.testing.assert_array_equal(np.asarray(restored), np.rot90(restorer.restore(photo), -1))


@pytest.mark.parametrize(("quality", "left_alone"), [(100, True), (97, True), (96, False)])
def test_practically_uncompressed_jpeg_is_left_alone(quality, left_alone):
    restorer = Restorer(lambda pictures: np.clip(pictures + 8 / 255, 0, 1), 16)
    picture = decode_picture(to_jpeg(skimage_data.coffee()[:64, :64], quality))
    restored = restorer.restore_picture(picture)
    assert np.array_equal(restored.pixels, picture.pixels) == left_alone
    assert any("left alone" in note and f"quality {quality}" in note for note in restored.notes) == left_alone
    assert not np.array_equal(restorer.restore_picture(picture, force=True).pixels, picture.pixels)


def test_a_format_that_cannot_hold_a_picture_is_refused_before_it_is_restored(tmp_path):
    (tmp_path / "wide.jpg").write_bytes(to_jpeg(np.zeros((8, 20_000, 3), np.uint8)))
    restorer = Restorer(lambda _: pytest.fail("restored"), 16)
    with pytest.raises(InputError, match="20000x8 pixels are more than a webp can hold"):
        restorer.restore_bytes((tmp_path / "wide.jpg").read_bytes(), format="webp")
    with pytest.raises(InputError, match="20000x8 pixels are more than a webp can hold"):
        restorer.restore_file(tmp_path / "wide.jpg", tmp_path / "wide.webp")


def test_a_jpeg_is_handed_back_where_another_would_lose_what_restoring_gains(tmp_path):
    file = tmp_path / "a.jpg"
    file.write_bytes(content := to_jpeg(skimage_data.coffee()[:64, :64], 50))
    faint = Restorer(lambda pictures: pictures + np.float32(0.3 / 255), 16)
    assert faint.restore_bytes(content, format="jpeg") == content
    assert faint.restore_file(file, tmp_path / "b.jpg").read_bytes() == content
    for options in ({"force": True}, {"quality": 95}, {"format": "png"}):
        assert decode_picture(faint.restore_bytes(content, **{"format": "jpeg"} | options)).restored_by


@pytest.mark.parametrize(
    ("trained", "note"),
    [((10, 39), "10 to 39"), ((10, 10), "quality 10"), ((10, 40), None), (None, None)],
)
def test_a_quality_far_above_what_the_model_was_trained_for_is_noted(trained, note):
    picture = decode_picture(to_jpeg(skimage_data.coffee()[:64, :64], 50))
    restored = Restorer(identity, 16, trained_quality=trained).restore_picture(picture)
    said = f"quality 50, the model was trained for {note}: detail may be lost, strength lowers it"
    assert restored.notes == ((said,) if note else ())


def test_what_is_left_alone_is_not_warned_of():
    picture = decode_picture(to_jpeg(skimage_data.coffee()[:64, :64], 98))
    restorer = Restorer(identity, 16, trained_quality=(10, 10))
    [note], [forced] = (restorer.restore_picture(picture, force=force).notes for force in (False, True))
    assert note.startswith("left alone") and forced.startswith("quality 98")


@pytest.mark.parametrize("levels", [(0, 255), (0, 7, 90, 255)])
def test_transparency_is_kept_bit_for_bit(restorer, photo, levels):
    alpha = np.array(levels, np.uint8)[np.indices(photo.shape[:2]).sum(0) % len(levels)]
    picture = decode_picture(to_png(np.dstack([photo, alpha])))
    restored = restorer.restore_picture(picture)
    np.testing.assert_array_equal(restored.alpha, alpha)
    np.testing.assert_array_equal(restored.pixels, restorer.restore(photo))


def test_looking_for_artifacts_can_be_stopped():
    class StoppedError(Exception):
        pass

    def stop(pixels):
        assert not pixels  # a sample's do not count
        raise StoppedError

    with pytest.raises(StoppedError):
        Restorer(identity, 16).restore_picture(decode_picture(to_png(skimage_data.coffee()[:200, :200])), progress=stop)


def test_file_is_restored_beside_itself(restorer, photo, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(to_jpeg(skimage_data.coffee()[:201, :299]))
    written = restorer.restore_file(tmp_path / "photo.jpg")
    assert written == tmp_path / "photo_restored.png"
    np.testing.assert_array_equal(np.asarray(Image.open(written)), restorer.restore(photo))


def test_missing_folders_of_the_output_are_made(restorer, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(to_jpeg(skimage_data.coffee()[:16, :16]))
    assert restorer.restore_file(tmp_path / "photo.jpg", tmp_path / "a" / "b" / "c.webp").is_file()
    with pytest.raises(FileExistsError, match="photo.jpg"):
        restorer.restore_file(tmp_path / "photo.jpg", tmp_path / "photo.jpg" / "c.webp")


def test_a_long_name_is_shortened_beside_itself(restorer, tmp_path):
    file = tmp_path / f"{'n' * 250}.jpg"
    file.write_bytes(to_jpeg(skimage_data.coffee()[:16, :16]))
    written = restorer.restore_file(file)
    assert written.is_file() and written.name.endswith("_restored.png") and len(written.name) == 255


def test_format_follows_the_name_of_the_output(restorer, photo, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(to_jpeg(photo))
    restorer.restore_file(str(tmp_path / "photo.jpg"), str(tmp_path / "out.webp"), strength=0)
    assert (tmp_path / "out.webp").read_bytes()[8:12] == b"WEBP"


def test_file_that_is_there_is_replaced_only_when_asked(restorer, photo, tmp_path):
    for name in ("photo.jpg", "photo_restored.png"):
        (tmp_path / name).write_bytes(to_jpeg(photo))
    with pytest.raises(InputError, match="photo_restored.png exists"):
        restorer.restore_file(tmp_path / "photo.jpg")
    restorer.restore_file(tmp_path / "photo.jpg", overwrite=True)
    assert (tmp_path / "photo_restored.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("output", [None, "copy.jpg"])
def test_a_file_keeps_its_dates_unless_it_gets_new_ones(restorer, photo, tmp_path, output):
    file, output = tmp_path / "photo.jpg", output and tmp_path / output
    file.write_bytes(to_jpeg(photo, 98 if output else 10))  # restored, or copied
    os.utime(file, ns=(10**18 + 1, 10**18 + 2))
    stat = restorer.restore_file(file, output).stat()
    assert (stat.st_atime_ns, stat.st_mtime_ns) == (10**18 + 1, 10**18 + 2)
    assert restorer.restore_file(file, output, overwrite=True, new_dates=True).stat().st_mtime_ns > 10**18 + 2


def test_package_offers_the_restorer_and_costs_nothing_until_it_is_used():
    code = """
import sys
import artifact_remover
assert "tensorflow" not in sys.modules and "PIL" not in sys.modules
assert "Restorer" in dir(artifact_remover)
from artifact_remover import Restorer
assert Restorer.__module__ == "artifact_remover.restoration"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
