"""The share of decisions that are right: the block grid of crops, earlier compressions, and clean pictures.

python -m tests.benchmarks.decisions grid --data DIR/live1 --most 6
python -m tests.benchmarks.decisions earlier --data DIR/live1
python -m tests.benchmarks.decisions clean --data DIR/photographs DIR/drawings --most 25
python -m tests.benchmarks.decisions codecs --data DIR/live1 DIR/graphics
pip install -e '.[programs]'
python -m tests.benchmarks.decisions programs --data DIR/live1 DIR/graphics
python -m tests.benchmarks.decisions turned --data DIR/live1 DIR/graphics
python -m tests.benchmarks.decisions enlarged --data DIR/live1 DIR/graphics
python -m tests.benchmarks.decisions scaled --data DIR/live1 DIR/graphics
python -m tests.benchmarks.decisions processed --data DIR/live1 DIR/graphics
python -m tests.benchmarks.decisions small --data DIR/live1 DIR/graphics
python -m tests.benchmarks.decisions repeated --data DIR/live1 DIR/graphics
python -m tests.benchmarks.decisions harm --data DIR/live1 DIR/graphics
python -m tests.benchmarks.decisions written --data DIR/live1 DIR/graphics

`grid`: JPEGs cut at all 256 offsets of 0..15 rows and columns; how often the grid is found, and the gain of restoring
at 0, 0, and as a mean over those of equal row and column and all at which the grid is missed. `earlier`: pictures saved
once, which must not be taken for more, and saved twice, whose first compression must be found. `clean`: how many clean
pictures are restored all the same, as they are, noisy as a scan is, scaled and with each pixel repeated, and of the
same pictures, saved as a JPEG and scaled, how many are. `codecs`: how many lossy WebPs and AVIFs are restored, how many
of their lossless copies, and what they gain. `programs`: JPEGs of mozjpeg, of jpegli and of Photoshop's tables; how
many are taken for saved twice, and what they gain. `turned`: JPEGs that were turned without loss, and what the model
alone gains as they lie. `enlarged`: JPEGs of pictures that were enlarged before, by interpolation. `scaled`: of JPEGs
that were scaled and saved again. `processed`: of JPEGs of pictures with grain, blur, halftone dots and the like, each a
part of 256 pixels. `small`: of JPEGs of thumbnails. `repeated`: of JPEGs of pictures each of whose pixels was repeated,
and in how many of them that is found. `harm`: pictures that are further from the clean one than before, by more than
0.02 dB, of JPEGs of all qualities, and of their lossless copies that were cut. `written`: what is left of the gain in
the files that are written, as PNG, JPEG and AVIF, of the formats' default quality and of that which the picture needs.

One JSON line for each case. At most the middle 384 pixels of each side of a picture are taken, for `grid` 256.
"""

import argparse
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from data_prep.quiet import quiet_tensorflow

with quiet_tensorflow():
    from artifact_remover.restoration import Restorer

from artifact_remover.decision import decide
from artifact_remover.pictures.picture import decode_picture
from artifact_remover.restore_picture import fit_to_format, write_restored
from data_prep.jpeg_programs import encode_with_jpegli, encode_with_mozjpeg
from data_prep.photographs import SUFFIXES
from data_prep.processing import PROCESSES, apply
from tests.sample_pictures import repeat_pixels, to_file, to_jpeg, to_png, to_turned_jpeg

PROGRAMS = (
    ("mozjpeg", 60, "4:2:0"),
    ("mozjpeg", 75, "4:2:0"),
    ("mozjpeg", 90, "4:2:0"),
    ("mozjpeg", 90, "4:4:4"),
    ("jpegli", 60, "4:2:0"),
    ("jpegli", 75, "4:2:0"),
    ("jpegli", 90, "4:2:0"),
    ("photoshop", "low", "4:2:0"),
    ("photoshop", "medium", "4:2:0"),
    ("photoshop", "high", "4:4:4"),
    ("photoshop", "maximum", "4:4:4"),
)
QUALITIES = (5, 20, 50, 75, 85, 90, 94, 95, 96, 97, 98, 100)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="FOLDER")
    parser.add_argument("--most", type=int, default=200, help="pictures of each folder")
    parser.add_argument("--model", type=Path, help="folder of a SavedModel; the published faithful one otherwise")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16", "int8"), default="auto")
    parser.add_argument("--quality", type=int, nargs="+", default=QUALITIES, help="of `harm`")
    options = parser.parse_args()
    restorer = Restorer.load(options.model, precision=options.precision)
    how = {"benchmark": options.measure, "precision": restorer.precision}
    for folder in options.data:
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not files:
            parser.error(f"no pictures: {folder}")
        clean = [take_middle(file, 256 + 16 if options.measure == "grid" else 384) for file in files[: options.most]]
        measure = MEASURES[options.measure]
        for row in measure(clean, restorer, options.quality) if measure is measure_harm else measure(clean, restorer):
            print(json.dumps(how | {"data": str(folder), "pictures": len(clean)} | row), flush=True)


