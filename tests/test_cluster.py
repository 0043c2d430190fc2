"""Listing, names, manifest and mistakes, which need no Ray; `test_cluster_with_ray.py` has the rest."""

import contextlib
import dataclasses
import json
import os
import re
import socket
from collections import Counter

import pytest

pa = pytest.importorskip("pyarrow")

import pyarrow.parquet as pq  # noqa: E402

from artifact_remover import batch_plan, cluster, restore  # noqa: E402
from artifact_remover.options import RestoreConfig  # noqa: E402
from artifact_remover.storage import locate  # noqa: E402
from data_prep.errors import InputError  # noqa: E402

ROW = dict.fromkeys(cluster.ROWS.names)


def configure(source, target, **settings):
    return cluster.fix_results(RestoreConfig((str(source),), str(target), cluster=True, **settings))


def names(config, others=None):
    """Lists entries with the places of their results, or errors."""
    pictures = cluster.list_pictures(config, Counter() if others is None else others)
    return {each["entry"]: each["error"] or each["target"] for each in pictures}


def fill(folder, *places):
    for place in places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text("")


# Listing and names


def test_a_folder_is_listed_and_named_as_on_one_machine(tmp_path):
    photos = tmp_path / "photos"
    fill(
        photos, "a.jpg", "b.jpg", "b.PNG", "sub/a.jpg", ".hidden/c.jpg", ".d.jpg", "notes.txt", "sub/none", "out/e.jpg"
    )
    os.symlink(photos / "sub", photos / "link")
    os.symlink(photos / "none", photos / "gone.jpg")
    (photos / ("n" * 251 + ".jpg")).write_text("")
    others = Counter()
    config = configure(photos, photos / "out")
    listed = names(config, others)
    assert others == {".txt": 1, "no suffix": 1, "links to folders": 1, "links to nothing": 1}

    output = batch_plan.Output("png", folder=photos / "out")
    found = batch_plan.find_sources([photos], output)
    jobs, _ = batch_plan.name_results(found.sources, output)
    expected = {str(job.source.relative_to(photos)): str(job.target.relative_to(photos / "out")) for job in jobs}
    assert listed == expected
    assert (listed["b.PNG"], listed["sub/a.jpg"]) == ("b_PNG.png", "sub/a.png")
    assert found.others == others


def test_patterns_choose_among_the_pictures_of_a_folder(tmp_path):
    fill(tmp_path, "a.jpg", "b.png", "2004/c.jpg", "2004/thumbs/d.jpg")
    config = configure(tmp_path, tmp_path / "out", include=("2004/*", "*.PNG"), exclude=("*/thumbs/*",), format="webp")
    assert names(config) == {"2004/c.jpg": "2004/c.webp", "b.png": "b.webp"}
    fill(tmp_path, "b.jpg")  # which is named too, or its result would later have the name that is taken
    assert names(config) == {"2004/c.jpg": "2004/c.webp", "b.png": "b_png.webp"}


def test_a_list_names_results_by_whole_paths(tmp_path):
    entries = ["s3://bucket/a/b.jpg", "gs://bucket/a/c.jpg", "/data/b.jpg", "x.jpg", "x.jpg", "x.png", "", "../y.jpg"]
    entries += ["bucket/a/b.jpg", "z.jpg_large"]
    (tmp_path / "list.txt").write_text("\n".join(entries))
    pq.write_table(pa.table({"path": entries}), tmp_path / "list.parquet")
    for name in ("list.txt", "list.parquet"):
        listed = names(configure(tmp_path / name, tmp_path / "out"))
        # Two pictures have one place; each keeps its extension, and the second one is told.
        assert listed.pop("s3://bucket/a/b.jpg").startswith(
            "s3://bucket/a/b.jpg: bucket/a/b_jpg.png is taken by bucket/"
        )
        assert "no path with . or .." in listed.pop("..")
        assert listed == {
            "bucket/a/b.jpg": "bucket/a/b_jpg.png",
            "gs://bucket/a/c.jpg": "bucket/a/c.png",
            "/data/b.jpg": "data/b.png",
            "x.jpg": "x_jpg.png",
            "x.png": "x_png.png",
            "z.jpg_large": "z.png",
        }


def test_a_list_may_be_written_by_find_or_begin_with_a_byte_order_mark(tmp_path):
    for name, encoding in (("plain.txt", "utf-8"), ("marked.txt", "utf-8-sig")):
        (tmp_path / name).write_text("./ä.jpg\n./sub/b.jpg\nsub/b.jpg\n./\n", encoding)
        listed = names(configure(tmp_path / name, tmp_path / "out"))
        assert listed == {"ä.jpg": "ä.png", "sub/b.jpg": "sub/b.png"}


def test_a_folder_without_pictures_and_one_that_cannot_be_listed_are_errors(tmp_path):
    fill(tmp_path, "notes.txt")
    assert names(configure(tmp_path, tmp_path / "out")) == {"": f"no pictures in {tmp_path}"}
    assert "cannot read the folder" in names(configure(tmp_path / "none", tmp_path / "out"))[""]


