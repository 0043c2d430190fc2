"""The options of the data: photographs, patches cut from them, and how they are degraded.

Plain Python, so that a command line can be built from it before TensorFlow is imported.
"""

import dataclasses
import importlib.util
import re
from pathlib import Path
from typing import Annotated

from data_prep.command_line import optional
from data_prep.errors import InputError, Option

GRID = 16
"""Side in pixels of the smallest unit of a 4:2:0 JPEG: 8x8 blocks of chroma cover 16x16 pixels."""

LUMA = (0.299, 0.587, 0.114)
"""The weights of R, G and B in luma, of ITU-R BT.601, as JPEG's own gray has them (JFIF)."""

_SUBSAMPLINGS = ("4:2:0", "4:2:2", "4:4:4")

_PACKAGES = {"mozjpeg": "pyvips", "jpegli": "pyjpegli"}
_PROGRAMS = ("libjpeg", *_PACKAGES)


def require_positive(config: object, *fields: str) -> None:
    """Raises an `InputError` that names the first of these fields that is not above zero."""
    for field in fields:
        if not getattr(config, field) > 0:  # which NaN is not either
            raise InputError(Option(field), f" must be above zero: {getattr(config, field)}")


def require_between(name: str, value: float | None, low: float, high: float) -> None:
    """Raises an `InputError` that names an option if its value, where there is one, lies outside its range."""
    if value is not None and not low <= value <= high:
        raise InputError(Option(name), f" must lie in {low}..{high}: {value}")


@dataclasses.dataclass(frozen=True)
class DegradationConfig:
    """The degradation that makes a clean patch the JPEG for the generator.

    Attributes:
        quality: JPEG quality factor (libjpeg's, 1..100): one number, or a range such as `5-95` of which one
            is drawn per patch. Several may be given with commas between, such as `5-95,5-40`; each is drawn from
            equally often.
        chroma_subsampling: `4:2:0`, `4:2:2` or `4:4:4`. Several may be given with commas between, such as
            `4:2:0,4:2:0,4:4:4`, and are drawn equally often; `both` is `4:2:0,4:4:4`.
        clean_share: Share (0..1) of the patches that are left as they are, so that the generator learns to
            leave clean pictures alone.
        double_share: Share (0..1) of the patches that are compressed twice, the first time on a block grid
            shifted against the second (Jiang et al., "Towards Flexible Blind JPEG Artifacts Removal", ICCV
            2021).
        first_quality: Quality factor of the first of two compressions, written as `quality`; drawn from `quality` when
            not given. When given, patches compressed twice are made as pictures on the web are: the second quality is
            no lower than the first in three of four, and half have both grids in the same place, if they are not
            scaled between.
        shifted_share: Share (0..1) of the patches that are compressed once on a block grid that starts elsewhere than
            at the patch's corner, as in a crop or a screenshot of a JPEG.
        scaled_share: Share (0..1) of the patches that are scaled by 0.5 to 2 after they were compressed on such a
            grid, by bilinear, bicubic or Lanczos interpolation; half of these are compressed again then, as many
            pictures on the web are.
        programs: What encodes: `libjpeg`, `mozjpeg` or `jpegli`. Several may be given with commas between, such as
            `libjpeg,libjpeg,mozjpeg`, and are drawn equally often. libjpeg stands in for mozjpeg at 4:2:2, and for
            jpegli but at 4:2:0. The two need the packages of the extra `programs`.
    """

    quality: str = "10"
    chroma_subsampling: str = "4:2:0"
    clean_share: float = 0.0
    double_share: float = 0.0
    first_quality: Annotated[str | None, optional("Q,LOW-HIGH ...")] = None
    shifted_share: float = 0.0
    scaled_share: float = 0.0
    programs: str = "libjpeg"

    def __post_init__(self):
        """Refuses numbers outside their range.

        Raises:
            InputError: A number is outside its range, `quality`, `first_quality`, `chroma_subsampling` or `programs`
                is none, or a package is missing.
        """
        for text in ("quality_ranges", "first_quality_ranges", "subsamplings", "drawn_programs"):
            getattr(self, text)  # reads it, or raises
        for program in self.drawn_programs:
            if program in _PACKAGES and importlib.util.find_spec(_PACKAGES[program]) is None:
                raise InputError(
                    Option("programs"), f" {program} needs other packages: pip install 'artifact-remover[programs]'"
                )
        for field in ("clean_share", "double_share", "shifted_share", "scaled_share"):
            require_between(field, getattr(self, field), 0, 1)
        if self.double_share + self.shifted_share + self.scaled_share > 1:
            raise InputError(
                Option("double_share"),
                ", ",
                Option("shifted_share"),
                " and ",
                Option("scaled_share"),
                f" must add up to 1 at most: {self.double_share}, {self.shifted_share}, {self.scaled_share}",
            )

    @property
    def quality_ranges(self) -> list[tuple[int, int]]:
        """Lowest and highest quality factor, both included, of each range that is drawn from."""
        return _parse_quality("quality", self.quality)

    @property
    def first_quality_ranges(self) -> list[tuple[int, int]]:
        """The quality ranges of the first of two compressions, likewise."""
        return (
            self.quality_ranges if self.first_quality is None else _parse_quality("first_quality", self.first_quality)
        )

    @property
    def quality_range(self) -> tuple[int, int]:
        """Lowest and highest quality factor of all, both included; of the second where a patch is compressed twice."""
        return _span(self.quality_ranges)

    @property
    def lowest_and_highest(self) -> tuple[int, int]:
        """Lowest and highest quality factor of both compressions."""
        return _span(self.quality_ranges + self.first_quality_ranges)

    def limit(self, highest: int) -> "DegradationConfig":
        """Limits the quality factors to `highest` (1..100), and leaves nothing clean."""

        def limit(ranges: list[tuple[int, int]]) -> str:
            kept = [(low, min(high, highest)) for low, high in ranges if low <= highest] or [(highest, highest)]
            return ",".join(f"{low}-{high}" for low, high in kept)

        first_quality = self.first_quality and limit(self.first_quality_ranges)
        return dataclasses.replace(
            self, quality=limit(self.quality_ranges), clean_share=0.0, first_quality=first_quality
        )

    @property
    def subsamplings(self) -> list[str]:
        """Chroma subsamplings, each of which is drawn as often."""
        subsamplings = "4:2:0,4:4:4" if self.chroma_subsampling == "both" else self.chroma_subsampling
        parts = [part.strip() for part in subsamplings.split(",")]
        if not set(parts) <= set(_SUBSAMPLINGS):
            raise InputError(
                Option("chroma_subsampling"),
                f" must be {', '.join(_SUBSAMPLINGS)}, both, or several with commas between: {self.chroma_subsampling}",
            )
        return parts

    @property
    def drawn_programs(self) -> list[str]:
        """Programs that encode, each of which is drawn as often."""
        parts = [part.strip() for part in self.programs.split(",")]
        if not set(parts) <= set(_PROGRAMS):
            raise InputError(
                Option("programs"),
                f" must be {', '.join(_PROGRAMS)}, or several with commas between: {self.programs}",
            )
        return parts


