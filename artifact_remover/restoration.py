"""A loaded model that restores pictures of any size in steady memory: arrays, bytes and files."""

import contextlib
import functools
import io
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from artifact_remover.engines import Engine, choose_engine, load_engine
from artifact_remover.model_folder import (
    MEMORY_PER_PIXEL,
    choose_exports,
    read_manifest,
    read_memory_per_pixel,
    read_overlap,
    read_trained_quality,
)
from artifact_remover.options import SMALLEST_TILE, EngineName, require_tile
from artifact_remover.pictures.picture import Picture, check_format, decode_picture, format_of
from artifact_remover.precision import Precision
from artifact_remover.restore_picture import RestoredPicture, check_target, fit_to_format, restore_parts, write_restored
from artifact_remover.result_names import RESTORED, name_result
from artifact_remover.self_ensemble import MEMORY_OF_ORIENTATIONS, ORIENTATIONS, UPRIGHT, restore_in_orientations
from artifact_remover.tiling import choose_side, plan_tiles
from data_prep.config import LUMA, require_between
from data_prep.errors import InputError, Message, Option
from data_prep.files import open_whole

_TOGETHER = 512**2  # pixels of tiles that are restored in one call, which small ones gain from
_MOST_MEMORY = 1_000_000_000  # bytes for a tile: larger ones overlap less, but 100 megapixels are to fit into 2 GiB
_QUALITY_MARGIN = 10

_CONTAINER = Path("/sys/fs/cgroup")
_MEMORY_OF_CONTAINER = (  # what it may take and what it takes, and the files in it that make room: cgroup v2 and v1
    ("memory.max", "memory.current", "memory.stat", ("active_file", "inactive_file")),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        ("total_active_file", "total_inactive_file"),
    ),
)