# The manifest


def test_the_manifest_knows_what_is_done_and_forgets_when_it_is_replaced(tmp_path):
    target = locate(str(tmp_path))
    first = cluster.Manifest(target, replace=False)
    for name, decision in (
        ("a", "restored"),
        ("b", "left alone"),
        ("c", "failed"),
        ("d", "passed over"),
        ("e", "skipped"),
    ):
        first.add(ROW | {"path": name, "target": f"{name}.png", "decision": decision})
    first.write()
    assert cluster._read_names(target) == {"a.png", "b.png"}
    assert cluster._read_names(target, first.run) == {"a.png", "b.png", "c.png", "d.png"}
    assert pq.read_table(tmp_path / "manifest")["path"].to_pylist() == ["a", "b", "c", "d"]
    cluster.Manifest(target, replace=False)
    assert cluster._read_names(target) == {"a.png", "b.png"}
    cluster.Manifest(target, replace=True)
    assert cluster._read_names(target) == set()


def test_files_beside_the_rows_are_neither_read_nor_deleted(tmp_path):
    target = locate(str(tmp_path))
    first = cluster.Manifest(target, replace=False)
    first.add(ROW | {"path": "a", "target": "a.png", "decision": "restored"})
    first.write()
    others = [".12-0123abcd.partial", "a.png", "mine.parquet", f"{first.run}-00000.parquet.bak", "sub/x.parquet"]
    fill(tmp_path / "manifest", *others)
    assert cluster._read_names(target) == {"a.png"}
    cluster.Manifest(target, replace=True)
    assert cluster._read_names(target) == set()
    assert all((tmp_path / "manifest" / name).exists() for name in others)


def test_damaged_rows_and_a_damaged_list_are_errors(tmp_path):
    manifest = cluster.Manifest(locate(str(tmp_path)), replace=False)
    rows, listed = tmp_path / "manifest" / f"{manifest.run}-00000.parquet", tmp_path / "list.parquet"
    pq.write_table(pa.table({"path": ["a.jpg"]}), listed, compression="NONE")
    listed.write_bytes(bytes(40) + listed.read_bytes()[40:])
    rows.write_bytes(rows.read_bytes()[:-20])
    with pytest.raises(InputError, match=f"{re.escape(str(rows))} is damaged: delete it, what its rows told"):
        next(cluster._list_packs(None, configure(tmp_path, tmp_path, resume=True), manifest.run, 16))
    with pytest.raises(InputError, match=r"list\.parquet is damaged: write the list again"):
        names(configure(listed, tmp_path / "out"))


def test_no_result_lies_among_the_rows(tmp_path):
    fill(tmp_path, "a.jpg", "manifest/b.jpg", "manifest/sub/c.jpg", "sub/manifest/d.jpg")
    (tmp_path / "list.txt").write_text("manifest/b.jpg")
    said = "{}: the output's folder manifest is for rows alone, restore it apart"
    assert names(configure(tmp_path, tmp_path / "out")) == {
        "a.jpg": "a.png",
        "manifest/b.jpg": said.format("manifest/b.jpg"),
        "manifest/sub/c.jpg": said.format("manifest/sub/c.jpg"),
        "sub/manifest/d.jpg": "sub/manifest/d.png",
    }
    assert names(configure(tmp_path / "list.txt", tmp_path / "out")) == {
        "manifest/b.jpg": said.format("manifest/b.jpg")
    }


def test_packs_hold_each_picture_once_and_the_second_time_only_those_without_a_row(tmp_path):
    photos, target = tmp_path / "photos", locate(str(tmp_path / "out"))
    fill(photos, *(f"{number:02}.jpg" for number in range(40)), "x.txt")
    config = configure(photos, tmp_path / "out")
    manifest = cluster.Manifest(target, replace=False)

    def pack(config, together):
        *packs, end = [table.to_pylist()[0] for table in cluster._list_packs(None, config, manifest.run, together)]
        assert json.loads(end["others"]) == {".txt": 1}
        assert end["listed"] == sum(len(each["pictures"]) for each in packs)
        return [[picture["entry"] for picture in each["pictures"]] for each in packs]

    assert [len(each) for each in pack(config, 16)] == [16, 16, 8]
    for number in range(38):
        name = str(tmp_path / f"out/{number:02}.png")
        manifest.add(ROW | {"target": name, "decision": "failed" if number % 2 else "restored"})
    manifest.write()
    assert pack(config, 1) == [["38.jpg"], ["39.jpg"]]
    [pictures, *_] = cluster._list_packs(None, dataclasses.replace(config, resume=True), "later", 40)
    known = [each["known"] for each in pictures.to_pylist()[0]["pictures"]]
    assert known == [not number % 2 for number in range(38)] + [False, False]