def _parse_quality(field: str, text: str) -> list[tuple[int, int]]:
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match:
            raise InputError(
                Option(field),
                f" must be a number such as 10, a range such as 5-95, or several of these with commas between: {text}",
            )
        ranges.append((int(match[1]), int(match[2] or match[1])))
    if not all(1 <= low <= high <= 100 for low, high in ranges):
        raise InputError(Option(field), f" must lie in 1..100, the lower end first: {text}")
    return ranges


def _span(ranges: list[tuple[int, int]]) -> tuple[int, int]:
    lows, highs = zip(*ranges, strict=True)
    return min(lows), max(highs)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The photographs and graphics, and the patches of them.

    Attributes:
        data: `sample_photos` (inside an installed package), `div2k` (downloaded by TensorFlow Datasets), or
            the path of any folder of photographs.
        data_dir: Where prepared data sets are kept; TensorFlow Datasets' own folder when not given.
        exclude: A folder of benchmark pictures; a picture with the same pixels is left out of the data.
        graphics: Text, charts, screenshots, pixel art and the like, to be learned beside the photographs:
            `drawn_graphics` (drawn by this package) or the path of any folder of such pictures; none when not given.
            They are not recolored, and their quality is drawn evenly from the whole of `quality`. What is among the
            photographs too counts as a graphic alone.
        graphics_share: Share (0..1) of the patches that are of graphics, where there are any.
        graphics_clean_share: As `clean_share`, for graphics.
        patch_size: Side of a square patch, in pixels; a multiple of 16, the size of a 4:2:0 block.
        patches_per_photo: Patches cut from one decoded photograph before the next is decoded.
        batch_size: Patches in a training batch.
        enlarged_share: Share (0..1) of the training patches that are enlarged, by up to 4.
        processed_share: Share (0..1) of the training patches that are given grain or noise, blurred, sharpened, faded,
            printed in halftone dots or dithered, as some pictures are before they are saved.
        color_augmentation: Strength (0..1) of the random color changes of a clean training patch; 0 is off.
            Strong when photographs are few: without it the generator learns their colors.
        complementary_share: Share (0..1) of the patches whose colors are turned into their complements; none where
            `color_augmentation` is 0.
        gray_share: Share (0..1) of the patches that are made gray, beside the few that `color_augmentation` makes so;
            none where that is 0.
        jpeg_photograph_quality: Highest quality factor that pictures from JPEG files are degraded with. Below 100
            they are not left clean either: a JPEG's own artifacts, mostly of quality 95, are not to pass for detail.
        degradation: How a patch is degraded.
    """

    data: str = "sample_photos"
    data_dir: Annotated[Path | None, optional("DIR")] = None
    exclude: Annotated[Path | None, optional("DIR")] = None
    graphics: Annotated[str | None, optional("DIR|drawn_graphics")] = None
    graphics_share: float = 0.12
    graphics_clean_share: float = 0.2
    patch_size: int = 96
    patches_per_photo: int = 8
    batch_size: int = 8
    enlarged_share: float = 0.0
    processed_share: float = 0.0
    color_augmentation: float = 1.0
    complementary_share: float = 0.5
    gray_share: float = 0.0
    jpeg_photograph_quality: int = 100
    degradation: DegradationConfig = DegradationConfig()

    def __post_init__(self):
        """Refuses numbers outside their range.

        Raises:
            InputError: A number is outside its range.
        """
        if self.patch_size < GRID or self.patch_size % GRID:
            raise InputError(Option("patch_size"), f" must be a positive multiple of {GRID}: {self.patch_size}")
        require_positive(self, "patches_per_photo", "batch_size")
        for field in (
            "graphics_clean_share",
            "enlarged_share",
            "processed_share",
            "color_augmentation",
            "complementary_share",
            "gray_share",
        ):
            require_between(field, getattr(self, field), 0, 1)
        if not 0 < self.graphics_share < 1:
            raise InputError(Option("graphics_share"), f" must lie in 0..1, both excluded: {self.graphics_share}")
        require_between("jpeg_photograph_quality", self.jpeg_photograph_quality, 1, 100)

    @property
    def graphics_degradation(self) -> DegradationConfig:
        """The degradation of a patch of graphics."""
        low, high = self.degradation.quality_range
        return dataclasses.replace(self.degradation, quality=f"{low}-{high}", clean_share=self.graphics_clean_share)
