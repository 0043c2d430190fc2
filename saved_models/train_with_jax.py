"""Trains generators like the published ones on a GPU that has JAX but no TensorFlow, in a fixed number of minutes.

`python -m artifact_remover.fit` is how this project trains, with TensorFlow. The published models of November 2026
were made by this script instead, on a GPU that was at hand for a quarter of an hour (README.md beside it says what
came out; nothing was enlarged, processed or scaled yet, nor coded by other programs than libjpeg, so with `--enlarged 0
--processed 0 --scaled 0 --others 0`, and `--twice 0.15`):

    python train_with_jax.py --pictures TRAIN --validation VAL --weights faithful.npz --lpips lpips_vgg16.npz \
        --minutes-in GO --out OUT

All three stages train one after the other. While the pictures are still being sent, the networks are compiled and the
batch that trains fastest is found; the file GO then brings the minutes that are left. Needed are jax, keras, numpy,
opencv, pillow, tyro, for `--others` pyvips-binary, pyvips and pyjpegli, and this project on PYTHONPATH. The generator
is the project's own `build_generator`; weights travel as npz files, keyed by Keras's variable paths. Patches are cut,
recolored and compressed by worker processes, with OpenCV's libjpeg-turbo, whose pixels are Pillow's, and as other
programs code. Pictures and batches are in memory that all share. The learning rate follows the clock, so that a stage
always ends at the bottom of its cosine.
"""

import argparse
import functools
import json
import mmap
import multiprocessing
import os
import queue
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.85")
os.environ.setdefault("VIPS_CONCURRENCY", "1")  # as worker processes share the processors

import cv2  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402
from PIL import Image  # noqa: E402

from artifact_remover.config import PRESETS  # noqa: E402
from artifact_remover.generator import build_generator  # noqa: E402
from data_prep.config import LUMA  # noqa: E402
from data_prep.drawing import KINDS, draw_graphic  # noqa: E402
from data_prep.errors import InputError  # noqa: E402
from data_prep.jpeg_programs import encode_with_jpegli, encode_with_mozjpeg  # noqa: E402
from data_prep.photographs import SUFFIXES, read_photograph  # noqa: E402
from data_prep.processing import draw_side, enlarge, process  # noqa: E402

GENERATOR = PRESETS["blind"].generator
SAMPLINGS = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}
OTHERS = {
    "mozjpeg, 4:2:0": functools.partial(encode_with_mozjpeg, halved=True),
    "mozjpeg, 4:4:4": functools.partial(encode_with_mozjpeg, halved=False),
    "jpegli": encode_with_jpegli,
}
DRAWN_SAMPLINGS = ("4:2:0", "4:2:0", "4:4:4", "4:2:2")  # by libjpeg
RESAMPLINGS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
KINDS_OF_PICTURES = ("smooth", "sharp", "jpeg", "graphics")
GRAY = np.array([LUMA] * 3, np.float32)
COMPLEMENT = (2 * GRAY - np.eye(3)).astype(np.float32)  # every color's opposite, of the same luma
SHARES = {"generator": 0.8, "discriminator": 0.025, "gan": 0.175}  # of the time
RATES = {"generator": 6e-4, "discriminator": 2e-3, "gan": 3e-4}  # the highest
GAN_PATCH = 160  # side of what the last two stages see of a patch
PART = 8  # patches that a worker hands over at a time: batches are made of these
TERMS = {"pixel": 4.0, "perceptual": 1.0, "adversarial": 0.01, "drift": 1200.0, "grid": 600.0, "blocking": 20.0}


# ---- pictures to patches, in worker processes ----------------------------------------------------------------------
def load_picture(path):
    """Reads a picture as uint8 [H, W, 3] RGB, or `None` where it cannot be read."""
    try:
        return read_photograph(path)
    except InputError as error:
        print(f"left out: {error}", flush=True)
        return None


def kind_of(file):
    """Tells a picture's kind.

    `smooth` are photographs whose finest grain AVIF took, `sharp` are lossless or nearly so, `jpeg` were JPEGs, and
    `graphics` lie in folders of that name.
    """
    lossy = {".avif": "smooth", ".jpg": "jpeg", ".jpeg": "jpeg"}
    return "graphics" if "graphics" in file.parts else lossy.get(file.suffix.lower(), "sharp")