def test_what_cannot_have_a_result_is_told_once(tmp_path):
    """After a worker's death it would be told again, as a picture that kills its workers."""
    (tmp_path / "list.txt").write_text("a.jpg\n../b.jpg\nnone://c/d.jpg\n")
    config, target = configure(tmp_path / "list.txt", tmp_path / "out"), locate(str(tmp_path / "out"))
    manifest = cluster.Manifest(target, replace=False)
    wrong = [each for each in cluster.list_pictures(config, Counter()) if each["entry"] != "a.jpg"]
    assert len(wrong) == 2
    worker = cluster.Worker(config)
    for row in worker._restore(wrong):
        assert row["decision"] == "failed" and row["error"]
        manifest.add(row)
    manifest.write()
    assert [each["entry"] for each in cluster._list_all(config, manifest.run)] == ["a.jpg"]


def test_packs_grow_with_the_pictures_so_that_ray_keeps_few_tasks_of_a_million():
    sizes = {0: 16, 16_999: 16, 17_000: 17, 90_000: 90, 10**7: 128}
    assert {listed: cluster.count_together(16, listed) for listed in sizes} == sizes
    listed = tasks = 0
    while listed < 10**6:
        listed, tasks = listed + cluster.count_together(16, listed), tasks + 1
    assert tasks < 10_000


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("a --cluster", "--cluster takes one input"),
        ("a b --cluster -o c", "--cluster takes one input"),
        ("a --cluster -o c --compare", "--cluster and --compare exclude each other"),
        ("a --cluster -o c --report r.csv", "--cluster and --report exclude each other"),
        ("a --cluster --in-place --backup b", "--cluster and --in-place exclude each other"),
        ("a --cluster -o c --server http://x", "--cluster and --server exclude each other"),
        ("a --cluster -o c --workers 3 2", "--workers must be two numbers, 1 or above and rising: 3 2"),
        ("a --cluster -o c --cpus-per-worker 0", "--cpus-per-worker must be above zero"),
        ("a --cluster -o c --gpus-per-worker -1", "--gpus-per-worker must not be below zero"),
        ("a -o c --workers 1 2", "--workers goes with --cluster alone"),
        ("s3://bucket/a -o c", "s3://bucket/a is a URI, which only --cluster reads and writes"),
        ("a -o s3://bucket/c", "s3://bucket/c is a URI, which only --cluster reads and writes"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(arguments, said, capfd):
    with pytest.raises(SystemExit) as leaving:
        restore.main(arguments.split())
    assert leaving.value.code == 2
    printed = capfd.readouterr().err
    assert printed.startswith(f"error: {said}") and printed.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("none", "out", "no such file or folder: "),
        ("a.jpg", "out", "is neither a folder nor a list, .parquet or .txt"),
        ("bad.parquet", "out", "is no Parquet file"),
        ("other.parquet", "out", "has no column path of text: path, name"),
        ("folder.txt", "out", "is neither a folder nor a list, .parquet or .txt"),
        (".", ".", "is itself to be restored"),
        ("sub", "a.jpg", "is a file, there may be several pictures"),
    ],
)
def test_wrong_places_are_told_before_ray_is_started(source, target, said, tmp_path, monkeypatch):
    fill(tmp_path, "a.jpg", "bad.parquet", "sub/b.jpg", "folder.txt/b.jpg")
    pq.write_table(pa.table({"path": [1], "name": ["x"]}), tmp_path / "other.parquet")
    monkeypatch.setattr(cluster, "connected", lambda config: pytest.fail("Ray is started"))
    monkeypatch.setattr(cluster, "choose_exports", lambda *_: None)
    with pytest.raises(InputError, match=said):
        list(cluster.restore_on_cluster(configure(tmp_path / source, tmp_path / target), Counter()))


@pytest.fixture
def ports():
    """Ports of this machine, one that is closed and one that answers no connection, as its queue is full."""
    with contextlib.ExitStack() as sockets:
        closed, silent, *waiting = [sockets.enter_context(socket.socket()) for _ in range(5)]
        for each in (closed, silent):
            each.bind(("127.0.0.1", 0))
        silent.listen(0)
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(silent.getsockname())
        yield {"closed": closed.getsockname()[1], "silent": silent.getsockname()[1]}


@pytest.mark.parametrize("address", ["127.0.0.1:{closed}", "127.0.0.1:{silent}", "ray://a.invalid:6379", "[a..b]:6379"])
def test_a_cluster_that_does_not_answer_is_told_within_seconds(address, ports, tmp_path, monkeypatch, capfd):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray tries for minutes"))
    monkeypatch.setattr(cluster, "_ANSWER_SECONDS", 0.5)
    config = configure(tmp_path, tmp_path / "out", ray_address=address.format(**ports))
    with pytest.raises(InputError, match="^no Ray answers at .*: give another "), cluster.connected(config):
        pass
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("settings", "engine"), [({}, "openvino"), ({"gpus_per_worker": 0.5}, "tensorflow")])
def test_all_workers_run_the_model_with_the_engine_of_the_command(tmp_path, settings, engine):
    assert configure(tmp_path, tmp_path / "out", **settings).engine == engine
    assert configure(tmp_path, tmp_path / "out", engine="tensorflow", **settings).engine == "tensorflow"
