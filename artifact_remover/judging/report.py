"""Reports of an evaluation: a table on the terminal, JSON, CSV, and an HTML page with pictures."""

import base64
import csv
import html
import io
import itertools
from pathlib import Path

import numpy as np
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from artifact_remover.judging.scoring import EQUAL, JPEG, gain, group_by_kind, merit, summarize, write_report
from data_prep.errors import to_one_line
from data_prep.files import write_whole

_MEASURES = {  # by their names in the scores: heading and how many digits are shown
    "psnr": ("PSNR", 2),
    "ssim": ("SSIM", 4),
    "psnr_b": ("PSNR-B", 2),
    "lpips": ("LPIPS", 4),
    "dists": ("DISTS", 4),
    "color_shift": ("shift", 2),
}
_GAINS = ("gain", "least", "least at", "better")
_GAINS_OF_CLEAN = ("least", "least at", "unchanged")
_NAMES = ("kind", "", "least at")  # headings of columns of names

_LEGEND = (
    "PSNR and PSNR-B in dB, SSIM with a Gaussian 11x11 window: higher is better. LPIPS (alex) and DISTS: lower is "
    "better. {} shift: by how many 8-bit levels the mean of the worst channel is off. s/MP: seconds a megapixel; of "
    "models from the file to the pixels, of other commands their start and files, too."
)
_LEGEND_OF_GAINS = (
    "gain, least: PSNR over the untouched JPEG's, the mean and the least, and the picture where that is. better: on "
    f"how many pictures the JPEG is beaten by more than {EQUAL} dB, within which a picture counts as equal."
)
_LEGEND_OF_CLEAN = (
    "The pictures were put in uncompressed, so the input's own PSNR is infinite, and a picture that comes back as it "
    "was counts as 100 dB. least: the least PSNR, and the picture where that is. unchanged: how many pictures come "
    "back bit for bit."
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


def print_all(described: dict, rows: dict[int | str, list[dict]], console: Console) -> None:
    """Prints the means, a section for each quality, on what they were computed, and where the JPEG is not beaten.

    Args:
        described: As in `write_all`.
        rows: As in `write_all`.
        console: Where; 120 columns are enough.
    """
    table = Table(title=Text(_title(described, rows)), box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    headings, sections = _tabulate(rows)
    table.add_column("q", justify="right")
    for heading in headings:
        left = heading in _NAMES
        table.add_column(heading, justify="left" if left else "right", overflow="fold", no_wrap=not left)
    for quality, blocks in sections.items():
        for block in blocks:
            table.add_section()
            for line in block:
                table.add_row(str(quality) if line is blocks[0][0] else "", *map(Text, line))
    console.print(table)
    for line in (_describe_machine(described), *_list_losses(rows)):
        say(line, console)


def write_all(described: dict, rows: dict[int | str, list[dict]], folder: Path) -> list[Path]:
    """Writes `evaluation.json`, `.csv` and `.html`, each whole or not at all.

    Args:
        described: What was measured, how and where, as plain JSON values; shown are `made_by`, `data`, `protocol`,
            `chroma_subsampling`, `clean`, `resave`, `offset`, `machine` and `notes`.
        rows: By quality, or under `clean` where nothing was compressed, the pictures as from `scoring.judge`; those
            with `crops`, uint8 [h, w, C] in 0..255, are shown.
        folder: Where; it exists.

    Returns:
        The files.

    Raises:
        OSError: If they cannot be written.
    """
    files = [folder / f"evaluation.{kind}" for kind in ("json", "csv", "html")]
    qualities = {str(quality): _summarize_kinds(each) for quality, each in rows.items()}
    write_report({**described, "qualities": qualities}, files[0])
    write_whole(files[1], _to_csv(rows).encode())
    write_whole(files[2], _to_html(described, rows).encode())
    return files


def _summarize_kinds(rows):
    kinds = {kind: summarize(each) for kind, each in group_by_kind(rows).items()}
    # Every picture's own scores stand among all.
    for each in kinds.values():
        del each["each"]
    return summarize(rows) | {"kinds": kinds}


def _title(described, rows):
    count = len(next(iter(rows.values())))
    pictures = f"{count} picture{'' if count == 1 else 's'} of {to_one_line(described['data'])}"
    if described["clean"]:
        return f"{pictures}, {described['protocol']} protocol, uncompressed"
    parts = [
        pictures,
        f"{described['protocol']} protocol",
        f"JPEG {described['chroma_subsampling'] or 'one component'}",
    ]
    if any(described["offset"]):
        parts.append(f"cut at ({described['offset'][0]}, {described['offset'][1]})")
    if described["resave"]:
        parts.append(f"saved again at {described['resave']}")
    return ", ".join(parts)


def _name_section(quality):
    return "Uncompressed" if quality == "clean" else f"Quality {quality}"


def _legend(described):
    return _LEGEND.format(_LEGEND_OF_CLEAN if described["clean"] else _LEGEND_OF_GAINS)


def _describe_machine(described):
    machine = described["machine"]
    parts = [machine["processor"], f"{machine['cores']} cores", *machine["gpus"]]
    if machine["engine"]:
        orientations = ", each picture in eight orientations" if described["self_ensemble"] else ""
        parts.append(f"models by {machine['engine']} in {machine['precision']}{orientations}")
    return f"{described['made_by']}; {', '.join(parts)}"


def _tabulate(rows):
    """Makes headings, and by quality blocks of lines of text cells: one block a kind of picture, then one of all."""
    scores = next(iter(next(iter(rows.values()))[0]["scores"].values()))
    measures = {name: each for name, each in _MEASURES.items() if name in scores}
    first, *others = (heading for heading, _ in measures.values())
    gains = _GAINS_OF_CLEAN if "clean" in rows else _GAINS
    headings = ["", first, *gains, *others, "s/MP"]
    sections = {}
    for quality, each in rows.items():
        kinds = group_by_kind(each)
        sections[quality] = [list(_tabulate_block(of_kind, measures)) for of_kind in (*kinds.values(), each)]
        if kinds:
            for kind, lines in zip((*kinds, "all"), sections[quality], strict=True):
                for number, line in enumerate(lines):
                    line.insert(0, "" if number else kind)
    return (["kind", *headings] if kinds else headings), sections


def _tabulate_block(rows, measures):
    """Makes a line of text cells for the JPEG and each method."""
    for who, entry in summarize(rows)["summary"].items():
        first, *others = (f"{entry['mean'][name]:.{digits}f}" for name, (_, digits) in measures.items())
        gains, speed = [""] * len(_GAINS), ""
        if who != JPEG:
            speed = f"{entry['seconds_per_megapixel']:.2f}"
            gains = _tabulate_gains(entry, len(rows))
        yield [who, first, *gains, *others, speed]


def _tabulate_gains(entry, count):
    if "psnr_gain" not in entry:
        return [f"{entry['least_psnr']['psnr']:.2f}", entry["worst"], f"{entry['unchanged_on']}/{count}"]
    gain = entry["psnr_gain"]
    return [f"{gain['mean']:+.2f}", f"{gain['least']:+.2f}", entry["worst"], f"{entry['better_on']}/{count}"]


def _list_losses(rows):
    """Says of each method and quality on which pictures the JPEG is not beaten, or which clean ones are changed."""
    for quality, each in rows.items():
        for who, entry in summarize(each)["summary"].items():
            if losses := entry.get("not_beaten"):
                named = ", ".join(f"{loss['picture']} ({loss['psnr_gain']:+.2f} dB)" for loss in losses)
                equal = f" ({entry['equal_on']} equal within {EQUAL} dB)" if entry["equal_on"] else ""
                where = f"at quality {quality} on {len(losses)} of {len(each)}{equal}"
                yield f"{who} does not beat the JPEG {where}: {named}"
            if changed := entry.get("changed"):
                named = ", ".join(f"{one['picture']} ({one['psnr']:.2f} dB)" for one in changed)
                yield f"{who} changes {len(changed)} of {len(each)} clean pictures: {named}"


def _to_csv(rows):
    text = io.StringIO()
    scores = next(iter(next(iter(rows.values()))[0]["scores"].values()))
    measures = [name for name in scores if name != "color_shifts"]
    shifts = ["red_shift", "green_shift", "blue_shift"] if len(scores["color_shifts"]) == 3 else ["gray_shift"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["quality", "method", "picture", "pixels", "psnr_gain", *measures, *shifts, "seconds", "unchanged"])
    for quality, each in rows.items():
        for row in each:
            for who, scores in row["scores"].items():
                values = [*(scores[name] for name in measures), *scores["color_shifts"]]
                known = [gain(row, who) if JPEG in row["scores"] else "", *values, row["seconds"].get(who, "")]
                rounded = [value if value == "" else f"{value:.6g}" for value in known]
                unchanged = int(who == JPEG or who in row["unchanged"])
                writer.writerow([quality, who, row["name"], row["pixels"], *rounded, unchanged])
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
    for quality, blocks in sections.items():
        parts.append(f'<h2>{_name_section(quality)}</h2><div class="wide"><table><tr>')
        kinds = [' class="name"' if heading in _NAMES else "" for heading in headings]
        parts += [f"<th{kind}>{heading}</th>" for kind, heading in zip(kinds, headings, strict=True)]
        for line in itertools.chain(*blocks):
            parts.append("</tr><tr>")
            parts += [f"<td{kind}>{html.escape(cell)}</td>" for kind, cell in zip(kinds, line, strict=True)]
        parts.append("</tr></table></div>")
    parts += [f'<p class="loss">{html.escape(line)}</p>' for line in _list_losses(rows)]
    parts += [
        f'<p class="faint">{html.escape(line)}</p>'
        for line in [_legend(described), *map(to_one_line, described["notes"])]
    ]
    for quality, each in rows.items():
        parts += _show_worst(quality, each)
    return "\n".join([*parts, "</body></html>", ""])


def _show_worst(quality, rows):
    first = next(iter(rows[0]["seconds"]))
    worst = sorted((row for row in rows if "crops" in row), key=lambda row: merit(row, first))
    yield f"<h2>{_name_section(quality)}, worst cases first</h2>"
    furthest = "the JPEG" if JPEG in rows[0]["scores"] else "it"
    explained = f"The pictures that {first} does worst on, each where {furthest} is furthest off."
    yield f'<p class="faint">{html.escape(explained)}</p>'
    for row in worst:
        yield f'<h3>{html.escape(row["name"])}</h3><div class="pictures">'
        for who, crop in row["crops"].items():
            psnr = f"{row['scores'][who]['psnr']:.2f} dB"
            if who != JPEG and JPEG in row["scores"]:
                lost = ' class="loss"' if gain(row, who) < -EQUAL else ""
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