def take_middle(file, side):
    with Image.open(file) as image:
        width, height = image.size
        left, top = max(0, (width - side) // 2), max(0, (height - side) // 2)
        return np.array(image.convert("RGB").crop((left, top, min(width, left + side), min(height, top + side))))


def measure_grid(clean, restorer):
    for quality in (10, 30, 50):
        for subsampling in ("4:2:0", "4:4:4"):
            found, gains = [], []
            jpegs = [decode_picture(to_jpeg(each, quality, subsampling=subsampling)).pixels for each in clean]
            for row, column in np.ndindex(16, 16):
                part = slice(row, row + 256), slice(column, column + 256)
                for before, jpeg in zip(clean, jpegs, strict=True):
                    picture = decode_picture(to_png(jpeg[part]))
                    found.append(decide(picture).offset == (-row % 8, -column % 8))
                    if row == column or not found[-1]:
                        restored = restorer.restore_picture(picture)
                        gains.append(gain(before[part], jpeg[part], restored.pixels))
            yield {
                "quality": quality,
                "subsampling": subsampling,
                "grid_found": round(float(np.mean(found)), 4),
                "gain_at_0_0": round(float(np.mean(gains[: len(clean)])), 3),
                "mean_gain": round(float(np.mean(gains)), 3),
                "least_gain": round(float(min(gains)), 3),
            }


def measure_earlier(clean, restorer):
    for quality in (75, 85, 90, 95, 97, 99):
        decisions = [judge(to_jpeg(each, quality), restorer) for each in clean]
        yield {
            "saved_once": quality,
            "taken_for_twice": sum("again" in decision.found for decision in decisions),
            "restored": sum(decision.restore for decision in decisions),
        }
    for first, last in ((20, 95), (50, 95), (75, 95), (50, 90), (20, 97), (50, 97), (75, 97), (85, 97)):
        for cut in ((0, 0), (3, 5)):
            once = [decode_picture(to_jpeg(each, first)).pixels[cut[0] :, cut[1] :] for each in clean]
            decisions = [judge(to_jpeg(np.ascontiguousarray(each), last), restorer) for each in once]
            yield {
                "first": first,
                "last": last,
                "cut": cut,
                "not_found": sum("again" not in decision.found for decision in decisions),
                "not_restored": sum(not decision.restore for decision in decisions),
            }


def measure_clean(clean, restorer):
    traces = sum("no trace" not in decide(decode_picture(to_png(each))).found for each in clean)
    yield {"clean": "as it is", "traces": traces} | restore_clean(clean, restorer)
    for deviation in (3, 6, 12):
        noisy = (add_noise(each, deviation, number) for number, each in enumerate(clean))
        yield {"clean": "noisy", "deviation": deviation} | restore_clean(noisy, restorer)
    for factor in (0.5, 0.7, 1.4, 2.0):
        yield {"clean": "scaled", "factor": factor} | restore_clean((scale(each, factor) for each in clean), restorer)
    for filter in (Image.Resampling.BILINEAR, Image.Resampling.LANCZOS):
        yield {"clean": filter.name, "factor": 2.0} | restore_clean(
            (scale(each, 2, filter) for each in clean), restorer
        )
    for factor in (2, 3, 4, 8):
        yield {"clean": "pixels repeated", "factor": factor} | restore_clean(
            (repeat_pixels(each[: 1152 // factor, : 1152 // factor], factor, factor) for each in clean), restorer
        )
    for quality in (20, 50):
        for factor in (0.5, 0.7, 1.4):
            truths = [scale(each, factor) for each in clean]
            jpegs = [to_png(scale(decode_picture(to_jpeg(each, quality)).pixels, factor)) for each in clean]
            yield {"quality": quality, "factor": factor} | restore_degraded(truths, jpegs, restorer)


def measure_codecs(clean, restorer):
    for format, quality in (("WEBP", 75), ("WEBP", 90), ("AVIF", 60), ("AVIF", 80)):
        coded = [to_file(each, format, quality=quality) for each in clean]
        copies = [to_png(decode_picture(each).pixels) for each in coded]
        yield {"format": format, "quality": quality} | restore_degraded(clean, coded, restorer)
        yield {"lossless copies of": format, "quality": quality} | restore_degraded(clean, copies, restorer)


def measure_programs(clean, restorer):
    for program, quality, subsampling in PROGRAMS:
        jpegs = [encode_with(program, each, quality, subsampling) for each in clean]
        twice = sum("saved again" in decide(decode_picture(each)).found for each in jpegs)
        case = {"program": program, "quality": quality, "subsampling": subsampling, "taken_for_twice": twice}
        yield case | restore_degraded(clean, jpegs, restorer)


def encode_with(program, pixels, quality, subsampling):
    """Encodes as other programs do; of `photoshop` Pillow has some of its tables, which have names for qualities."""
    match program:
        case "mozjpeg":
            return encode_with_mozjpeg(pixels, quality, subsampling == "4:2:0")
        case "jpegli":
            return encode_with_jpegli(pixels, quality)
        case "photoshop":
            return to_file(pixels, quality=quality)


def measure_turned(clean, restorer):
    for quality, subsampling in (
        (50, "4:4:0"),
        (75, "4:4:0"),
        (90, "4:4:0"),
        (50, "4:2:0"),
        (50, "4:4:4"),
        (90, "4:4:4"),
    ):
        jpegs = [to_turned_jpeg(each, quality, subsampling) for each in clean]
        pairs = [(each, decode_picture(jpeg).pixels) for each, jpeg in zip(clean, jpegs, strict=True)]
        as_it_lies = [gain(each, pixels, restorer.restore(pixels)) for each, pixels in pairs]
        case = {"quality": quality, "subsampling": subsampling, "as_it_lies": round(float(np.mean(as_it_lies)), 2)}
        yield case | restore_degraded(clean, jpegs, restorer)


def measure_enlarged(clean, restorer):
    clean = [each[:192, :192] for each in clean]
    for factor, filter in (
        (1.4, Image.Resampling.BICUBIC),
        (2, Image.Resampling.BICUBIC),
        (2, Image.Resampling.LANCZOS),
    ):
        large = [scale(each, factor, filter) for each in clean]
        for quality, subsampling in ((50, "4:2:0"), (75, "4:2:0"), (90, "4:2:0"), (90, "4:4:4")):
            jpegs = [to_jpeg(each, quality, subsampling=subsampling) for each in large]
            case = {"factor": factor, "filter": filter.name, "quality": quality, "subsampling": subsampling}
            yield case | restore_degraded(large, jpegs, restorer)


def measure_scaled(clean, restorer):
    for first, factor, last in ((30, 0.7, 80), (50, 1.4, 75), (75, 0.7, 85), (30, 1.4, 90)):
        truths = [scale(each, factor) for each in clean]
        scaled = [scale(decode_picture(to_jpeg(each, first)).pixels, factor) for each in clean]
        case = {"first": first, "factor": factor, "last": last}
        yield case | restore_degraded(truths, [to_jpeg(each, last) for each in scaled], restorer)


def measure_processed(clean, restorer):
    for process in PROCESSES:
        pictures = [
            apply(process, each[:256, :256], np.random.default_rng(number)) for number, each in enumerate(clean)
        ]
        for quality, subsampling in ((50, "4:2:0"), (75, "4:2:0"), (90, "4:2:0"), (90, "4:4:4")):
            jpegs = [to_jpeg(each, quality, subsampling=subsampling) for each in pictures]
            case = {"process": process.__name__, "quality": quality, "subsampling": subsampling}
            yield case | restore_degraded(pictures, jpegs, restorer)


def measure_small(clean, restorer):
    for side in (24, 32, 48):
        small = [np.array(Image.fromarray(each).resize((side, side), Image.Resampling.LANCZOS)) for each in clean]
        for quality, subsampling in ((50, "4:2:0"), (75, "4:2:0"), (90, "4:2:0"), (90, "4:4:4")):
            jpegs = [to_jpeg(each, quality, subsampling=subsampling) for each in small]
            case = {"side": side, "quality": quality, "subsampling": subsampling}
            yield case | restore_degraded(small, jpegs, restorer)


def measure_repeated(clean, restorer):
    for down, across in ((1, 2), (1.5, 1.5), (2, 2), (2.5, 2.5), (3, 3), (4, 4), (8, 8)):
        large = [repeat_pixels(each[: int(384 / down), : int(384 / across)], down, across) for each in clean]
        for quality, subsampling in ((50, "4:2:0"), (75, "4:2:0"), (90, "4:2:0"), (90, "4:4:4"), (97, "4:4:4")):
            jpegs = [to_jpeg(each, quality, subsampling=subsampling) for each in large]
            found = sum("each pixel" in decide(decode_picture(each)).found for each in jpegs)
            case = {"factors": (down, across), "quality": quality, "subsampling": subsampling, "found": found}
            yield case | restore_degraded(large, jpegs, restorer)


def measure_harm(clean, restorer, qualities):
    for subsampling in ("4:2:0", "4:4:4"):
        for quality in qualities:
            for cut in ((0, 0), (3, 5)):
                left_alone, gains = 0, []
                for each in clean:
                    content = to_jpeg(each, quality, subsampling=subsampling)
                    if cut != (0, 0):
                        content = to_png(decode_picture(content).pixels[cut[0] :, cut[1] :])
                    before = decode_picture(content)
                    after = restorer.restore_picture(before)
                    left_alone += not after.decision.restore
                    truth = each[cut[0] :, cut[1] :]
                    gains.append(gain(truth, before.pixels, after.pixels) if after.decision.restore else 0.0)
                yield {
                    "quality": quality,
                    "subsampling": subsampling,
                    "cut": cut,
                    "left_alone": left_alone,
                    "mean_gain": round(float(np.mean(gains)), 2),
                    "least_gain": round(float(min(gains)), 2),
                    "worse": sum(bool(each < -0.02) for each in gains),
                }


def measure_written(clean, restorer):
    for subsampling, qualities in (("4:2:0", (50, 75, 90, 96)), ("4:4:4", (75, 90, 94))):
        for quality in qualities:
            jpegs = [to_jpeg(each, quality, subsampling=subsampling) for each in clean]
            pictures = [decode_picture(each) for each in jpegs]
            restored = [restorer.restore_picture(each) for each in pictures]
            for format, fitted in (("png", True), ("jpeg", False), ("jpeg", True), ("avif", False), ("avif", True)):
                gains, sizes, handed_back = [], [], 0
                for truth, jpeg, before, after in zip(clean, jpegs, pictures, restored, strict=True):
                    chosen = fit_to_format(before, after, format) if fitted else after
                    file = io.BytesIO()
                    write_restored(chosen, jpeg, file, format)
                    if after.decision.restore and file.getvalue() == jpeg:
                        handed_back += 1
                    elif after.decision.restore:
                        gains.append(gain(truth, before.pixels, decode_picture(file.getvalue()).pixels))
                        sizes.append(len(file.getvalue()) / len(jpeg))
                yield {
                    "quality": quality,
                    "subsampling": subsampling,
                    "format": format,
                    "fitted": fitted,
                    "handed_back": handed_back,
                    "size": round(float(np.mean(sizes)), 2),
                } | summarize(gains)


def restore_clean(clean, restorer):
    """Counts those that are restored all the same, and computes the least PSNR to what they were, in dB."""
    left = []
    for each in clean:
        after = restorer.restore_picture(decode_picture(to_png(each)))
        if after.decision.restore:
            left.append(float(peak_signal_noise_ratio(each, after.pixels)))
    return {"restored": len(left), "least_psnr": round(min(left), 1) if left else None}


def restore_degraded(clean, degraded, restorer):
    """Counts those that are restored, and computes what these gain, in dB."""
    gains = []
    for truth, content in zip(clean, degraded, strict=True):
        before = decode_picture(content)
        after = restorer.restore_picture(before)
        if after.decision.restore:
            gains.append(gain(truth, before.pixels, after.pixels))
    return summarize(gains)


def summarize(gains):
    return {
        "restored": len(gains),
        "mean_gain": round(float(np.mean(gains)), 2) if gains else None,
        "least_gain": round(float(min(gains)), 2) if gains else None,
        "worse": sum(bool(each < -0.02) for each in gains),
    }


def judge(content, restorer):
    return decide(decode_picture(content), restore=restorer.restore)


def gain(clean, jpeg, restored):
    """Computes what is gained in dB, of PSNRs of at most 80: a JPEG of a blank picture is the picture itself."""
    with np.errstate(divide="ignore"):
        before, after = (min(peak_signal_noise_ratio(clean, each), 80.0) for each in (jpeg, restored))
    return after - before


def scale(pixels, factor, filter=Image.Resampling.BICUBIC):
    image = Image.fromarray(pixels)
    return np.array(image.resize((round(image.width * factor), round(image.height * factor)), filter))


def add_noise(pixels, deviation, seed):
    """Adds white noise of this standard deviation, in levels, at a little less contrast, so that hardly any clips."""
    noise = np.random.default_rng(seed).normal(0, deviation, pixels.shape)
    return np.clip(np.rint(0.85 * pixels + 20 + noise), 0, 255).astype(np.uint8)


MEASURES = {
    "grid": measure_grid,
    "earlier": measure_earlier,
    "clean": measure_clean,
    "codecs": measure_codecs,
    "programs": measure_programs,
    "turned": measure_turned,
    "enlarged": measure_enlarged,
    "scaled": measure_scaled,
    "processed": measure_processed,
    "small": measure_small,
    "repeated": measure_repeated,
    "harm": measure_harm,
    "written": measure_written,
}

if __name__ == "__main__":
    main()