def find_pictures(folder):
    """Lists the pictures below a folder."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)


class Pictures:
    """Pictures that worker processes read together, each its share, into memory that all of them share."""

    def __init__(self, workers, capacity=3 * 10**9, most=10_000):
        """Takes the memory: anonymous, inherited by a fork, as /dev/shm may be small."""
        self.pixels = np.frombuffer(mmap.mmap(-1, capacity), np.uint8)
        self.table = np.frombuffer(mmap.mmap(-1, most * 4 * 8), np.int64).reshape(most, 4)
        self.pictures, self.bytes = multiprocessing.Value("q", 0), multiprocessing.Value("q", 0, lock=False)
        self.all_read, self.workers = multiprocessing.Barrier(workers), workers

    def read(self, number, folder, size):
        """Reads a share of a folder, waits for the others, and returns all of at least `size` pixels, by kind."""
        for file in find_pictures(folder)[number :: self.workers]:
            picture = load_picture(file)
            if picture is not None and min(picture.shape[:2]) >= size:
                self._keep(picture, KINDS_OF_PICTURES.index(kind_of(file)))
        self.all_read.wait()
        kinds = {name: [] for name in KINDS_OF_PICTURES}
        # By place, which differs from run to run, but is the same for all workers.
        for kind, start, height, width in self.table[: self.pictures.value]:
            pixels = self.pixels[start : start + height * width * 3].reshape(height, width, 3)
            kinds[KINDS_OF_PICTURES[kind]].append(pixels)
        return kinds

    def _keep(self, picture, kind):
        with self.pictures.get_lock():
            row, start = self.pictures.value, self.bytes.value
            self.pictures.value, self.bytes.value = row + 1, start + picture.size
            self.table[row] = kind, start, *picture.shape[:2]
        self.pixels[start : start + picture.size] = picture.reshape(-1)


def jpeg(patch, quality, coder):
    """Codes uint8 [H, W, 3] RGB with one of `OTHERS`, or libjpeg in one of `SAMPLINGS`, and decodes it."""
    if coder in OTHERS:
        data = np.frombuffer(OTHERS[coder](patch, quality), np.uint8)
    else:
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[coder]]
        _, data = cv2.imencode(".jpg", patch[..., ::-1], options)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]


def jpeg_off_the_grid(patch, top, left, quality, coder):
    """Codes uint8 [N, N, 3] RGB on a block grid that starts `top` and `left` pixels (0..15) before its corner."""
    size = patch.shape[0]
    wide = np.pad(patch, ((16, 16), (16, 16), (0, 0)), "symmetric")
    window = np.ascontiguousarray(wide[16 - top : 32 - top + size, 16 - left : 32 - left + size])
    return jpeg(window, quality, coder)[top : top + size, left : left + size]


def scale_jpeg(patch, offset, factor, resample, quality, coder):
    """Codes what becomes uint8 [N, N, 3] RGB when it is scaled, and scales it; returns the coded and the clean one.

    That is the middle of the patch, or more than it, mirrored. Blocks start `offset` (0..15) pixels before its corner.
    """
    size = patch.shape[0]
    side = round(size / factor)
    place = (np.arange(side + 32) - (side - size) // 2 - 16) % (2 * size)
    place = np.minimum(place, 2 * size - 1 - place)
    window = np.ascontiguousarray(patch[place][:, place])
    coded = jpeg_off_the_grid(window, *offset, quality, coder)
    return [
        np.asarray(Image.fromarray(each[16:-16, 16:-16]).resize((size, size), resample)) for each in (coded, window)
    ]


def draw_coding(rng, a, is_graphic):
    """Draws how a patch is degraded: `None` for not at all, else (quality, coder, first coding, offset, scaling).

    Quality 5-100, for photographs more often 5-40. Now and then cut out of a JPEG off its grid, saved twice, or scaled
    after it was saved.
    """
    if rng.random() < (0.2 if is_graphic else 0.05):
        return None
    coder = draw_coder(rng, a.others)
    quality = int(rng.integers(5, 101) if is_graphic or rng.random() < a.uniform else rng.integers(5, 41))
    drawn = rng.random()
    if drawn < a.cut:  # a crop or a screenshot of a JPEG
        return quality, coder, None, tuple(rng.integers(0, 16, 2)), None
    scaling, twice = None, a.cut + a.twice
    if twice <= drawn < twice + a.scaled:  # half of them saved again
        scaling = np.exp(rng.uniform(np.log(0.5), np.log(2))), RESAMPLINGS[rng.integers(len(RESAMPLINGS))]
        if rng.random() < 0.5:
            return quality, coder, None, tuple(rng.integers(0, 16, 2)), scaling
    if drawn < twice + a.scaled:  # half of them on the same grid, mostly the first time the worse one
        first = int(rng.integers(5, 81))
        offset = tuple(rng.integers(0, 16, 2)) if scaling or rng.random() < 0.5 else (0, 0)
        if rng.random() < 0.75:
            quality = int(rng.integers(first, 101))
        return quality, coder, (first, draw_coder(rng, a.others)), offset, scaling
    return quality, coder, None, (0, 0), None


def draw_coder(rng, others):
    """Draws what codes a patch, one of `OTHERS` in a share of them."""
    coders = list(OTHERS) if rng.random() < others else DRAWN_SAMPLINGS
    return coders[rng.integers(len(coders))]


def degrade(patch, coding):
    """Degrades uint8 [N, N, 3] RGB as `draw_coding` drew it; returns it and the clean one, scaled where it is."""
    if coding is None:
        return patch, patch
    quality, coder, first, offset, scaling = coding
    coded = patch
    if scaling is not None:
        coded, patch = scale_jpeg(patch, offset, *scaling, *(first or (quality, coder)))
    elif first is not None or offset != (0, 0):
        coded = jpeg_off_the_grid(patch, *offset, *(first or (quality, coder)))
    if first is not None or (scaling is None and offset == (0, 0)):
        coded = jpeg(np.ascontiguousarray(coded), quality, coder)
    return coded, patch


def choose_kind(rng, coding, kinds):
    """Chooses which photographs a coding is shown on: where it is fine, mostly sharp ones and none that were JPEGs."""
    if coding is None or coding[0] >= 85:
        shares = {"smooth": 0.4, "sharp": 0.6}
    elif coding[0] > 75:
        shares = {"smooth": 0.65, "sharp": 0.35}
    else:
        shares = {"smooth": 0.6, "sharp": 0.25, "jpeg": 0.15}
    names = [name for name in shares if kinds[name]] or [name for name in kinds if kinds[name]]
    weights = np.cumsum([shares.get(name, 1.0) for name in names])
    return names[int(np.searchsorted(weights, rng.random() * weights[-1]))]


def cut(picture, size, rng, gray_share, enlarged_share, on_grid):
    """Cuts a random clean patch, uint8 [size, size, 3] RGB: one of eight flips and turns, now and then recolored.

    Some are enlarged by interpolation.
    """
    enlarged = rng.random() < enlarged_share
    side = draw_side(size, rng) if enlarged else size
    top, left = rng.integers(0, picture.shape[0] - side + 1), rng.integers(0, picture.shape[1] - side + 1)
    if on_grid and not enlarged:  # as a file would be coded: pixel art whose pixels are blocks, text in rows of 16
        top, left = top // 16 * 16, left // 16 * 16
    patch = picture[top : top + side, left : left + side]
    if enlarged:
        patch = enlarge(patch, size, rng)
    patch = np.rot90(patch, rng.integers(4))
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    if rng.random() < 0.05:
        patch = patch[..., rng.permutation(3)]
    matrix = GRAY if rng.random() < gray_share else COMPLEMENT if rng.random() < 0.1 else None
    if matrix is not None:
        mixed = cv2.transform(np.ascontiguousarray(patch).astype(np.float32), matrix)
        low, high = min(0.0, float(mixed.min())), max(255.0, float(mixed.max()))
        patch = ((mixed - low) * (255 / (high - low)) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(patch)


def work(number, pictures, ring, free, ready, a):
    """Waits for the pictures, then fills free slots of the shared ring with patches, for ever."""
    cv2.setNumThreads(0)
    for coder in OTHERS if a.others else ():
        jpeg(np.zeros((16, 16, 3), np.uint8), 50, coder)  # what is missing is told before the minutes run
    wait_for_minutes(a)
    kinds = pictures.read(number, a.pictures, a.patch)
    if not any(kinds.values()):
        raise SystemExit(f"no picture of at least {a.patch} pixels a side in {a.pictures}")
    if not number:
        for name, each in kinds.items():
            print(f"{name}: {len(each)} of {sum(p.shape[0] * p.shape[1] for p in each) / 1e6:.0f} MP", flush=True)
    rng = np.random.default_rng([a.seed, number])
    areas = {
        name: np.cumsum([picture.shape[0] * picture.shape[1] for picture in each], dtype=float)
        for name, each in kinds.items()
        if each
    }
    while True:
        slot = free.get()
        for row in range(PART):
            is_graphic = rng.random() < a.graphics
            coding = draw_coding(rng, a, is_graphic)
            if is_graphic and (not kinds["graphics"] or rng.random() < a.drawn):
                kind = "pixel_art" if rng.random() < 0.25 else KINDS[rng.integers(len(KINDS))]
                picture = draw_graphic(rng, a.patch, kind)
            else:
                name = "graphics" if is_graphic else choose_kind(rng, coding, kinds)
                picture = kinds[name][np.searchsorted(areas[name], rng.random() * areas[name][-1])]
            patch = cut(picture, a.patch, rng, a.gray, a.enlarged, is_graphic and rng.random() < 0.5)
            if rng.random() < a.processed:
                patch = process(patch, rng)
            ring[slot, :, row] = degrade(patch, coding)
        ready.put(slot)


class Batches:
    """Batches of (degraded, clean), uint8 [2, N, p, p, 3] RGB, made by processes of their own."""

    def __init__(self, a, slots=160):
        """Starts the processes."""
        shape = (slots, 2, PART, a.patch, a.patch, 3)
        self.ring = np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), np.uint8).reshape(shape)
        context = multiprocessing.get_context("fork")
        self.free, self.ready = context.Queue(), context.Queue()
        arguments = (Pictures(a.workers), self.ring, self.free, self.ready, a)
        self.processes = [context.Process(target=work, args=(n, *arguments), daemon=True) for n in range(a.workers)]
        for each in self.processes:
            each.start()
        for slot in range(slots):
            self.free.put(slot)
        self.waited = 0.0

    def next(self, size):
        """Hands out the next `size` patches, a multiple of PART; `waited` counts the seconds of waiting."""
        started = time.perf_counter()
        slots = [self._next_slot() for _ in range(size // PART)]
        self.waited += time.perf_counter() - started
        batch = np.concatenate([self.ring[slot] for slot in slots], axis=1)
        for slot in slots:
            self.free.put(slot)
        return batch

    def _next_slot(self):
        while True:
            try:
                return self.ready.get(timeout=20)
            except queue.Empty:
                if not all(process.is_alive() for process in self.processes):
                    raise RuntimeError("a process that makes patches has died") from None

    def close(self):
        """Ends the processes."""
        for each in self.processes:
            each.terminate()


# ---- validation ----------------------------------------------------------------------------------------------------
JUDGED = {
    f"{quality} {coder}": (quality, coder, None, (0, 0), None)
    for quality, coder in (
        (10, "4:2:0"),
        (40, "4:2:0"),
        (80, "4:2:0"),
        (80, "mozjpeg, 4:2:0"),
        (90, "4:2:0"),
        (90, "4:4:4"),
    )
} | {"30, cut, then 50": (50, "4:2:0", (30, "4:2:0"), (4, 4), None)}


class Validation:
    """The middle of pictures that are not trained on, by kind and coding."""

    def __init__(self, folder, others, size=256):
        """Reads and codes the pictures, by other programs than libjpeg where these are at hand."""
        self.pairs, kinds = {}, {name: [] for name in KINDS_OF_PICTURES}
        files = find_pictures(folder)
        with ThreadPoolExecutor() as pool:
            for file, picture in zip(files, pool.map(load_picture, files), strict=True):
                if picture is not None and min(picture.shape[:2]) >= size:
                    kinds[kind_of(file)].append(picture)
        photographs = [*kinds["smooth"], *kinds["sharp"], *kinds["jpeg"]]
        for kind, pictures in (("photo", photographs), ("graphic", kinds["graphics"])):
            crops = []
            for picture in pictures[: len(pictures) // 8 * 8]:
                top, left = ((side - size) // 2 // 16 * 16 for side in picture.shape[:2])
                crops.append(np.ascontiguousarray(picture[top : top + size, left : left + size]))
            if not crops:
                continue
            clean = np.stack(crops)
            for name, coding in JUDGED.items():
                if coding[1] in OTHERS and not others:
                    continue
                coded = np.stack([degrade(each, coding)[0] for each in clean])
                self.pairs[f"{kind} {name}"] = coded, clean, psnr(coded, clean)
            self.pairs[f"{kind} clean"] = clean, clean, None

    def score(self, restore):
        """Returns gains over what went in, in dB, mean/least; of clean pictures the PSNR of what comes back."""
        scores = {}
        for name, (degraded, clean, before) in self.pairs.items():
            restored = np.concatenate([restore(degraded[i : i + 8]) for i in range(0, len(degraded), 8)])
            after = psnr(np.round(restored * 255), clean)
            after = after if before is None else after - before
            scores[name] = f"{after.mean():.3f}/{after.min():.2f}"
        return scores


def psnr(pictures, clean):
    """Returns the PSNR of each of uint8 or float [N, H, W, 3] in 0..255, float [N] in dB."""
    mse = np.mean((pictures.astype(np.float32) - clean) ** 2, axis=(1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(mse, 1e-2))


# ---- optimizer: Muon for the kernels of hidden convolutions, Adam for the rest, as training/optimizers.py ----------
def orthogonalize(m):
    """Brings the singular values of each of float32 [k, m, n] near one, by Newton-Schulz steps."""
    m = m / (jnp.linalg.norm(m, axis=(1, 2), keepdims=True) + 1e-7)
    for _ in range(5):
        gram = jnp.swapaxes(m, 1, 2) @ m
        m = 3.4445 * m + m @ (-4.7750 * gram + 2.0315 * gram @ gram)
    return m


def update(paths, params, grads, first, second, step, rate, clip):
    """Takes one step; one whose gradient is no number is left out, instead of ending a run that cannot be repeated."""
    norm = jnp.sqrt(sum(jnp.sum(g * g) for g in grads))
    good = jnp.isfinite(norm)
    scale = jnp.where(good, jnp.minimum(1.0, clip / (norm + 1e-12)), 0.0)
    grads = [jnp.where(good, g, 0.0) * scale for g in grads]
    first, second, steps, shapes = list(first), list(second), [None] * len(params), {}
    for n, (path, p, g) in enumerate(zip(paths, params, grads, strict=True)):
        if p.ndim == 4 and not any(name in path for name in ("shallow", "correction")):
            first[n] = 0.95 * first[n] + g
            shapes.setdefault((p.size // p.shape[-1], p.shape[-1]), []).append(n)
        else:
            first[n], second[n] = 0.9 * first[n] + 0.1 * g, 0.99 * second[n] + 0.01 * g * g
            steps[n] = (first[n] / (1 - 0.9**step)) / (jnp.sqrt(second[n] / (1 - 0.99**step)) + 1e-7)
    for shape, numbers in shapes.items():
        matrices = orthogonalize(jnp.stack([(grads[n] + 0.95 * first[n]).reshape(shape) for n in numbers]))
        for n, matrix in zip(numbers, matrices, strict=True):
            steps[n] = 0.2 * max(shape) ** 0.5 * matrix.reshape(params[n].shape)
    return [jnp.where(good, p - rate * s, p) for p, s in zip(params, steps, strict=True)], first, second, norm


# ---- losses: of float32 [N, p, p, 3] in [0, 1], as training/losses.py ----------------------------------------------
def rmse(clean, restored, floor=1e-5):
    """Root of the MSE of each patch; one below `floor` counts less."""
    mse = jnp.mean((clean - restored) ** 2, axis=(1, 2, 3))
    return 0.06 * jnp.mean(jnp.sqrt(mse + floor) - floor**0.5)


def drift(clean, restored):
    """Mean square of what the errors of a patch's 8 x 8 blocks have in common: tints and grids."""
    n, h, w, c = clean.shape
    return jnp.mean(jnp.mean((restored - clean).reshape(n, h // 8, 8, w // 8, 8, c), axis=(1, 3)) ** 2)


def grid(clean, restored):
    """Mean square of checkerboards."""
    error = restored - clean
    n, h, w, c = error.shape
    windows = error.reshape(n, h // 32, 16, 2, w // 32, 16, 2, c).mean(axis=(2, 5))
    return jnp.mean((windows - windows.mean(axis=(2, 4), keepdims=True)) ** 2)


def blocking(clean, restored):
    """Mean square of the errors' steps across the borders of blocks."""

    def between_columns(error):
        n, h, w, c = error.shape
        rows = error.reshape(n, h // 8, 8, w, c).mean(axis=2)
        return jnp.mean((rows[:, :, 8::8] - rows[:, :, 7:-1:8]) ** 2)

    error = restored - clean
    return (between_columns(error) + between_columns(error.transpose(0, 2, 1, 3))) / 2


def cross_entropy(logits, label):
    """Binary cross-entropy of logits against one label."""
    return jnp.mean(jnp.maximum(logits, 0) - logits * label + jnp.log1p(jnp.exp(-jnp.abs(logits))))


def load_lpips(file):
    """Builds LPIPS v0.1 with VGG16 (Zhang et al., CVPR 2018) from an npz of its convolutions and heads."""
    kept = np.load(file)
    blocks = [[f"block{b}_conv{n}" for n in range(1, count + 1)] for b, count in enumerate((2, 2, 3, 3, 3), 1)]
    weights = {
        name: tuple(jnp.asarray(kept[f"{name}/{part}"], jnp.bfloat16) for part in ("kernel", "bias"))
        for block in blocks
        for name in block
    }
    heads = [jnp.asarray(kept[f"lpips_lin{n}"]) for n in range(5)]
    mean, deviation = np.array([-0.030, -0.088, -0.188], np.float32), np.array([0.458, 0.448, 0.450], np.float32)

    def directions(image):
        """The features of the last layer of each block, of length one at each position."""
        x, last = ((jnp.clip(image, 0, 1) * 2 - 1 - mean) / deviation).astype(jnp.bfloat16), []
        for number, block in enumerate(blocks):
            if number:
                n, h, w, c = x.shape
                x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
            for name in block:
                kernel, bias = weights[name]
                x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
                x = jax.nn.relu(x + bias)
            last.append(x.astype(jnp.float32))
        return [x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-8) for x in last]

    def lpips(clean, restored):
        pairs = zip(heads, directions(jax.lax.stop_gradient(clean)), directions(restored), strict=True)
        return sum(jnp.mean(jnp.sum(head * (c - r) ** 2, -1)) for head, c, r in pairs)

    return lpips


# ---- the discriminator: the project's, whose module imports TensorFlow ---------------------------------------------
def build_discriminator(dtype, f=64):
    """Builds the project's discriminator, by the same names."""
    patches = keras.Input([None, None, 3], name="patches")
    x = layers.Rescaling(2.0, -1.0, dtype=dtype, name="centered")(patches)

    def conv(filters, kernel, stride, name, policy):
        convolution = layers.Conv2D(filters, kernel, stride, padding="same", dtype=policy, name=name)
        return layers.SpectralNormalization(
            convolution, dtype="float32", autocast=policy == "float32", name=f"{name}_spectral"
        )

    for number, shape in enumerate([(f, 3, 1), (f, 4, 2), (2 * f, 4, 2), (4 * f, 4, 2), (4 * f, 3, 1)], 1):
        x = conv(*shape, f"conv{number}", dtype)(x)
        x = layers.LeakyReLU(0.2, dtype=dtype, name=f"leaky{number}")(x)
    return keras.Model(patches, conv(1, 3, 1, "conv6", "float32")(x), name="discriminator")


def cut_and_grain(patches, key):
    """Cuts patches off the grid and puts grain of two levels on them, as the discriminator always sees them."""
    corner, grain = jax.random.split(key)
    top, left = jax.random.randint(corner, (2,), 0, 9)
    n, h, w, c = patches.shape
    patches = jax.lax.dynamic_slice(patches, (0, top, left, 0), (n, h - 8, w - 8, c))
    return patches + jax.random.normal(grain, patches.shape) * (2 / 255)


def unit(x):
    """Scales a vector to length one."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x), 1e-12))


class SpectralNorm:
    """Spectral normalization by one power iteration a step.

    The normalized kernels are kept, as Keras keeps them with TensorFlow; `stateless_call` hands back what is not
    trained alone, and would lose them.
    """

    def __init__(self, discriminator):
        """Finds which vector belongs to which kernel."""
        kernels = [weight.path for weight in discriminator.trainable_variables]
        vectors = [weight.path for weight in discriminator.non_trainable_variables]
        self.pairs = [
            (kernels.index(f"{path.rsplit('/', 1)[0]}/{path.split('_spectral')[0]}/kernel"), n)
            for n, path in enumerate(vectors)
            if path.endswith("vector_u")
        ]

    def __call__(self, params, fixed):
        """Returns the normalized kernels and the next vectors."""
        params, fixed = list(params), list(fixed)
        for k, n in self.pairs:
            w = params[k].reshape(-1, params[k].shape[-1])
            v = unit(fixed[n] @ w.T)
            u = unit(v @ w)
            params[k], fixed[n] = params[k] / (v @ w @ u.T)[0, 0], u
        return params, fixed


# ---- the stages ----------------------------------------------------------------------------------------------------
def as_float(batch):
    """Turns uint8 [2, N, p, p, 3] into two float32 in [0, 1]."""
    return batch[0].astype(jnp.float32) / 255, batch[1].astype(jnp.float32) / 255


def state_of(network, prefix=""):
    """Returns a network's weights and the optimizer's empty moments."""
    params = [jnp.asarray(weight.value) for weight in network.trainable_variables]
    zeros = [jnp.zeros_like(p) for p in params]
    return {f"{prefix}params": params, f"{prefix}first": zeros, f"{prefix}second": [z.copy() for z in zeros]}


class Generator:
    """The generator, its optimizer and the moving average of its weights."""

    def __init__(self, a):
        """Builds it and takes the weights that it starts with."""
        self.network = build_generator(GENERATOR, a.precision)
        if a.weights:
            load(self.network, a.weights)
        self.paths = [weight.path for weight in self.network.trainable_variables]
        self.state = state_of(self.network)
        self.state["ema"] = [p.copy() for p in self.state["params"]]

    def restore(self, params, image):
        """Restores float32 [N, H, W, 3] in [0, 1]; the result is about in [0, 1]."""
        return self.network.stateless_call(params, [], image, training=False)[0]

    def descend(self, state, loss_of, step, rate, clip):
        """Takes one step down `loss_of(params)`, which returns a loss and its terms."""
        (loss, terms), grads = jax.value_and_grad(loss_of, has_aux=True)(state["params"])
        moments = state["first"], state["second"]
        params, first, second, norm = update(self.paths, state["params"], grads, *moments, step, rate, clip)
        decay = jnp.minimum(0.999, (1 + step) / (10 + step))
        ema = [decay * e + (1 - decay) * p for e, p in zip(state["ema"], params, strict=True)]
        new = {"params": params, "ema": ema, "first": first, "second": second}
        return state | new, {"loss": loss, "norm": norm, **terms}

    def pretraining_step(self, state, batch, step, rate):
        """Takes one step of stage 1."""
        degraded, clean = as_float(batch)
        return self.descend(
            state, lambda params: (rmse(clean, self.restore(params, degraded)), {}), step, rate, clip=0.02
        )


class Gan:
    """Stages 2 and 3."""

    def __init__(self, generator, a):
        """Adds a discriminator to the generator's state."""
        self.generator, self.a = generator, a
        self.perceptual_distance = load_lpips(a.lpips)
        self.network = build_discriminator(a.precision)
        self.paths = [weight.path for weight in self.network.trainable_variables]
        self.normalized = SpectralNorm(self.network)
        generator.state |= state_of(self.network, "d_")
        generator.state["d_fixed"] = [jnp.asarray(weight.value) for weight in self.network.non_trainable_variables]

    def judge(self, params, fixed, patches):
        """Returns the discriminator's logits."""
        return self.network.stateless_call(params, fixed, patches, training=False)[0]

    def keys(self, step, seed):
        """Draws random keys from a step's number."""
        return jax.random.split(jax.random.fold_in(jax.random.key(seed), jnp.asarray(step).astype(jnp.uint32)), 3)

    def discriminate(self, state, degraded, clean, step, rate, key):
        """Takes one step of the discriminator, clean against restored."""
        patches = cut_and_grain(jnp.concatenate([clean, self.generator.restore(state["params"], degraded)]), key)
        start, fixed = self.normalized(state["d_params"], state["d_fixed"])

        def loss_of(params):
            real, fake = jnp.split(self.judge(params, fixed, patches), 2)
            return (cross_entropy(real, 1.0) + cross_entropy(fake, 0.0)) / 2

        loss, grads = jax.value_and_grad(loss_of)(start)
        moments = state["d_first"], state["d_second"]
        params, first, second, _ = update(self.paths, start, grads, *moments, step, rate, 1.0)
        return state | {"d_params": params, "d_fixed": fixed, "d_first": first, "d_second": second}, loss

    def discriminator_step(self, state, batch, step, rate):
        """Takes one step of stage 2."""
        key = self.keys(step, self.a.seed + 1)[0]
        patches = as_float(batch[:, :, :GAN_PATCH, :GAN_PATCH])
        state, loss = self.discriminate(state, *patches, step, rate, key)
        return state, {"discriminator": loss}

    def gan_step(self, state, batch, step, rate):
        """Takes one step of stage 3: the discriminator's, then the generator's."""
        degraded, clean = as_float(batch[:, :, :GAN_PATCH, :GAN_PATCH])
        keys = self.keys(step, self.a.seed)
        state, d_loss = self.discriminate(state, degraded, clean, step, rate, keys[0])
        d_params, d_fixed = self.normalized(state["d_params"], state["d_fixed"])
        top, left = jax.random.randint(keys[2], (2,), 0, GAN_PATCH - self.a.crop + 1)

        def crop(image):
            return jax.lax.dynamic_slice(image, (0, top, left, 0), (len(image), self.a.crop, self.a.crop, 3))

        def loss_of(params):
            restored = self.generator.restore(params, degraded)
            terms = {
                "pixel": jnp.mean(jnp.abs(clean - restored)),
                # At random offsets: a network that pools looks harder at some pixels than at others, and were these
                # always the same, the generator's answer would be a lattice.
                "perceptual": self.perceptual_distance(crop(clean), crop(restored)),
                "adversarial": cross_entropy(self.judge(d_params, d_fixed, cut_and_grain(restored, keys[1])), 1.0),
                "drift": drift(clean, restored),
                "grid": grid(clean, restored),
                "blocking": blocking(clean, restored),
            }
            return sum(TERMS[name] * value for name, value in terms.items()), terms

        state, scalars = self.generator.descend(state, loss_of, step, rate, clip=0.5)
        return state, {**scalars, "discriminator": d_loss}


class Trainer:
    """Runs stages by the clock, and reports some times in each."""

    def __init__(self, a):
        """Builds the networks, finds the batch, and has everything compiled."""
        print(jax.devices(), "jax", jax.__version__, "keras", keras.__version__, flush=True)
        keras.utils.set_random_seed(a.seed)
        self.a, self.curve = a, []
        self.generator = Generator(a)
        self.gan = Gan(self.generator, a)
        self.state = self.generator.state
        self.batch, first = self.find_batch(a.batch)
        compiler = ThreadPoolExecutor(1)
        self.steps = {
            "generator": compiler.submit(lambda: first),
            "discriminator": compiler.submit(self.compile, self.gan.discriminator_step, self.batch),
            "gan": compiler.submit(self.compile, self.gan.gan_step, self.batch),
        }
        self.clipped = jax.jit(
            lambda params, image: jnp.clip(self.generator.restore(params, image.astype(jnp.float32) / 255), 0, 1)
        )

    def compile(self, step_function, batch):
        """Compiles a step for batches of this size."""
        begun = time.perf_counter()
        patches = jax.ShapeDtypeStruct((2, batch, self.a.patch, self.a.patch, 3), jnp.uint8)
        shapes = jax.tree.map(lambda each: jax.ShapeDtypeStruct(each.shape, each.dtype), self.state)
        compiled = jax.jit(step_function, donate_argnums=0).lower(shapes, patches, 1.0, 0.0).compile()
        print(f"{step_function.__name__}: compiled in {time.perf_counter() - begun:.0f} s", flush=True)
        return compiled

    def find_batch(self, sizes):
        """Takes a larger batch where it trains a fifth faster; returns its size, and stage 1's step."""
        speeds, steps = {}, {}
        for size in sizes:
            steps[size] = self.compile(self.generator.pretraining_step, size)
            if len(sizes) > 1:
                speeds[size] = self.measure_speed(steps[size], size)
                print(f"batches of {size}: {speeds[size]:.0f} patches a second", flush=True)
        best = sizes[0]
        for size in sizes[1:]:
            if speeds[size] > 1.2 * speeds[best]:  # or it is not worth the fewer steps
                best = size
        return best, steps[best]

    def measure_speed(self, step, size, steps=40):
        """Returns how many patches a second a compiled step of stage 1 trains; changes nothing."""
        batch = np.zeros((2, size, self.a.patch, self.a.patch, 3), np.uint8)
        state, scalars = step(jax.tree.map(jnp.copy, self.state), batch, 1.0, 0.0)
        jax.block_until_ready(scalars)
        begun = time.perf_counter()
        for _ in range(steps):
            state, scalars = step(state, batch, 2.0, 0.0)
        jax.block_until_ready(scalars)
        return steps * size / (time.perf_counter() - begun)

    def validate(self):
        """Judges the averaged generator."""
        if not self.validation:
            return {}
        return self.validation.score(lambda image: np.asarray(self.clipped(self.state["ema"], image)))

    def report(self, row):
        """Prints a row and saves all weights: a run that is cut off loses a part."""
        self.curve.append(row)
        print(json.dumps(row), flush=True)
        curve = {"arguments": vars(self.a) | {"batch": self.batch}, "curve": self.curve}
        (self.a.out / "curve.json").write_text(json.dumps(curve, indent=1, default=str))
        if row["stage"] != "discriminator":
            save(self.a.out, row["stage"], self.generator.paths, self.state["ema"])
        if row["stage"] != "generator":
            params, _ = self.gan.normalized(self.state["d_params"], self.state["d_fixed"])
            save(self.a.out, "discriminator", self.gan.paths, params)

    def run(self, stage, length, reports=4):
        """Trains a stage for `length` seconds, the rate coming down a cosine."""
        compiled = self.steps[stage].result()
        self.batches.waited, step, reported = 0.0, 0, 0
        begun = time.perf_counter()
        while (seconds := time.perf_counter() - begun) < length:
            progress = seconds / length
            rate = RATES[stage] * min(1.0, progress / 0.02) * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * progress)))
            step += 1
            self.state, scalars = compiled(self.state, self.batches.next(self.batch), float(step), float(rate))
            if step % 20 == 0:
                jax.block_until_ready(scalars)  # so that the clock sees the work, not the queue
            if progress >= reported / reports:
                reported += 1
                shown = {name: float(f"{float(value):.4g}") for name, value in scalars.items()}
                speed = {"patches_per_s": round(self.batch * step / max(seconds, 1e-3))}
                row = {"stage": stage, "step": step, "seconds": round(seconds, 1), **speed}
                self.report(row | {"waited": round(self.batches.waited, 1), **shown, **self.validate()})
        jax.block_until_ready(self.state["params"])
        seconds = round(time.perf_counter() - begun, 1)
        self.report({"stage": stage, "step": step, "seconds": seconds, **self.validate()})

    def train(self, batches, validation, end):
        """Trains the three stages until `end`, a time of `time.time()`."""
        self.batches, self.validation = batches, validation
        print("before", json.dumps(self.validate()), flush=True)
        length = end - time.time()
        for stage, share in SHARES.items():
            if stage == "discriminator":  # both networks go on from the average of stage 1, with a new optimizer
                self.state["params"] = [p.copy() for p in self.state["ema"]]
                self.state |= {name: [jnp.zeros_like(p) for p in self.state[name]] for name in ("first", "second")}
            self.run(stage, share * length)


# ---- weights -------------------------------------------------------------------------------------------------------
def load(network, file):
    """Takes weights by path; residual blocks and layers that the file lacks stay as they are."""
    kept = dict(np.load(file))
    wanted = {weight.path: weight for weight in network.trainable_variables}
    if unknown := sorted(kept.keys() - wanted.keys()):
        raise SystemExit(f"{file} is not of this network: {unknown[:5]}")
    for path, value in kept.items():
        wanted[path].assign(value)
    if lacking := sorted(wanted.keys() - kept.keys()):
        print(f"{len(lacking)} weights are new: {lacking[:4]}", flush=True)


def save(folder, name, paths, values):
    """Writes name.npz, whole or not at all."""
    partial = folder / f"{name}.partial.npz"
    np.savez(partial, **{path: np.asarray(value, np.float32) for path, value in zip(paths, values, strict=True)})
    partial.rename(folder / f"{name}.npz")


def parse():
    """Reads the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pictures", type=Path, required=True, help="clean pictures, searched with all folders below")
    p.add_argument("--validation", type=Path, help="pictures that are not trained on")
    p.add_argument("--weights", type=Path, help="npz of generator weights to go on from")
    p.add_argument("--lpips", type=Path, required=True, help="npz of LPIPS (VGG16)")
    p.add_argument("--crop", type=int, default=128, help="side of what LPIPS sees of a patch")
    end = p.add_mutually_exclusive_group(required=True)
    end.add_argument("--minutes", type=float, help="to train in all")
    end.add_argument("--minutes-in", type=Path, help="a file that brings these minutes once all pictures are there")
    p.add_argument("--batch", type=int, nargs="+", default=[24, 48], help="sizes to choose from, multiples of 8")
    p.add_argument("--patch", type=int, default=192, help="side of a patch, a multiple of 32")
    p.add_argument("--graphics", type=float, default=0.12, help="share of patches that are of graphics")
    p.add_argument("--drawn", type=float, default=0.25, help="share of these that are drawn, not cut out of pictures")
    p.add_argument("--uniform", type=float, default=0.9, help="share of qualities that are drawn from all of 5-100")
    p.add_argument("--gray", type=float, default=0.05, help="share of patches that are made gray")
    p.add_argument("--enlarged", type=float, default=0.15, help="share of patches that are enlarged, by up to 4")
    p.add_argument("--processed", type=float, default=0.1, help="share of patches with grain, blur, dots and the like")
    p.add_argument("--cut", type=float, default=0.12, help="share of patches that are cut off their block grid")
    p.add_argument("--twice", type=float, default=0.28, help="share of patches that are saved twice")
    p.add_argument("--others", type=float, default=0.2, help="share of codings by mozjpeg and jpegli")
    p.add_argument("--scaled", type=float, default=0.12, help="share of patches that are scaled after they were saved")
    p.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    p.add_argument("--precision", default="mixed_bfloat16", choices=["mixed_bfloat16", "float32"])
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--out", type=Path, required=True)
    return p.parse_args()


def wait_for_minutes(a):
    """Waits until all pictures are there; returns the minutes to train."""
    while a.minutes is None:
        try:
            return float(a.minutes_in.read_text())
        except (FileNotFoundError, ValueError):
            time.sleep(0.2)
    return a.minutes


def main():
    """Starts the workers, compiles, and trains."""
    a = parse()
    a.out.mkdir(parents=True, exist_ok=True)
    batches = Batches(a)  # forked before JAX opens its devices
    try:
        trainer = Trainer(a)
        minutes = wait_for_minutes(a)
        start = a.minutes_in.stat().st_mtime if a.minutes_in else time.time()
        validation = Validation(a.validation, a.others) if a.validation else None
        trainer.train(batches, validation, start + 60 * minutes)
    finally:
        batches.close()


if __name__ == "__main__":
    main()
