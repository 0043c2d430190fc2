import dataclasses
import errno
import importlib.resources
import logging
import os
import shutil
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
import skimage
import tensorflow_datasets as tfds
from PIL import Image, ImageCms, PngImagePlugin

from data_prep.config import DataConfig
from data_prep.datasets.drawn_graphics import drawn_graphics_dataset_builder as drawn_graphics
from data_prep.datasets.photo_folder.photo_folder_dataset_builder import Builder as FolderBuilder
from data_prep.datasets.sample_photos.sample_photos_dataset_builder import PHOTOS
from data_prep.drawing import KINDS, draw_graphic
from data_prep.errors import InputError
from data_prep.photographs import find_photographs, hash_pixels, read_photograph
from data_prep.sources import open_photographs, require_readable
from data_prep.splits import PARTS, ROLES
from tests.sample_pictures import png_of, raw_png


def make_photo(seed, height=80, width=100):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Six photographs, two of them in a sub-folder with a name beyond ASCII."""
    folder = tmp_path / "photos"
    (folder / "Müñchen 東京").mkdir(parents=True)
    for number in range(4):
        Image.fromarray(make_photo(number)).save(folder / f"{number}.png")
    for number in (4, 5):
        Image.fromarray(make_photo(number)).save(folder / "Müñchen 東京" / f"Straße {number}.PNG")
    return folder


@pytest.fixture
def config(folder, tmp_path):
    return DataConfig(str(folder), tmp_path / "tfds")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return open_photographs(DataConfig("sample_photos", tmp_path_factory.mktemp("tfds")))


def names(photographs, role="generator", part=None):
    parts = [part] if part else PARTS
    return [entry.name for part in parts for entry in photographs.entries(role, part)]


# Reading one file


def test_gray_becomes_three_equal_channels(tmp_path):
    gray = make_photo(1)[..., 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_photograph(tmp_path / "gray.png"), np.stack([gray] * 3, -1))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_and_not_clipped(tmp_path, suffix):
    levels = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / f"deep.{suffix}")
    assert read_photograph(tmp_path / f"deep.{suffix}")[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_palette_gives_its_colors(tmp_path):
    photo = Image.fromarray(make_photo(1)).quantize(16)
    photo.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_photograph(tmp_path / "palette.png"), photo.convert("RGB"))


def test_opaque_alpha_is_dropped(tmp_path):
    photo = make_photo(1)
    Image.fromarray(np.dstack([photo, np.full((80, 100), 255, np.uint8)])).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_photograph(tmp_path / "opaque.png"), photo)


def test_transparent_is_white(tmp_path):
    photo = np.dstack([make_photo(1), np.zeros((80, 100), np.uint8)])
    Image.fromarray(photo).save(tmp_path / "transparent.png")
    assert (read_photograph(tmp_path / "transparent.png") == 255).all()


def test_cmyk_without_profile_is_converted(tmp_path):
    Image.new("CMYK", (64, 64), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    red, green, blue = read_photograph(tmp_path / "cmyk.jpg").mean(axis=(0, 1))
    assert red > 240 > 15 > max(green, blue)


def test_broken_profile_does_not_lose_the_photograph(tmp_path):
    photo = Image.new("CMYK", (64, 64), (0, 255, 255, 0))
    photo.save(tmp_path / "cmyk.jpg", icc_profile=b"no profile")
    assert read_photograph(tmp_path / "cmyk.jpg").shape == (64, 64, 3)


def test_profile_of_cmyk_is_applied(tmp_path, monkeypatch):
    applied = Image.new("RGB", (64, 64), (1, 2, 3))
    monkeypatch.setattr(ImageCms, "profileToProfile", lambda *args, **kwargs: applied)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("CMYK", (64, 64)).save(tmp_path / "cmyk.jpg", icc_profile=profile)
    assert read_photograph(tmp_path / "cmyk.jpg")[0, 0].tolist() == [1, 2, 3]


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(make_photo(1)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_photograph(tmp_path / "turned.jpg").shape == (100, 80, 3)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "tif"])
@pytest.mark.parametrize("orientation", [None, 3])
def test_orientation_of_xmp_is_not_applied(tmp_path, suffix, orientation):
    photo, exif = Image.fromarray(make_photo(1)), Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP.decode())
    if suffix == "tif":
        exif[700] = XMP
    xmp = {"png": {"pnginfo": text}, "tif": {}}.get(suffix, {"xmp": XMP})
    photo.save(tmp_path / f"plain.{suffix}")
    photo.save(tmp_path / f"turned.{suffix}", exif=exif, **xmp)
    plain, read = (read_photograph(tmp_path / f"{name}.{suffix}") for name in ("plain", "turned"))
    np.testing.assert_array_equal(read, plain[::-1, ::-1] if orientation else plain)


def test_orientation_of_xmp_behind_the_pixels_is_not_applied(tmp_path):
    photo = make_photo(1)
    png, chunk = raw_png(photo, 2, bits=8), png_of([(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + XMP)])[8:]
    (tmp_path / "late.png").write_bytes(png[:-12] + chunk + png[-12:])
    np.testing.assert_array_equal(read_photograph(tmp_path / "late.png"), photo)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_gray_of_any_depth_and_its_transparent_level(tmp_path, bits):
    levels = np.random.default_rng(1).integers(0, 2**bits, (80, 100, 1), np.uint16)
    levels[0, :3, 0] = 0, 1, 2**bits - 1
    gray = np.rint(levels * (255 / (2**bits - 1)))
    for transparent in (None, 0, 1):
        chunks = [] if transparent is None else [(b"tRNS", struct.pack(">H", transparent))]
        (tmp_path / "gray.png").write_bytes(raw_png(levels, 0, *chunks, bits=bits))
        expected = np.where(levels == transparent, 255, gray).repeat(3, axis=2)
        np.testing.assert_array_equal(read_photograph(tmp_path / "gray.png"), expected)


def test_a_text_is_not_taken_for_transparency(tmp_path):
    photo = make_photo(1)
    (tmp_path / "text.png").write_bytes(raw_png(photo, 2, (b"tEXt", b"transparency\0no"), bits=8))
    np.testing.assert_array_equal(read_photograph(tmp_path / "text.png"), photo)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_long_text_and_profile_do_not_lose_the_photograph(tmp_path, compressed):
    photo, text = make_photo(1), PngImagePlugin.PngInfo()
    text.add_text("Workflow", "A" * 3_000_000, zip=compressed)
    Image.fromarray(photo).save(tmp_path / "long.png", pnginfo=text, icc_profile=bytes(2_000_000))
    np.testing.assert_array_equal(read_photograph(tmp_path / "long.png"), photo)


def test_a_bomb_of_text_is_refused(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "A" * (2**26 + 1), zip=True)
    Image.fromarray(make_photo(1)).save(tmp_path / "bomb.png", pnginfo=text)
    with pytest.raises(InputError, match="not a usable picture"):
        read_photograph(tmp_path / "bomb.png")
    assert (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY) == (2**20, 2**26)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_only_its_end_marker_is_read(tmp_path, mode, progressive):
    file = tmp_path / "photo.jpg"
    Image.fromarray(make_photo(1)).convert(mode).save(file, progressive=progressive)
    content, photo = file.read_bytes(), read_photograph(file)
    for missing in (1, 2):
        file.write_bytes(content[:-missing])
        np.testing.assert_array_equal(read_photograph(file), photo)
    for missing in (3, 4, 20, 200):  # of the data, too
        file.write_bytes(content[: -2 - missing])
        with pytest.raises(InputError, match="truncated"):
            read_photograph(file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not in a format that can be read"),
        (b"a text file\n", "not in a format that can be read"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "truncated or damaged, or of a kind that cannot be read"),
        (b"\xff\xd8\xff\xe0" + bytes(40), "truncated or damaged, or of a kind that cannot be read"),
    ],
    ids=["empty", "text", "cut", "start of a JPEG"],
)
def test_broken_file_is_named_in_one_line(tmp_path, content, reason):
    file = tmp_path / "broken.jpg"
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"^not a usable picture, mend or remove it: {file} \({reason}\)$") as error:
        read_photograph(file)
    assert "\n" not in str(error.value)


def test_a_file_that_may_not_be_read_is_told_with_the_systems_reason_alone(ordinary_user, tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(InputError, match=r"a\.png \(Permission denied\)$"):
        read_photograph(tmp_path / "a.png")


def test_truncated_file_is_refused(folder):
    whole = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a usable picture"):
        read_photograph(folder / "0.png")


def test_hash_tells_shape_and_pixels_apart():
    photo = make_photo(1)
    assert hash_pixels(photo) == hash_pixels(photo.copy())
    assert len({hash_pixels(photo), hash_pixels(photo.reshape(100, 80, 3)), hash_pixels(photo[::-1])}) == 3


def test_photographs_are_found_by_extension_in_any_case(folder):
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    assert len(list(find_photographs(folder))) == 6


@pytest.mark.parametrize("closed", ["", "photos", "photos/sub"])
def test_a_folder_that_may_not_be_read_is_told(ordinary_user, tmp_path, closed):
    """With fewer photographs a run would be split, and a model judged, otherwise."""
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    (tmp_path / closed).chmod(0)
    with pytest.raises(InputError, match="check its permissions") as told:
        list(find_photographs(tmp_path / "photos"))
    (tmp_path / closed).chmod(0o700)
    assert str(tmp_path / (closed or "photos")) in str(told.value)


@pytest.mark.parametrize(("quality", "tolerance"), [(100, 3), (90, 12)])
def test_avif_is_read(tmp_path, quality, tolerance):
    smooth = np.stack([np.linspace(0, 255, 100).repeat(80).reshape(100, 80)] * 3, -1).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.AVIF", quality=quality, subsampling="4:4:4")
    [file] = find_photographs(tmp_path)
    photo = read_photograph(file)
    assert photo.dtype == np.uint8
    np.testing.assert_allclose(photo.astype(int), smooth, atol=tolerance)


@pytest.mark.parametrize("kept", [0, 20, 200, -50])
def test_damaged_avif_is_named(tmp_path, kept):
    Image.fromarray(make_photo(1)).save(tmp_path / "a.avif")
    (tmp_path / "a.avif").write_bytes((tmp_path / "a.avif").read_bytes()[:kept])
    with pytest.raises(InputError, match="not a usable picture"):
        read_photograph(tmp_path / "a.avif")


def test_avif_with_damaged_pixels_is_named(tmp_path):
    file = tmp_path / "a.avif"
    Image.fromarray(make_photo(1)).save(file)
    head, _, coded = file.read_bytes().partition(b"mdat")
    file.write_bytes(head + b"mdat" + b"\xff" * 16 + coded[16:])
    with pytest.raises(InputError, match=f"not a usable picture, mend or remove it: {file}"):
        read_photograph(file)


def test_tiff_whose_offsets_are_no_numbers_is_named(tmp_path):
    file = tmp_path / "a.tif"
    Image.fromarray(make_photo(1)).save(file)
    offsets = struct.pack("<HH", 273, 4)  # StripOffsets, a tag of type LONG
    file.write_bytes(file.read_bytes().replace(offsets, struct.pack("<HH", 273, 7)))
    with pytest.raises(InputError, match=f"not a usable picture, mend or remove it: {file}"):
        read_photograph(file)


# A folder


def test_folder_is_split_and_read_as_it_is(config):
    photographs = open_photographs(config)
    assert sorted(names(photographs))[-1] == "Müñchen 東京/Straße 5.PNG"
    read = dict(pair for part in PARTS for pair in photographs.decoded("generator", part))
    assert len(read) == 6
    np.testing.assert_array_equal(read["3.png"], make_photo(3))


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are Unicode elsewhere")
def test_names_that_are_not_utf_8_stay_apart(config, folder):
    for number, name in enumerate((b"M\xfcller.png", b"M\xf6ller.png"), start=10):
        Image.fromarray(make_photo(number)).save(folder / os.fsdecode(name))
    assert {"M\\udcfcller.png", "M\\udcf6ller.png", "3.png"} < set(names(open_photographs(config)))


def test_unusable_files_are_left_out_and_named(config, folder, caplog):
    (folder / "text.jpg").write_text("no picture")
    Image.fromarray(make_photo(9, 63, 300)).save(folder / "small.png")
    Image.fromarray(make_photo(0)).save(folder / "same.tif")
    with caplog.at_level(logging.WARNING, logger="data_prep"):
        photographs = open_photographs(config)
    assert len(names(photographs)) == 6
    left_out = [message for message in caplog.messages if message.startswith("left out:")]
    for name in ("text.jpg", "small.png", "same.tif"):
        assert sum(name in message for message in left_out) == 1


def test_unchanged_folder_is_prepared_once(config, monkeypatch):
    first = open_photographs(config)
    monkeypatch.setattr(FolderBuilder, "_generate_examples", None)
    assert names(open_photographs(config)) == names(first)


def test_changed_folder_is_prepared_again(config, folder):
    open_photographs(config)
    Image.fromarray(make_photo(77)).save(folder / "0.png")
    Image.fromarray(make_photo(78)).save(folder / "new.png")
    photographs = open_photographs(config)
    read = dict(pair for part in PARTS for pair in photographs.decoded("generator", part))
    np.testing.assert_array_equal(read["0.png"], make_photo(77))
    assert "new.png" in read


def test_content_is_told_by_names_and_pixels_not_by_dates(config, folder):
    before = open_photographs(config)
    os.utime(folder / "0.png", (1, 1))
    touched = open_photographs(config)
    assert touched.full_name != before.full_name and touched.content == before.content
    assert names(touched) == names(before) and touched.splits == before.splits
    (folder / "0.png").rename(folder / "00.png")
    renamed = open_photographs(config)
    Image.fromarray(make_photo(77)).save(folder / "00.png")
    contents = {each.content for each in (before, renamed, open_photographs(config))}
    graphics = dataclasses.replace(before, graphics=before)
    assert len(contents | {graphics.content}) == 4


def test_of_two_that_prepare_the_same_the_second_waits(config, monkeypatch, caplog):
    prepared = []
    generate = FolderBuilder._generate_examples

    def count(self, folder):
        time.sleep(0.5)
        prepared.append(folder)
        return generate(self, folder)

    monkeypatch.setattr(FolderBuilder, "_generate_examples", count)
    with ThreadPoolExecutor() as threads:
        first, second = threads.map(open_photographs, [config, config])
    assert len(prepared) == 1 and names(first) == names(second)
    assert f"waiting for process {os.getpid()} on " in caplog.text


@pytest.mark.parametrize("kept", [None, 0, 0.5, 0.999])
@pytest.mark.parametrize("file", ["*.tfrecord-*", "inventory.json", "dataset_info.json"])
def test_what_is_damaged_is_prepared_again(config, file, kept):
    before = open_photographs(config)
    [damaged] = Path(before.builder.data_dir).glob(file)
    content = damaged.read_bytes()
    if kept is None:
        damaged.unlink()
    else:
        damaged.write_bytes(content[: int(len(content) * kept)])
    if file == "dataset_info.json" and kept is not None:  # then TFDS does not even say where it lies
        with pytest.raises(InputError, match=rf"{config.data} is damaged, choose another data_dir.* {config.data_dir}"):
            open_photographs(config)
        return
    after = open_photographs(config)
    assert after.full_name == before.full_name and after.inventory == before.inventory
    read = dict(pair for part in PARTS for pair in after.decoded("generator", part))
    np.testing.assert_array_equal(read["3.png"], make_photo(3))


def test_a_flipped_bit_is_told_with_the_folder_to_remove(config):
    photographs = open_photographs(config)
    require_readable(photographs)
    [file] = photographs.builder.data_path.glob("*.tfrecord-*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    message = f"damaged, remove it .*: {photographs.builder.data_dir} \\("
    with pytest.raises(InputError, match=message):
        require_readable(dataclasses.replace(open_photographs(config), graphics=photographs))
    (photographs.builder.data_path / "inventory.json").unlink()
    with pytest.raises(InputError, match=message):
        open_photographs(config)
    shutil.rmtree(photographs.builder.data_dir)
    assert open_photographs(config).content == photographs.content


def test_killed_preparation_leaves_nothing_behind(config, monkeypatch):
    def killed(self, folder):
        yield "0", {"image": make_photo(0), "name": "0"}
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FolderBuilder, "_generate_examples", killed)
        open_photographs(config)
    assert len(names(open_photographs(config))) == 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such photographs, give sample_photos or div2k or an existing folder: .*x$"),
        (lambda path: path.write_text(""), "not a folder, .*x$"),
        (lambda path: path.mkdir(), "no PNG, JPEG, WebP, AVIF or TIFF file in the folder: .*x$"),
    ],
    ids=["missing", "file", "empty"],
)
def test_unusable_folder_is_named(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(InputError, match=message):
        open_photographs(DataConfig(str(tmp_path / "x"), tmp_path / "tfds"))


def test_unreadable_folder_is_named(config, folder, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", refuse)  # the tests may run as root, who may read everything
    with pytest.raises(InputError, match="cannot read the folder, .* \\(Permission denied\\)"):
        open_photographs(config)


def test_folder_with_only_broken_files_is_named(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "text.png").write_text("no picture")
    with pytest.raises(InputError, match="no usable photograph in the folder, .*photos$"):
        open_photographs(DataConfig(str(tmp_path / "photos"), tmp_path / "tfds"))


def test_two_photographs_are_too_few(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(2):
        Image.fromarray(make_photo(number)).save(tmp_path / "photos" / f"{number}.png")
    with pytest.raises(InputError, match="2 usable photographs are too few"):
        open_photographs(DataConfig(str(tmp_path / "photos"), tmp_path / "tfds"))


def test_data_dir_that_is_a_file_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot keep the prepared photographs, choose another data_dir: .*file"):
        open_photographs(DataConfig(str(folder), tmp_path / "file"))


def test_full_disk_is_reported(config, monkeypatch):
    def fill(self, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(FolderBuilder, "download_and_prepare", fill)
    with pytest.raises(InputError, match="cannot keep .*No space left on device"):
        open_photographs(config)


# Exclusion


def test_excluded_pixels_are_left_out_and_counts_stay_true(folder, tmp_path):
    (tmp_path / "benchmark").mkdir()
    everything = open_photographs(DataConfig(str(folder), tmp_path / "tfds"))
    victim = names(everything, part="train")[0]
    Image.open(folder / victim).save(tmp_path / "benchmark" / "other name.tiff")
    photographs = open_photographs(DataConfig(str(folder), tmp_path / "tfds", tmp_path / "benchmark"))
    assert victim not in names(photographs)
    read = [name for name, _ in photographs.decoded("generator", "train")]
    assert read == names(photographs, part="train")
    assert len(read) == photographs.count("generator", "train")
    assert set(names(photographs)) == set(names(everything)) - {victim}


def test_exclusion_works_for_sample_photos(samples, tmp_path):
    Image.open(os.path.join(os.path.dirname(skimage.__file__), "data", "astronaut.png")).save(
        tmp_path / "a.webp", lossless=True
    )
    data_dir = samples.builder.data_dir.removesuffix("sample_photos/1.0.0")
    photographs = open_photographs(DataConfig("sample_photos", data_dir, tmp_path))
    assert set(names(samples)) - set(names(photographs)) == {"astronaut"}


def test_excluding_everything_is_refused(config, folder):
    with pytest.raises(InputError, match="0 usable photographs are too few"):
        open_photographs(DataConfig(config.data, config.data_dir, folder))


def test_excluding_a_whole_part_is_refused(samples, tmp_path):
    for name, photo in samples.decoded("generator", "validation"):
        Image.fromarray(photo).save(tmp_path / f"{name}.png")
    data_dir = samples.builder.data_dir.removesuffix("sample_photos/1.0.0")
    with pytest.raises(InputError, match=f"no photograph is left for validation, exclude fewer: {tmp_path}"):
        open_photographs(DataConfig("sample_photos", data_dir, tmp_path))


@pytest.mark.parametrize(("name", "message"), [("none", "no such folder"), (".", "no picture to exclude")])
def test_useless_exclusion_is_refused(config, tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        open_photographs(DataConfig(config.data, config.data_dir, tmp_path / "empty" / name))


# Sample photographs


def test_sample_photos_keep_their_parts(samples):
    for part in PARTS:
        expected = {os.path.splitext(photo.file)[0] for photo in PHOTOS if photo.split == part}
        assert set(names(samples, part=part)) == set(names(samples, "discriminator", part)) == expected


def test_stereo_pair_is_never_parted():
    assert len({photo.split for photo in PHOTOS if photo.file.startswith("motorcycle")}) == 1


def test_sample_photos_are_the_files_of_scikit_image(samples):
    photos = dict(samples.decoded("generator", "test"))
    np.testing.assert_array_equal(photos["chelsea"], skimage.data.chelsea())
    np.testing.assert_array_equal(photos["camera"], np.stack([skimage.data.camera()] * 3, -1))
    assert photos["rocket"].shape == (214, 320, 3)


def test_reading_twice_gives_the_same_order(samples):
    for role in ROLES:
        first = [example["name"] for example in samples.read(role, "train").as_numpy_iterator()]
        assert first == [name.encode() for name in names(samples, role, "train")]


def test_smaller_photographs_are_left_out_of_reading(samples):
    read = [example["name"] for example in samples.read("generator", "train", 500).as_numpy_iterator()]
    assert b"ihc" not in read
    assert len(read) == len(samples.entries("generator", "train", 500)) == 6


# Graphics


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A few of the drawn graphics."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn_graphics, "COUNTS", {"train": 28, "validation": 3, "test": 2})
        return open_photographs(DataConfig("drawn_graphics", tmp_path_factory.mktemp("tfds")))


def test_drawn_graphics_hold_every_kind_and_pixel_art_more_often(drawn):
    assert [drawn.count("generator", part) for part in PARTS] == [28, 3, 2]
    kinds = [name.rpartition("_")[0] for name in names(drawn, part="train")]
    assert set(kinds) == set(KINDS)
    assert (kinds.count("pixel_art"), kinds.count("text")) == (8, 2)


def test_drawn_graphics_are_always_the_same_and_differ_between_parts(drawn):
    pictures = {(part, name): photo for part in PARTS for name, photo in drawn.decoded("generator", part)}
    assert len({hash_pixels(photo) for photo in pictures.values()}) == len(pictures)
    expected = draw_graphic(np.random.default_rng([0, 4]), 320, "pixel_art")
    np.testing.assert_array_equal(pictures["train", "pixel_art_0004"], expected)


def test_graphics_stand_beside_the_photographs(config, folder, tmp_path):
    (tmp_path / "graphics").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(tmp_path / "graphics" / f"{number}.png")
    photographs = open_photographs(dataclasses.replace(config, graphics=str(tmp_path / "graphics")))
    assert sorted(names(photographs.graphics)) == ["0.png", "1.png", "2.png"]
    alone = open_photographs(config)
    assert (alone.graphics, names(alone)) == (None, names(photographs))
    assert photographs.full_name == f"{alone.full_name} + {photographs.graphics.full_name}"


def test_what_is_a_graphic_is_no_photograph(config, folder, caplog):
    graphics = folder / "graphics"
    graphics.mkdir()
    for number in range(3):
        Image.fromarray(make_photo(20 + number)).save(graphics / f"{number}.png")
    with caplog.at_level(logging.WARNING, logger="data_prep"):
        photographs = open_photographs(dataclasses.replace(config, graphics=str(graphics)))
    assert "left out of the photographs: 3 pictures that are graphics, too" in caplog.messages
    assert len(names(photographs)) == 6 and not any("graphics" in name for name in names(photographs))
    assert len(names(photographs.graphics)) == 3
    [read] = [name for name, _ in photographs.decoded("generator", "test")]
    assert read in names(photographs)


def test_graphics_that_leave_too_few_photographs_are_refused(config, folder):
    message = f"of {folder} too little is left .* choose other graphics: {folder}"
    with pytest.raises(InputError, match=message):
        open_photographs(dataclasses.replace(config, graphics=str(folder)))


def test_excluded_pictures_are_no_graphics_either(config, folder, tmp_path):
    with pytest.raises(InputError, match="0 usable photographs are too few"):
        open_photographs(dataclasses.replace(config, data="sample_photos", graphics=str(folder), exclude=folder))


def test_unknown_graphics_are_named(config, tmp_path):
    message = f"no such graphics, give drawn_graphics or an existing folder: {tmp_path}/x"
    with pytest.raises(InputError, match=message):
        open_photographs(dataclasses.replace(config, graphics=f"{tmp_path}/x"))


# DIV2K


@pytest.fixture(scope="module")
def div2k(tmp_path_factory):
    """DIV2K as TFDS's own builder prepares it, from a tiny download."""
    download = tmp_path_factory.mktemp("download")
    for kind, first, count in (("train", 1, 800), ("valid", 801, 100)):
        for side in ("lr", f"hr/DIV2K_{kind}_HR"):
            (download / kind / side).mkdir(parents=True)
        for number in range(first, first + count):
            photo = Image.fromarray(make_photo(number, 8, 9))
            photo.save(download / kind / f"hr/DIV2K_{kind}_HR" / f"{number:04d}.png")
            photo.save(download / kind / "lr" / f"{number:04d}x8.png")
    extracted = {
        f"{kind}_{side}_url": str(download / kind / side) for kind in ("train", "valid") for side in ("lr", "hr")
    }
    data_dir = tmp_path_factory.mktemp("tfds")
    builder = tfds.builder("div2k/bicubic_x8", data_dir=data_dir)
    with pytest.MonkeyPatch.context() as patch:
        # TFDS 4.9.10 needs the package without declaring it; Python has the same in its library.
        patch.setitem(sys.modules, "importlib_resources", importlib.resources)
        patch.setattr(tfds.download.DownloadManager, "download_and_extract", lambda self, urls: extracted)
        builder.download_and_prepare()
    return open_photographs(DataConfig("div2k", data_dir))


def test_div2k_is_split_as_asked_for(div2k):
    counts = {role: [div2k.count(role, part) for part in PARTS] for role in ROLES}
    assert counts == {"generator": [700, 100, 100], "discriminator": [300, 50, 50]}


def test_div2k_reads_the_high_resolution_photographs_once_each(div2k):
    expected = {hash_pixels(make_photo(number, 8, 9)) for number in range(1, 901)}
    read = [hash_pixels(photo) for part in PARTS for _, photo in div2k.decoded("generator", part)]
    assert len(read) == 900
    assert set(read) == expected


def test_inventory_names_what_is_read(div2k):
    name, photo = next(div2k.decoded("discriminator", "validation"))
    entry = div2k.entries("discriminator", "validation")[0]
    assert (name, hash_pixels(photo)) == (entry.name, entry.pixels) == ("train_0700", entry.pixels)


def test_div2k_without_internet_fails_at_once(tmp_path, monkeypatch):
    def fail(url, timeout):
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(requests, "head", fail)
    with pytest.raises(InputError, match="cannot download div2k, check the connection to the internet: https"):
        open_photographs(DataConfig("div2k", tmp_path))
