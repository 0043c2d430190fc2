import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from skimage import data as skimage_data

from artifact_remover import saved_model_jpeg_graph
from artifact_remover.model_folder import read_manifest, read_overlap
from artifact_remover.restoration import Restorer
from artifact_remover.tiling import plan_tiles
from tests.sample_pictures import levels, to_cmyk_jpeg, to_jpeg, to_png
from tests.tiny_models import make_generator

PHOTO = skimage_data.coffee()[:201, :299]
PICTURES = Path(__file__).parent / "pictures"
JPEGS = {
    "4:2:0": to_jpeg(PHOTO[:96, :128]),
    "4:4:4": to_jpeg(PHOTO[:96, :128], 40, subsampling="4:4:4"),
    "odd": to_jpeg(PHOTO),
    "gray": to_jpeg(PHOTO[:, :, 0]),
    "neutral": to_jpeg(np.repeat(PHOTO[:, :, :1], 3, axis=2)),
    "progressive": (PICTURES / "progressive.jpg").read_bytes(),
    "arithmetic": (PICTURES / "arithmetic.jpg").read_bytes(),
    "one pixel": to_jpeg(PHOTO[:1, :1]),
}


@pytest.fixture(scope="module")
def export(saved_models):
    return saved_models / "pretrain_generator" / "1"


@pytest.fixture(scope="module")
def restorer(export):
    return Restorer.load(export, precision="float32")


@pytest.fixture(scope="module")
def restore_jpeg(export):
    """The signature: files in, what it returns as NumPy's arrays out."""
    exported = tf.saved_model.load(str(export))

    def run(*files):
        outputs = exported.signatures["restore_jpeg"](image_bytes=tf.constant(files, tf.string))
        return {name: value.numpy() for name, value in outputs.items()}

    run.exported = exported
    return run


def decode(content):
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        return image.mode, np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("name", sorted(JPEGS.keys() - {"one pixel"}))
def test_the_restore_command_gives_the_same(restorer, restore_jpeg, name):
    mode, restored = decode(restore_jpeg(JPEGS[name])["restored_bytes"][0])
    _, expected = decode(restorer.restore_bytes(JPEGS[name], force=True))
    assert mode == ("L" if name in ("gray", "neutral") else "RGB")
    assert levels(restored, expected) <= 1
    assert levels(restored, decode_jpeg(JPEGS[name])) > 2  # it was restored


def test_the_smallest_picture_is_restored_without_surroundings(restorer, restore_jpeg):
    mode, restored = decode(restore_jpeg(JPEGS["one pixel"])["restored_bytes"][0])
    assert mode == "L" and levels(restored, restorer.restore(decode_jpeg(JPEGS["one pixel"]))) <= 1


def decode_jpeg(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_pictures_of_several_sizes_are_restored_at_once(restore_jpeg):
    together = restore_jpeg(*JPEGS.values())
    sizes = [Image.open(io.BytesIO(jpeg)).size for jpeg in JPEGS.values()]
    assert [*zip(together["width"], together["height"], strict=True)] == sizes
    assert together["height"].dtype == together["width"].dtype == np.int32
    assert [restore_jpeg(jpeg)["restored_bytes"][0] for jpeg in JPEGS.values()] == list(together["restored_bytes"])
    assert restore_jpeg()["restored_bytes"].shape == (0,)


@pytest.mark.parametrize("side", [64, 128])
@pytest.mark.parametrize("name", ["odd", "gray"])
def test_tiles_give_what_the_restore_command_gives(export, restorer, name, side):
    generator, overlap = make_generator(0), read_overlap(read_manifest(export))
    assert len(plan_tiles(PHOTO.shape[:2], side, overlap)) > 4

    @tf.function
    def run(image_bytes):
        network = lambda picture: tf.clip_by_value(generator(picture, training=False), 0, 1)  # noqa: E731
        return saved_model_jpeg_graph.restore_jpegs(network, image_bytes, overlap, side)

    _, restored = decode(run(tf.constant([JPEGS[name]]))["restored_bytes"].numpy()[0])
    assert levels(restored, decode(restorer.restore_bytes(JPEGS[name]))[1]) <= 1


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200, 512, 1000])
@pytest.mark.parametrize(("side", "overlap"), [(64, 16), (96, 32), (64, 48)])
def test_tiles_are_no_larger_than_asked_for_and_about_equal(length, side, overlap):
    core = int(saved_model_jpeg_graph._choose_core(tf.constant(length), overlap, side))
    if length <= side:
        assert core == length
    else:
        assert core % 16 == 0 and core + 2 * overlap <= max(side, 2 * overlap + 16)
        assert core - ((length - 1) % core + 1) <= 16 * -(-length // core)


def test_orientation_is_not_applied(restore_jpeg):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = restore_jpeg(to_jpeg(PHOTO, exif=exif))
    assert (turned["height"][0], turned["width"][0]) == PHOTO.shape[:2]
    assert turned["restored_bytes"][0] == restore_jpeg(JPEGS["odd"])["restored_bytes"][0]


def test_png_of_eight_bits_is_restored(restorer, restore_jpeg):
    pixels = decode_jpeg(JPEGS["odd"])
    _, restored = decode(restore_jpeg(to_png(pixels))["restored_bytes"][0])
    assert levels(restored, restorer.restore(pixels)) <= 1
    mode, _ = decode(restore_jpeg(to_png(pixels[:, :, 0]))["restored_bytes"][0])
    assert mode == "L"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds neither a JPEG nor a PNG"),
        (b"no picture", "holds neither a JPEG nor a PNG"),
        (b"BM" + bytes(60), "holds neither a JPEG nor a PNG"),
        (b"\xff\xd8" + bytes(60), "JPEG"),
        (JPEGS["odd"][:100], "JPEG"),
        (JPEGS["odd"][:2000], "Invalid JPEG data"),
        (to_cmyk_jpeg(PHOTO[:16, :16]), "CMYK JPEG"),
        (to_png(PHOTO[:9, :9, 0].astype(np.uint16) * 257), "PNG of more than 8 bits"),
        (to_png(PHOTO)[:20], "PNG without a header"),
        (to_png(PHOTO)[:2000], "PNG"),
    ],
)
def test_what_is_no_such_picture_is_refused(restore_jpeg, content, said):
    with pytest.raises(tf.errors.InvalidArgumentError, match=said):
        restore_jpeg(JPEGS["one pixel"], content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_too_many_pixels_are_refused_before_they_are_decoded(restore_jpeg, kind):
    content = bytearray(to_jpeg(PHOTO) if kind == "JPEG" else to_png(PHOTO))
    size, claimed = (
        np.array(each, ">u2" if kind == "JPEG" else ">u4").tobytes() for each in ([201, 299], [9000, 9000])
    )
    if kind == "PNG":
        size = size[4:] + size[:4]  # width comes first
    position = content.index(size)
    content[position : position + len(size)] = claimed
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than the limit of 64 megapixels"):
        restore_jpeg(bytes(content))
