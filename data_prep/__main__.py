"""`python -m data_prep NAME_OR_PATH`: prepare photographs and show what there is."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from data_prep.command_line import optional, parse_options, run_command
from data_prep.config import DataConfig
from data_prep.quiet import quiet_tensorflow

if TYPE_CHECKING:
    from data_prep.sources import Photographs


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """Prepares photographs for training, and shows how many there are, how large, and where they landed.

    Attributes:
        data: `sample_photos` (inside an installed package), `div2k` (downloaded, 4 GB), `drawn_graphics` (drawn by this
            package), or a folder.
        data_dir: Where prepared data sets are kept; `~/tensorflow_datasets` when not given.
        exclude: A folder of benchmark pictures that must not be among the photographs.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME_OR_PATH")]
    data_dir: Annotated[Path | None, optional("DIR")] = None
    exclude: Annotated[Path | None, optional("DIR")] = None


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: What follows the command's name; what the process was started with when not given.

    Returns:
        Exit code: 0, 2 when the photographs cannot be used, 130 when the user stopped it.
    """
    config = parse_options(PrepareConfig, arguments, prog="python -m data_prep")
    return run_command(lambda: _show(_open(config)), stopped="stopped; the same command goes on")


def _open(config: PrepareConfig) -> "Photographs":
    """Opens the photographs; TensorFlow is loaded here, so that `--help` answers at once."""
    with quiet_tensorflow():
        from data_prep.sources import open_photographs

    return open_photographs(DataConfig(config.data, config.data_dir, config.exclude))


def _show(photographs: "Photographs") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("role", "part", "photographs", "smallest", "median", "largest", title=photographs.name)
    for role, parts in photographs.splits.items():
        for part in parts:
            sizes = [(entry.width, entry.height) for entry in photographs.entries(role, part)]
            sizes.sort(key=lambda size: size[0] * size[1])
            shown = (sizes[0], sizes[len(sizes) // 2], sizes[-1])
            table.add_row(role, part, str(len(sizes)), *(f"{width}x{height}" for width, height in shown))
    console = Console(soft_wrap=True, markup=False, emoji=False)  # names of files may hold square brackets
    console.print(table)
    console.print(f"{photographs.num_bytes / 1e6:.1f} MB in {photographs.builder.data_dir}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
