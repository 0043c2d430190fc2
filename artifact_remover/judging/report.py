"""What an evaluation found: as a table on the terminal, as JSON, CSV, and an HTML page with pictures."""

import base64
import csv
import html
import io
from pathlib import Path

import numpy as np
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from artifact_remover.judging.scoring import JPEG, gain, summarise, write_report
from data_prep.errors import to_one_line
from data_prep.files import write_whole

_MEASURES = {  # by their names in the scores: heading and how many digits are shown
    "psnr": ("PSNR", 2),
    "ssim": ("SSIM", 4),
    "psnr_b": ("PSNR-B", 2),
    "lpips": ("LPIPS", 4),
    "dists": ("DISTS", 4),
    "colour_shift": ("shift", 2),
}
_NAMES = ("", "least at")  # headings of columns of names
_NAMED = 3  # losing pictures, before it is only said how many more

_LEGEND = (
    "PSNR and PSNR-B in dB, SSIM with a Gaussian 11x11 window: higher is better. LPIPS (alex) and DISTS: lower is "
    "better. gain, least: PSNR over the untouched JPEG's, the mean and the least, and the picture where that is. "
    "better: on how many pictures the JPEG is beaten. shift: by how many 8-bit levels the mean of the worst channel is "
    "off. s/MP: seconds a megapixel; of models the restoring alone, of other commands their start and files, too."
)
_STYLE = """
:root { color-scheme: light dark; --line: #ccc; --faint: #666; --loss: #b00020 }
@media (prefers-color-scheme: dark) { :root { --line: #444; --faint: #aaa; --loss: #ff8a80 } }
body { font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 88rem; padding: 1rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--line) }
.name { text-align: left }
h1 { font-size: 1.4rem }
.pictures { display: flex; flex-wrap: wrap; gap: .75rem }
figure { margin: 0; width: 16rem; max-width: calc(50% - .4rem) }
img { width: 100%; image-rendering: pixelated; display: block }
p, figcaption { overflow-wrap: anywhere }
figcaption, .faint { color: var(--faint); font-size: .875rem }
.loss { color: var(--loss) }
"""


def say(line: str, console: Console) -> None:
    """Prints one line as it is, however long it is and whatever a file is called."""
    console.print(to_one_line(line), markup=False, highlight=False, emoji=False, soft_wrap=True)


