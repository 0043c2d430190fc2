"""Writes measured figures into the tables of docs/results.md: `python -m tests.result_tables FOLDER`.

The folder holds what the commands of that document gave: the lines of `tests.benchmarks.decisions` in files named
`*.jsonl`, and folders of `artifact_remover.evaluate --output`. What was not measured, and published figures, stay as
they are. So does what was not measured in float32. What the text below the tables tells of is printed.
"""

import argparse
import json
import re
from pathlib import Path

Cells = dict[tuple[str, str], list[str | None]]
"""Cells of a row after its label, None where they stay; by the heading or bold words above the table, and the label."""

DOCUMENT = Path(__file__).parents[1] / "docs" / "results.md"
GRAPHICS = "Graphics, clean pictures, crops and pictures saved twice"
ORIENTATIONS = "In eight orientations"
_PRECISION = "float32"  # of all tables
_NAMES = {"live1": "LIVE1", "graphics": "graphics"}
_PROCESSES = {
    "add_noise": "noise",
    "add_grain": "grain",
    "blur": "blurred",
    "sharpen": "sharpened",
    "fade": "faded",
    "halftone": "halftone dots",
    "dither": "dithered",
}
_FACTORS = {"BICUBIC": "x2 bicubic", "LANCZOS": "x2 Lanczos"}
_HARM_STATES = ((50, "4:2:0"), (90, "4:2:0"), (90, "4:4:4"), (94, "4:4:4"))
_LIVE1_QUALITIES = ("10", "20", "30", "40", "50", "80", "90", "95")


def write_tables(text: str, measured: Cells) -> str:
    """Puts measured cells into a document's tables.

    Args:
        text: The document. A row is found by its first cell; where that is empty, by the one above and the second.
        measured: What was measured; what has no row is passed over.

    Returns:
        The document with these cells.

    Raises:
        ValueError: If a row has more or fewer cells, as where not all of its data was measured.
    """
    lines, place, above = text.split("\n"), "", ""
    for number, line in enumerate(lines):
        if heading := re.match(r"## (.+)|\*\*(.+?)\*\*", line):
            place = heading[1] or heading[2]
        if not line.startswith("| "):
            continue
        row = [cell.strip() for cell in line.strip("|").split("|")]
        above = row[0] or above
        labels = 1 if row[0] and (place, row[0]) in measured else 2
        label = row[0] if labels == 1 else " ".join([above, row[1]])
        new = measured.get((place, label))
        if new:
            if len(new) != len(row) - labels:
                raise ValueError(f"{place}, {label}: {len(new)} cells were measured, the row has {len(row) - labels}")
            cells = [old if cell is None else cell for cell, old in zip(new, row[labels:], strict=True)]
            lines[number] = "|" + "".join(f" {cell} |" if cell else " |" for cell in row[:labels] + cells)
    return "\n".join(lines)


def read_decisions(rows: list[dict]) -> Cells:
    """Makes cells of the lines of `tests.benchmarks.decisions`.

    Raises:
        ValueError: If not all qualities of `harm` were measured.
    """
    measured: Cells = {}
    rows = [row for row in rows if row["precision"] == _PRECISION]
    for row in rows:
        place, label = _name(row)
        if place:
            # Columns of photographs and of graphics, or of the ways in which files are written.
            measured.setdefault((place, label), []).extend(_tabulate(row))
    return measured | _tabulate_harm([row for row in rows if row["benchmark"] == "harm"])


def _name(row) -> tuple[str, str]:
    state = f"Q{row.get('quality')} {row.get('subsampling')}"
    match row["benchmark"]:
        case "grid":
            return "The block grid", state
        case "clean" if "quality" in row:
            return "Clean pictures", f"Q{row['quality']}, scaled to {row['factor']:g}"
        case "codecs":
            name = row.get("format") or f"copies: {row['lossless copies of']}"
            return "Lossy WebPs and AVIFs", f"{name.replace('WEBP', 'WebP')}, quality {row['quality']}"
        case "programs":
            program = "Photoshop" if row["program"] == "photoshop" else row["program"]
            return "JPEGs of other programs", f"{program}, {row['quality']}, {row['subsampling']}"
        case "turned":
            return "Turned without loss", state
        case "enlarged":
            factor = "x1.4" if row["factor"] == 1.4 else _FACTORS[row["filter"]]
            return "Enlarged, then saved as a JPEG", f"{factor}, {state}"
        case "scaled":
            return "Scaled and saved again", f"Q{row['first']}, x{row['factor']:g}, Q{row['last']}"
        case "processed":
            return "Grainy, in dots, dithered", f"{_PROCESSES[row['process']]}, {state}"
        case "small":
            return "Small pictures", f"{row['side']} pixels, {state}"
        case "repeated":
            return "Each pixel repeated", "{:g} x {:g}, ".format(*row["factors"]) + state
        case "written":
            place = "Written as AVIF" if row["format"] == "avif" else "Written as JPEG"
            return place, f"{_NAMES[Path(row['data']).name]}, {state}"
    return "", ""