class Restorer:
    """A generator, and what it takes to restore real pictures with it.

    Example:
        >>> restorer = Restorer.load("runs/quick")
        >>> restored = restorer.restore(pixels)
        >>> restorer.restore_file("photo.jpg")

    Attributes:
        description: Which model it is.
        trained_quality: Lowest and highest quality factor that it was trained on.
        engine: What runs it, `tensorflow` or `openvino`; empty where a function was wrapped.
        precision: What it computes in, `float32`, `bfloat16` or `int8`; empty where a function was wrapped.
    """

    def __init__(
        self,
        network: Callable[[np.ndarray], np.ndarray],
        overlap: int,
        memory_per_pixel: float = MEMORY_PER_PIXEL,
        *,
        tile: int | None = None,
        self_ensemble: bool = False,
        description: str = "",
        trained_quality: tuple[int, int] | None = None,
    ):
        """Wraps a network; `Restorer.load` makes one from a model folder.

        Args:
            network: From float32 [N, H, W, 3] in [0, 1] to the same; raises MemoryError where tiles are too large.
            overlap: Surroundings in pixels that a tile needs, a multiple of 16.
            memory_per_pixel: Bytes that each pixel of a tile takes.
            tile: Most pixels a tile has in height or width; chosen from the free memory when not given.
            self_ensemble: Whether pictures are restored in all orientations.
            description: Which model it is.
            trained_quality: Lowest and highest quality factor that it was trained on, if known.
        """
        self.description = description
        self.trained_quality = trained_quality
        self.engine = self.precision = ""
        self._network = network
        self._orientations = ORIENTATIONS if self_ensemble else ()
        self._overlap = overlap
        self._memory_per_pixel = memory_per_pixel + (MEMORY_OF_ORIENTATIONS if self_ensemble else 0)
        self._tile = tile
        self._mixture: Mixture | None = None

    @classmethod
    def load(
        cls,
        model: Path | str | None = None,
        *,
        blend: float | None = None,
        engine: EngineName = "auto",
        precision: Precision = "auto",
        tile: int | None = None,
        self_ensemble: bool = False,
    ) -> "Restorer":
        """Loads a model.

        Args:
            model: Run, `saved_models`, stage or export folder; the best published model when not given.
            blend: From the faithful model, of stage 1 (0), to the perceptual one, of the GAN stage (1), by mixing their
                weights (network interpolation, Wang et al., "ESRGAN", 2018). When not given, the faithful model, or the
                one that there is.
            engine: As in `artifact_remover.engines.choose_engine`.
            precision: `auto` computes in what the processor is fast at: int8 if OpenVINO runs a model that has been
                quantized and is not blended, or else bfloat16, which on photographs stays within one 8-bit level of
                float32, on hard edges between colors within two.
            tile: Most pixels a tile has in height or width; chosen from the free memory when not given.
            self_ensemble: Restore each picture in its eight orientations, mirrored and turned, and take the mean:
                closer to the clean picture, in eight times the time.

        Raises:
            InputError: If `blend` or `tile` is out of range, there is no such model, engine or precision, `blend` needs
                a model that is missing, or the engine is not installed.
        """
        require_between("blend", blend, 0, 1)
        require_tile(tile)
        export, perceptual = choose_exports(Path(model) if model else None, blend)
        chosen = choose_engine(engine)
        network = load_engine(chosen, export, precision, to_blend=bool(perceptual))
        manifest = read_manifest(export)
        overlap, mixture = read_overlap(manifest), None
        if perceptual:
            mixture = Mixture(network, load_engine(chosen, perceptual, precision, to_blend=True), export, perceptual)
            overlap = max(overlap, read_overlap(read_manifest(perceptual)))
        restorer = cls(
            network,
            overlap,
            read_memory_per_pixel(manifest) * network.memory_factor,
            tile=tile,
            self_ensemble=self_ensemble,
            description=str(export),
            trained_quality=read_trained_quality(manifest),
        )
        restorer.engine, restorer.precision = network.name, network.precision
        if mixture and blend is not None:
            restorer._mixture = mixture
            restorer.reblend(blend)
        return restorer

    @property
    def blends(self) -> bool:
        """True after loading two models with a blend, which can then be changed."""
        return self._mixture is not None

    def reblend(self, blend: float) -> None:
        """Mixes the weights of the two models anew, for less than loading them; not while another thread restores.

        Args:
            blend: As in `load`, which must have been given one.

        Raises:
            InputError: If it is out of range.
            ValueError: If `load` was given none.
        """
        if self._mixture is None:
            raise ValueError("loaded without a blend, so there is one model only")
        require_between("blend", blend, 0, 1)
        self.description = self._mixture.mix(blend)

    def restore(
        self, pixels: np.ndarray, strength: float = 1.0, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Restores a picture, tile by tile.

        Args:
            pixels: uint8 [H, W, C] in 0..255 or uint16 [H, W, C] in 0..65535, C 3 (RGB) or 1 (gray), the first pixel at
                the corner of an 8x8 block.
            strength: How much of the restoration is taken, 0 (the input, bit for bit) to 1 (all).
            progress: Called after each step with the number of pixels just done.

        Returns:
            The restored picture, of the same shape and dtype. Gray stays gray, also where it comes as three equal
            channels.

        Raises:
            ValueError: If the array is none of these.
            InputError: If the strength is out of range, there is not enough memory for the smallest tile, or the model
                gives no numbers.
        """
        return self._restore(np.asarray(pixels), strength, progress, self._orientations)

    def _restore(self, pixels, strength, progress, orientations):
        _check(pixels, strength)
        if strength == 0 or not pixels.size:
            return pixels.copy()
        if pixels.shape[2] == 3 and _is_neutral(pixels):
            return np.repeat(self._restore(pixels[:, :, :1], strength, progress, orientations), 3, axis=2)
        network = self._network
        if orientations:
            ask = progress and (lambda: progress(0))  # which may raise to stop between orientations
            network = functools.partial(restore_in_orientations, network, orientations=orientations, ask=ask)
        restored = np.empty_like(pixels)
        # No more than half of the memory that is free.
        side = self._tile or choose_side(min(_free_memory() / 2, _MOST_MEMORY), self._memory_per_pixel)
        pending, together = plan_tiles(pixels.shape[:2], side, self._overlap), _TOGETHER
        while pending:
            batch = pending[: _count_alike(pending, together)]
            try:
                self._restore_tiles(network, batch, pixels, strength, restored)
            except MemoryError as error:
                if side <= SMALLEST_TILE:
                    raise InputError("not enough memory even for the smallest tiles: close other programs") from error
                side, together = max(SMALLEST_TILE, side // 2), 0
                pending = [
                    part for tile in pending for part in plan_tiles(pixels.shape[:2], side, self._overlap, tile.target)
                ]
                continue
            pending = pending[len(batch) :]
            if progress:
                progress(sum(restored[tile.target].size // pixels.shape[2] for tile in batch))
        return restored

    def restore_picture(
        self,
        picture: Picture,
        strength: float = 1.0,
        force: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> RestoredPicture:
        """Restores a decoded picture's colors, unless it is left alone; its transparency is kept.

        Args:
            picture: From `decode_picture`.
            strength: As in `restore`.
            force: Restore it even where `artifact_remover.decision.decide` would leave it alone.
            progress: As in `restore`; what it raises ends the restoring.

        Returns:
            The restored picture; its notes say if it was left alone, or is of much higher quality than the model knows.
        """
        # Called with 0 pixels: the sample's are counted with the picture, but `progress` may raise to stop here too.
        ask = progress and (lambda _: progress(0))
        one_way = picture.header is not None and picture.header.subsampled_one_way
        orientations = UPRIGHT if self._orientations and one_way else self._orientations
        return restore_parts(
            picture,
            lambda pixels: self._restore(pixels, strength, progress, orientations),
            # In one orientation: that it changes turned samples alike must be the model's own doing.
            lambda sample: self._restore(sample, 1.0, ask, ()),
            force,
            tuple(self._warn(picture.header)),
            strength,
        )

    def restore_bytes(
        self,
        content: bytes,
        *,
        format: str = "png",
        quality: int | None = None,
        strength: float = 1.0,
        force: bool = False,
        max_megapixels: float = 256,
        allow_truncated: bool = False,
    ) -> bytes:
        """Restores an image file in memory; its metadata is kept and its orientation applied.

        What `artifact_remover.decision.decide` leaves alone is returned byte for byte where it has the wanted format
        and no `quality` is given, and otherwise converted only. So is a file whose format would lose what was gained.

        Args:
            content: A JPEG, PNG, WebP, TIFF, BMP or AVIF.
            format: What to return: one of `artifact_remover.pictures.picture.FORMATS`.
            quality: Of webp, jpeg and avif, 1..100; when not given what the picture needs, from `fit_to_format`.
            strength: As in `restore`.
            force: As in `restore_picture`.
            max_megapixels: Larger pictures are refused.
            allow_truncated: Restore a picture that breaks off as far as it goes.

        Raises:
            InputError: If it is no such picture, too large or damaged.
        """
        check_format(format, quality)
        picture = decode_picture(content, max_megapixels=max_megapixels, allow_truncated=allow_truncated)
        check_target(picture, format)
        restored = fit_to_format(picture, self.restore_picture(picture, strength, force), format, quality, force)
        file = io.BytesIO()
        write_restored(restored, content, file, format, quality)
        return file.getvalue()

    def restore_file(
        self,
        file: Path | str,
        output: Path | str | None = None,
        *,
        quality: int | None = None,
        strength: float = 1.0,
        force: bool = False,
        overwrite: bool = False,
        new_dates: bool = False,
        max_megapixels: float = 256,
        allow_truncated: bool = False,
    ) -> Path:
        """Restores an image file; what is written appears whole or not at all.

        What `artifact_remover.decision.decide` leaves alone is copied byte for byte where it has the wanted format and
        no `quality` is given, and otherwise converted only. So is a file whose format would lose what was gained.

        Args:
            file: A JPEG, PNG, WebP, TIFF, BMP or AVIF.
            output: Where, in the format that its suffix names; missing folders are made. `NAME_restored.png` beside the
                file when not given.
            quality: As in `restore_bytes`.
            strength: As in `restore`.
            force: As in `restore_picture`.
            overwrite: Replace what is there.
            new_dates: Date the result now; its dates of access and modification are the picture's otherwise.
            max_megapixels: As in `restore_bytes`.
            allow_truncated: As in `restore_bytes`.

        Returns:
            Where it was written.

        Raises:
            InputError: If it is no such picture, too large or damaged, or there is something where it is to be written.
            OSError: If it cannot be written.
        """
        file = Path(file)
        output = Path(output) if output else file.with_name(name_result(file.name, f"{RESTORED}.png"))
        format = format_of(output)
        check_format(format, quality)
        if os.path.lexists(output) and not overwrite:
            raise InputError(f"{output} exists, ", Option("overwrite"), " replaces it")
        dates = None if new_dates or not file.exists() else file.stat()  # before reading changes the access time
        picture = decode_picture(file, max_megapixels=max_megapixels, allow_truncated=allow_truncated)
        check_target(picture, format)
        restored = fit_to_format(picture, self.restore_picture(picture, strength, force), format, quality, force)
        output.parent.mkdir(parents=True, exist_ok=True)
        with open_whole(output, replace=overwrite, dates=dates) as writing:
            write_restored(restored, file, writing, format, quality)
        return output

    def _warn(self, header):
        if header and self.trained_quality and header.quality > self.trained_quality[1] + _QUALITY_MARGIN:
            low, high = self.trained_quality
            trained = f"{low} to {high}" if low < high else f"quality {low}"
            said = f"quality {header.quality}, the model was trained for {trained}: detail may be lost, "
            yield Message(said, Option("strength"), " lowers it")

    def _restore_tiles(self, network, tiles, pixels, strength, restored):
        """Restores tiles of one shape at once."""
        white = np.float32(np.iinfo(pixels.dtype).max)
        before = np.stack([pixels[tile.source] for tile in tiles], dtype=np.float32)
        before /= white
        gray = pixels.shape[2] == 1
        after = network(np.repeat(before, 3, axis=3) if gray else before)
        if gray:
            after = (after @ np.array(LUMA, np.float32))[..., np.newaxis]
        if strength < 1:
            after = before + np.float32(strength) * (after - before)
        after = after * white
        if not np.isfinite(after.sum()):
            raise InputError(f"{self.description} gives no numbers, its weights are damaged: use another model")
        np.rint(after, out=after)
        for tile, part in zip(tiles, after, strict=True):
            restored[tile.target] = part[tile.inner]


class Mixture:
    """An engine whose weights are a mixture of two models', and the weights of both."""

    def __init__(self, engine: Engine, other: Engine, folder: Path, other_folder: Path):
        """Takes the faithful model, whose weights will be changed, and the perceptual one.

        Raises:
            InputError: If the two are of different sizes.
        """
        self._weights, self._others = ({**each.read_weights()} for each in (engine, other))
        shapes, other_shapes = (
            {name: each.shape for name, each in both.items()} for both in (self._weights, self._others)
        )
        if shapes != other_shapes:
            raise InputError(f"{other_folder} is of another size than the faithful model, so the two cannot be blended")
        self._engine, self._folders = engine, (folder, other_folder)

    def mix(self, blend: float) -> str:
        """Sets the engine's weights, from the faithful model's (0) to the perceptual one's (1).

        Returns:
            A description of the mixture.
        """
        mixed = {name: (1 - blend) * each + blend * self._others[name] for name, each in self._weights.items()}
        self._engine.set_weights(mixed)
        return f"{self._folders[0]}, blended by {blend:g} with {self._folders[1]}"


def _check(pixels, strength):
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ValueError(f"pixels must be uint8 or uint16 [H, W, 3] or [H, W, 1]: {pixels.dtype} {pixels.shape}")
    require_between("strength", strength, 0, 1)


def _is_neutral(pixels):
    return all((row == row[:, :1]).all() for row in pixels)  # most pictures show it in their first row


def _count_alike(tiles, pixels):
    """Counts how many of the next tiles have one shape and together at most this many pixels; at least one."""
    height, width = tiles[0].shape
    alike = itertools.takewhile(lambda tile: tile.shape == (height, width), tiles)
    return sum(1 for _ in itertools.islice(alike, max(1, pixels // (height * width))))


def _free_memory():
    """Tells the free memory in bytes: of the machine, or of the process's container where that has less."""
    free = psutil.virtual_memory().available
    for limit, used, statistics, files in _MEMORY_OF_CONTAINER:
        with contextlib.suppress(OSError, ValueError):  # not Linux, or not confined
            taken = int((_CONTAINER / used).read_text())
            sizes = dict(line.split() for line in (_CONTAINER / statistics).read_text().splitlines())
            taken -= sum(int(sizes.get(name, 0)) for name in files)
            free = min(free, int((_CONTAINER / limit).read_text()) - taken)
    return free