def print_all(described: dict, rows: dict[int, list[dict]], console: Console) -> None:
    """Prints the means, a section for each quality, and where the JPEG is not beaten.

    Args:
        described: As in `write_all`.
        rows: As in `write_all`.
        console: Where; 120 columns are enough.
    """
    table = Table(title=_title(described, rows), box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    headings, sections = _tabulate(rows)
    table.add_column("q", justify="right")
    for heading in headings:
        left = heading in _NAMES
        table.add_column(heading, justify="left" if left else "right", overflow="fold", no_wrap=not left)
    for quality, lines in sections.items():
        table.add_section()
        for number, line in enumerate(lines):
            table.add_row("" if number else str(quality), *map(Text, line))
    console.print(table)
    for line in _list_losses(rows):
        say(line, console)


def write_all(described: dict, rows: dict[int, list[dict]], folder: Path) -> list[Path]:
    """Writes `evaluation.json`, `.csv` and `.html`, each whole or not at all.

    Args:
        described: What was measured, how and where, as plain JSON values; `data`, `protocol`, `chroma_subsampling`,
            `machine` and `notes` are shown.
        rows: By quality, the pictures as from `evaluation.judge`; those with `crops` are shown.
        folder: Where; it exists.

    Returns:
        The files.

    Raises:
        OSError: If they cannot be written.
    """
    files = [folder / f"evaluation.{kind}" for kind in ("json", "csv", "html")]
    qualities = {str(quality): summarise(each) for quality, each in rows.items()}
    write_report({**described, "qualities": qualities}, files[0])
    write_whole(files[1], _to_csv(rows).encode())
    write_whole(files[2], _to_html(described, rows).encode())
    return files


def _title(described, rows):
    coding = described["chroma_subsampling"] or "one component"
    count = len(next(iter(rows.values())))
    pictures = f"{count} picture{'' if count == 1 else 's'} of {to_one_line(described['data'])}"
    return f"{pictures}, {described['protocol']} protocol, JPEG {coding}"


def _describe_machine(described):
    machine = described["machine"]
    parts = [machine["processor"], f"{machine['cores']} cores", *machine["gpus"], f"models in {machine['precision']}"]
    return f"{described['made_by']}; {', '.join(parts)}"


def _tabulate(rows):
    """Headings, and by quality a list of text cells for the JPEG and each method."""
    scores = next(iter(rows.values()))[0]["scores"][JPEG]
    measures = {name: each for name, each in _MEASURES.items() if name in scores}
    first, *others = (heading for heading, _ in measures.values())
    headings = ["", first, "gain", "least", "least at", "better", *others, "s/MP"]
    sections = {}
    for quality, each in rows.items():
        lines = []
        for who, entry in summarise(each)["summary"].items():
            first, *others = (f"{entry['mean'][name]:.{digits}f}" for name, (_, digits) in measures.items())
            gains, speed = [""] * 4, ""
            if who != JPEG:
                difference = entry["psnr_gain"]
                better = f"{entry['better_on']}/{len(each)}"
                gains = [f"{difference['mean']:+.2f}", f"{difference['least']:+.2f}", entry["worst"], better]
                speed = f"{entry['seconds_per_megapixel']:.2f}"
            lines.append([who, first, *gains, *others, speed])
        sections[quality] = lines
    return headings, sections


def _list_losses(rows):
    """A line for each method and quality that does not beat the JPEG everywhere."""
    for quality, each in rows.items():
        for who in each[0]["seconds"]:
            losses = sorted((gain(row, who), row["name"]) for row in each if gain(row, who) <= 0)
            if losses:
                named = ", ".join(f"{name} ({difference:+.2f} dB)" for difference, name in losses[:_NAMED])
                more = f" and {len(losses) - _NAMED} more" if len(losses) > _NAMED else ""
                where = f"at quality {quality} on {len(losses)} of {len(each)}"
                yield f"{who} does not beat the JPEG {where}: {named}{more}"


def _to_csv(rows):
    text = io.StringIO()
    scores = next(iter(rows.values()))[0]["scores"][JPEG]
    measures = [name for name in scores if name != "colour_shifts"]
    shifts = ["red_shift", "green_shift", "blue_shift"] if len(scores["colour_shifts"]) == 3 else ["gray_shift"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["quality", "method", "picture", "pixels", "psnr_gain", *measures, *shifts, "seconds"])
    for quality, each in rows.items():
        for row in each:
            for who, scores in row["scores"].items():
                values = [*(scores[name] for name in measures), *scores["colour_shifts"]]
                known = [gain(row, who), *values, row["seconds"].get(who, "")]
                rounded = [value if value == "" else f"{value:.6g}" for value in known]
                writer.writerow([quality, who, row["name"], row["pixels"], *rounded])
    return text.getvalue()


def _to_html(described, rows):
    title = html.escape(_title(described, rows))
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        f'<p class="faint">{html.escape(_describe_machine(described))}</p>',
    ]
    headings, sections = _tabulate(rows)
    for quality, lines in sections.items():
        parts.append(f'<h2>Quality {quality}</h2><div class="wide"><table><tr>')
        kinds = [' class="name"' if heading in _NAMES else "" for heading in headings]
        parts += [f"<th{kind}>{heading}</th>" for kind, heading in zip(kinds, headings, strict=True)]
        for line in lines:
            parts.append("</tr><tr>")
            parts += [f"<td{kind}>{html.escape(cell)}</td>" for kind, cell in zip(kinds, line, strict=True)]
        parts.append("</tr></table></div>")
    parts += [f'<p class="loss">{html.escape(line)}</p>' for line in _list_losses(rows)]
    parts += [f'<p class="faint">{html.escape(line)}</p>' for line in [_LEGEND, *map(to_one_line, described["notes"])]]
    for quality, each in rows.items():
        parts += _show_worst(quality, each)
    return "\n".join([*parts, "</body></html>", ""])


def _show_worst(quality, rows):
    first = next(iter(rows[0]["seconds"]))
    worst = sorted((row for row in rows if "crops" in row), key=lambda row: gain(row, first))
    yield f"<h2>Quality {quality}, worst cases first</h2>"
    explained = f"The pictures on which {first} gains least, each where the JPEG is furthest off."
    yield f'<p class="faint">{html.escape(explained)}</p>'
    for row in worst:
        yield f'<h3>{html.escape(row["name"])}</h3><div class="pictures">'
        for who, crop in row["crops"].items():
            psnr = f"{row['scores'][who]['psnr']:.2f} dB"
            if who != JPEG:
                lost = ' class="loss"' if gain(row, who) <= 0 else ""
                psnr += f", <span{lost}>{gain(row, who):+.2f}</span>"
            yield _figure(crop, f"{html.escape(who)}<br>{psnr}")
        yield _figure(row["clean_crop"], "clean")
        yield "</div>"


def _figure(pixels, caption):
    """A crop inside the page itself, which then needs no other file."""
    png = io.BytesIO()
    Image.fromarray(np.squeeze(pixels, 2) if pixels.shape[2] == 1 else pixels).save(png, "PNG", optimize=True)
    source = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    return f'<figure><img src="{source}" alt=""><figcaption>{caption}</figcaption></figure>'