def _tabulate(row) -> list[str]:
    gain = _pair(row["mean_gain"], row["least_gain"]) if row.get("restored") else ""
    match row["benchmark"]:
        case "grid":
            crops = 256 * row["pictures"]
            found = f"{round(row['grid_found'] * crops)} of {crops}"
            return [found, *(f"{row[name]:.2f}" for name in ("gain_at_0_0", "mean_gain", "least_gain"))]
        case "clean":
            return [f"{row['restored']} of {row['pictures']}", gain]
        case "codecs":
            return [str(row["restored"]), gain]
        case "turned":
            return [f"{row['as_it_lies']:+.2f}", gain, str(row["worse"])]
        case "written":
            if row["format"] == "png":
                return [gain]
            more = [str(row["handed_back"]), f"{row['size']:.1f}"] if row["format"] == "jpeg" and row["fitted"] else []
            return [gain, str(row["worse"]), *more]
    counted = {"repeated": "found", "programs": "taken_for_twice"}.get(row["benchmark"], "restored")
    return [str(row[counted]), gain, str(row["worse"])]


def _tabulate_harm(rows) -> Cells:
    groups: dict[str, dict[tuple[int, str], dict]] = {}
    for row in rows:
        label = _NAMES[Path(row["data"]).name] + (", cut" if any(row["cut"]) else "")
        groups.setdefault(label, {})[row["quality"], row["subsampling"]] = row
    measured: Cells = {}
    for label, states in groups.items():
        if not states.keys() >= set(_HARM_STATES):
            raise ValueError(f"Harm, {label}: not all qualities were measured")
        cases, worse = (sum(row[each] for row in states.values()) for each in ("pictures", "worse"))
        means, least = [states[state]["mean_gain"] for state in _HARM_STATES[:3]], states[_HARM_STATES[3]]["least_gain"]
        measured["Harm", label] = [str(cases), str(worse), *(f"{gain:+.2f}" for gain in (*means, least))]
    return measured


def read_evaluation(evaluation: dict) -> Cells:
    """Makes cells of an `evaluation.json`, as far as they have tables."""
    if evaluation["machine"]["precision"] != _PRECISION:
        return {}
    data, results = Path(evaluation["data"]).name, evaluation["qualities"]
    cut, again = any(evaluation["offset"]), bool(evaluation["resave"])
    if (evaluation["protocol"] == "gray") != (data == "classic5" or (cut and again)):
        return {}
    if evaluation["self_ensemble"]:
        plain = data in _NAMES and not (evaluation["clean"] or cut or again)
        return _tabulate_orientations(evaluation) if plain else {}
    if evaluation["clean"]:
        summary = results["clean"]["summary"]
        scores = [_find(summary, model) for model in ("faithful", "perceptual")]
        cells: list[str | None] = [
            f"{each['mean']['psnr']:.1f} / {each['least_psnr']['psnr']:.1f}" if each else None for each in scores
        ]
        return {(GRAPHICS, _NAMES[data]): cells}
    if cut or again:
        if data != "live1":
            return {}
        return _tabulate_cut_again(evaluation) if cut and again else _tabulate_poorer(evaluation)
    match data:
        case "live1":
            return _tabulate_orientations(evaluation) | _tabulate_live1(results)
        case "classic5":
            return {("Classic5", f"**ours, {model}**"): means for model, means in _tabulate_means(results).items()}
        case "bsds500_test":
            least = [f"{_find(each['summary'], 'faithful')['psnr_gain']['least']:+.2f}" for each in results.values()]
            place = "BSDS500 test"
            return {
                (place, "**ours, faithful**"): _tabulate_means(results)["faithful"],
                (place, "least over the JPEG"): [*least],
            }
        case "graphics":
            graphics = _tabulate_graphics(evaluation["chroma_subsampling"], results)
            return _tabulate_orientations(evaluation) | graphics
    return {}


def _tabulate_orientations(evaluation) -> Cells:
    measured: Cells = {}
    for quality, result in evaluation["qualities"].items():
        label = f"{_NAMES[Path(evaluation['data']).name]}, Q{quality} {evaluation['chroma_subsampling']}"
        jpeg, ours = (_find(result["summary"], each) for each in ("JPEG", "faithful"))
        if not ours:
            continue
        psnr, before = (f"{each['mean']['psnr']:.2f}" for each in (ours, jpeg))
        gain = _pair(*(ours["psnr_gain"][each] for each in ("mean", "least")))
        eight: list[str | None] = [None, psnr, gain, str(_count_worse(result))]
        measured[ORIENTATIONS, label] = [before, *(eight if evaluation["self_ensemble"] else [gain, *3 * [None]])]
    return measured


def _tabulate_means(results) -> dict[str, list[str | None]]:
    means: dict[str, list[str | None]] = {}
    for model in ("faithful", "perceptual"):
        scores = [_find(each["summary"], model) for each in results.values()]
        if all(scores):
            means[model] = [f"{score['mean']['psnr']:.2f}" for score in scores]
    return means


