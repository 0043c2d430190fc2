"""What the data is: photographs, patches cut from them, and how they are degraded.

Plain Python, so that a command line can be built from it before TensorFlow is imported.
"""

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Literal

from data_prep.command_line import optional

GRID = 16
"""Side in pixels of the smallest unit of a 4:2:0 JPEG: 8x8 blocks of chroma cover 16x16 pixels."""


@dataclasses.dataclass(frozen=True)
class DegradationConfig:
    """How a clean patch becomes the JPEG that the generator sees.

    Attributes:
        quality: JPEG quality factor (libjpeg's, 1..100): one number, or a range such as `5-95` of which one
            is drawn per patch. Of several with commas between, such as `5-95,5-40`, each is drawn from as often.
        chroma_subsampling: `4:2:0`, `4:4:4`, or `both` to draw one of the two per patch.
        clean_share: Share (0..1) of the patches that are left as they are, so that the generator learns to
            leave clean pictures alone.
        double_share: Share (0..1) of the patches that are compressed twice, the first time on a block grid
            shifted against the second (Jiang et al., "Towards Flexible Blind JPEG Artifacts Removal", ICCV
            2021).
    """

    quality: str = "10"
    chroma_subsampling: Literal["4:2:0", "4:4:4", "both"] = "4:2:0"
    clean_share: float = 0.0
    double_share: float = 0.0

    def __post_init__(self):
        """Refuse numbers outside their range.

        Raises:
            ValueError: A number is outside its range, or `quality` is none.
        """
        for low, high in self.quality_ranges:
            if not 1 <= low <= high <= 100:
                raise ValueError(f"quality must lie in 1..100, the lower end first: {self.quality}")
        for field in ("clean_share", "double_share"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"{field} must lie in 0..1: {getattr(self, field)}")

    @property
    def quality_ranges(self) -> list[tuple[int, int]]:
        """Lowest and highest quality factor, both included, of each range that is drawn from."""
        matches = [re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip()) for part in self.quality.split(",")]
        if not all(matches):
            raise ValueError(
                "quality must be a number such as 10, a range such as 5-95, or several of these with commas between: "
                f"{self.quality}"
            )
        return [(int(match[1]), int(match[2] or match[1])) for match in matches]

    @property
    def quality_range(self) -> tuple[int, int]:
        """Lowest and highest quality factor of all, both included."""
        lows, highs = zip(*self.quality_ranges, strict=True)
        return min(lows), max(highs)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which photographs, and which patches of them.

    Attributes:
        data: `sample_photos` (inside an installed package), `div2k` (downloaded by TensorFlow Datasets), or
            the path of any folder of photographs.
        data_dir: Where prepared data sets are kept; TensorFlow Datasets' own folder when not given.
        exclude: A folder of benchmark pictures; a photograph with the same pixels is left out of the data.
        patch_size: Side of a square patch, in pixels; a multiple of 16, the size of a 4:2:0 block.
        patches_per_photo: Patches cut from one decoded photograph before the next is decoded.
        batch_size: Patches in a training batch.
        colour_augmentation: Strength (0..1) of the random colour changes of a clean training patch; 0 is off.
            Strong when photographs are few: without it the generator learns their colours.
        degradation: How a patch is degraded.
    """

    data: str = "sample_photos"
    data_dir: Annotated[Path | None, optional("DIR")] = None
    exclude: Annotated[Path | None, optional("DIR")] = None
    patch_size: int = 96
    patches_per_photo: int = 8
    batch_size: int = 8
    colour_augmentation: float = 1.0
    degradation: DegradationConfig = DegradationConfig()

    def __post_init__(self):
        """Refuse numbers outside their range.

        Raises:
            ValueError: A number is outside its range.
        """
        if self.patch_size < 16 or self.patch_size % 16:
            raise ValueError(f"patch_size must be a positive multiple of 16: {self.patch_size}")
        for field in ("patches_per_photo", "batch_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1: {getattr(self, field)}")
        if not 0 <= self.colour_augmentation <= 1:
            raise ValueError(f"colour_augmentation must lie in 0..1: {self.colour_augmentation}")