def _tabulate_live1(results) -> Cells:
    measured: Cells = {}
    for model in ("faithful", "perceptual"):
        scores = {quality: score for quality in results if (score := _find(results[quality]["summary"], model))}
        means = {quality: score["mean"] for quality, score in scores.items()}
        psnr = [f"{means[each]['psnr']:.2f}" if each in means else None for each in _LIVE1_QUALITIES]
        measured["LIVE1", f"**ours, {model}**"] = [None, *psnr]
        distances = [
            f"{means[quality][name]:.3f}" if means.get(quality, {}).get(name) is not None else None
            for name, qualities in (("lpips", _LIVE1_QUALITIES[:2]), ("dists", _LIVE1_QUALITIES[:4]))
            for quality in qualities
        ]
        measured["Perceptual distances", f"**ours, {model}**"] = [None, *distances]
        for quality, score in scores.items():
            mean, gain = score["mean"], score["psnr_gain"]
            lpips = f"{mean['lpips']:.3f}" if mean.get("lpips") is not None else None
            measured["LIVE1", f"{quality} **{model}**"] = [
                f"{gain['mean']:+.2f}",
                f"{gain['least']:+.2f}",
                f"{score['better_on']}/{results[quality]['pictures']}",
                f"{mean['ssim']:.4f}",
                f"{mean['psnr_b']:.2f}",
                lpips,
                f"{mean['color_shift']:.2f}",
            ]
    for quality, label in (("50", "Q50, cut at (2, 2)"), ("20", "Q20, saved again at 90")):
        if quality in results:
            gain = _find(results[quality]["summary"], "faithful")["psnr_gain"]
            measured[GRAPHICS, label] = [None, None, f"{gain['mean']:+.2f}"]
    return measured


def _tabulate_poorer(evaluation) -> Cells:
    measured: Cells = {}
    for quality, result in evaluation["qualities"].items():
        if evaluation["resave"]:
            label = f"Q{quality}, saved again at {evaluation['resave']}"
        else:
            label = f"Q{quality}, cut at ({', '.join(map(str, evaluation['offset']))})"
        gain = _find(result["summary"], "faithful")["psnr_gain"]
        measured[GRAPHICS, label] = [f"{gain['mean']:+.2f}", f"{gain['least']:+.2f}", None]
    return measured


def _tabulate_cut_again(evaluation) -> Cells:
    measured: Cells = {}
    for quality, result in evaluation["qualities"].items():
        jpeg, ours = (_find(result["summary"], each) for each in ("JPEG", "faithful"))
        means = [f"{each['mean']['psnr']:.2f}" for each in (jpeg, ours)]
        label = f"Q{quality}, then {evaluation['resave']}"
        measured[GRAPHICS, label] = [*means, f"{ours['psnr_gain']['least']:+.2f}", *5 * [None]]
    return measured


def _tabulate_graphics(subsampling, results) -> Cells:
    measured: Cells = {}
    for quality, result in results.items():
        jpeg, ours = (_find(result["summary"], each) for each in ("JPEG", "faithful"))
        means = [f"{each['mean']['psnr']:.2f}" for each in (jpeg, ours)]
        gain = [f"{ours['psnr_gain'][each]:+.2f}" for each in ("mean", "least")]
        measured[GRAPHICS, f"Q{quality} {subsampling}"] = [*means, *gain, str(_count_worse(result)), None, None, None]
    return measured


def _count_worse(result) -> int:
    psnr = ([_find(each["scores"], name)["psnr"] for name in ("JPEG", "faithful")] for each in result["each"])
    return sum(ours - jpeg < -0.02 for jpeg, ours in psnr)


def _find(scores, name):
    return next((score for full, score in scores.items() if name in full), None)


def _pair(mean, least) -> str:
    return f"{mean:+.2f} / {least:+.2f}"


def _merge(cells: Cells, more: Cells) -> None:
    for key, new in more.items():
        before = cells.get(key, [None] * len(new))
        cells[key] = [old if cell is None else cell for cell, old in zip(new, before, strict=True)]


def _summarize(rows) -> None:
    for kind, data in dict.fromkeys((row["benchmark"], row["data"]) for row in rows if "worse" in row):
        group = [row for row in rows if (row["benchmark"], row["data"]) == (kind, data) and "worse" in row]
        restored = sum(row.get("restored", row["pictures"]) for row in group)
        worse, least = sum(row["worse"] for row in group), min(row["least_gain"] or 0 for row in group)
        print(f"{kind}, {Path(data).name}: {worse} of {restored} worse, least {least:+.2f}")


def main() -> None:
    """Reads the command line and writes the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    lines = [line for file in sorted(folder.rglob("*.jsonl")) for line in file.read_text().splitlines()]
    decisions = [json.loads(line) for line in lines if line.startswith("{")]
    try:
        measured = read_decisions(decisions)
        for file in sorted(folder.rglob("evaluation.json")):
            _merge(measured, read_evaluation(json.loads(file.read_text())))
        text = write_tables(DOCUMENT.read_text(encoding="utf-8"), measured)
    except ValueError as error:
        parser.error(str(error))
    if not measured:
        parser.error(f"nothing measured: {folder}")
    DOCUMENT.write_text(text, encoding="utf-8")
    _summarize(decisions)


if __name__ == "__main__":
    main()
