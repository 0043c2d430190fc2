"""The pictures that are found, and the names of their results."""

import os
from pathlib import Path

import pytest
from skimage import data as skimage_data

from artifact_remover.batch_plan import (
    Job,
    Output,
    Source,
    choose_output,
    find_sources,
    measure,
    name_results,
    pass_over_finished,
    plan,
)
from artifact_remover.options import RestoreConfig
from data_prep.errors import InputError
from tests.sample_pictures import to_file, to_jpeg, to_png


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Makes empty files in a new current folder, in which all paths are short."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()

    return make


def found(*inputs, output=None):
    found = find_sources([Path(given) for given in inputs], Output("png", folder=output and Path(output)))
    return [str(source.file) for source in found.sources], found.errors


def named(*inputs, folder=None, format="png", compare=False):
    output = Output(format, folder=folder and Path(folder))
    found = find_sources([Path(given) for given in inputs], output)
    jobs, failed = name_results(found.sources, output, compare)
    names = {str(job.source): " ".join(map(str, job.results)) for job in jobs}
    return names, found.errors + [each.error for each in failed]


# What is found


def test_folders_are_searched_in_order_and_what_is_hidden_or_no_picture_is_passed_over(place):
    place("p/b.JPG", "p/a.png", "p/sub/c.webp", "p/.hidden.jpg", "p/.folder/d.jpg", "p/note.txt", "p/z/e.jpeg")
    assert found("p") == (["p/a.png", "p/b.JPG", "p/sub/c.webp", "p/z/e.jpeg"], [])


UNWANTED = (".BAK", ".orig", ".part", ".crdownload", ".tmp", ".THM")


@pytest.fixture(scope="module")
def odd():
    """Files that are in no way like their names, or whose names do not say what they are."""
    photo = skimage_data.astronaut()[:16, :24]
    jpeg, tiff = to_jpeg(photo), to_file(photo, "TIFF")
    return {
        "p/a.jpg_large": jpeg,
        "p/b": to_png(photo),
        "p/c.dat": to_file(photo, "WEBP"),
        "p/d.gif": to_file(photo, "GIF"),
        "p/e.nef": tiff,  # as the raw files of cameras are
        "p/f.jpg_original": jpeg,
        "p/f.jpg~": jpeg,
        **{f"p/f.jpg{ending}": jpeg for ending in UNWANTED},
        "p/g.tif": tiff,
        "p/h.txt": b"BM is how a BMP begins",
        "p/i.TXT": b"",
        "p/.hidden": jpeg,
    }


def test_an_odd_name_is_taken_if_it_is_a_picture_by_its_content_and_the_others_are_counted(place, odd):
    place(*odd)
    for name, content in odd.items():
        Path(name).write_bytes(content)
    Path("p/gone.jpg").symlink_to("nothing")
    os.mkfifo("p/pipe.jpg")
    found = find_sources([Path("p")], Output("png"))
    assert [str(source.file) for source in found.sources] == ["p/a.jpg_large", "p/b", "p/c.dat", "p/g.tif"]
    others = {".gif": 1, ".nef": 1, ".jpg_original": 1, ".jpg~": 1, ".txt": 2, "links to nothing": 1, ".jpg": 1}
    others |= {ending.lower(): 1 for ending in UNWANTED}
    assert found.others == others and not found.errors
    assert named("p")[0]["p/a.jpg_large"] == "p/a_restored.png"


@pytest.mark.parametrize(
    ("include", "exclude", "left"),
    [
        ([], [], "a.JPG b.png sub/a.jpg sub/x/c.jpg"),
        (["*.jpg"], [], "a.JPG sub/a.jpg sub/x/c.jpg"),
        (["a.*", "sub/x/*"], [], "a.JPG sub/x/c.jpg"),
        ([], ["sub/*"], "a.JPG b.png"),
        (["SUB/*"], ["*/x/*", "b*"], "sub/a.jpg"),
        ([], ["*/sub/*"], "a.JPG b.png"),
        (["?.jp[g]"], [], "a.JPG"),
    ],
)
def test_patterns_choose_by_the_path_below_the_folder(place, include, exclude, left):
    place("p/a.JPG", "p/b.png", "p/sub/a.jpg", "p/sub/x/c.jpg", "p/note.txt", "single.png")
    found = find_sources([Path("p"), Path("single.png")], Output("png"), include, exclude)
    assert [str(source.place) for source in found.sources] == [*left.split(), "single.png"]
    assert found.others.total() == (0 if include else 1)


def test_results_beside_what_is_excluded_are_passed_over_too(place):
    place("p/a.jpg", "p/a_restored.png", "p/b.jpg")
    assert [str(each.file) for each in find_sources([Path("p")], Output("png"), [], ["a.jpg"]).sources] == ["p/b.jpg"]


def test_a_single_file_is_taken_whatever_it_is_called(place):
    place("photo", ".hidden.jpg", "scan.dat")
    assert found("photo", ".hidden.jpg", "scan.dat") == (["photo", ".hidden.jpg", "scan.dat"], [])


def test_links_into_a_circle_are_not_followed_but_a_link_to_a_picture_is(place):
    place("p/a.jpg", "elsewhere/b.jpg")
    Path("p/loop").symlink_to("..", target_is_directory=True)
    Path("p/b.jpg").symlink_to(Path("elsewhere/b.jpg").resolve())
    Path("p/gone.jpg").symlink_to("nothing")
    assert found("p") == (["p/a.jpg", "p/b.jpg"], [])


@pytest.mark.parametrize(("include", "exclude"), [((), ()), (("*.jpg",), ()), ((), ("*.jpg",))])
def test_links_to_folders_are_counted(place, include, exclude):
    """Whatever the patterns are, as nobody looked what is behind them."""
    place("p/sub/.hidden/a.txt", "elsewhere/b.jpg")
    for link in ("p/one", "p/sub/two", "p/.hidden"):
        Path(link).symlink_to(Path("elsewhere").resolve(), target_is_directory=True)
    found = find_sources([Path("p")], Output("png"), include, exclude)
    assert found.others == {"links to folders": 2} and found.errors == ["no pictures in the folder: p"]


def test_the_same_picture_given_again_is_taken_once(place):
    place("p/a.jpg", "p/b.jpg")
    Path("q").symlink_to("p", target_is_directory=True)
    assert found("p/b.jpg", "p", "./p/../p/a.jpg", "q")[0] == ["p/b.jpg", "p/a.jpg"]


def test_names_do_not_depend_on_what_the_patterns_ask_for(place):
    """Or `--resume` would take the result of one picture for another's."""
    place("p/a.jpg", "p/a.png", "p/b.jpg")
    config = RestoreConfig(("p",), output="out", exclude=("*.png",))
    output = choose_output(config)
    planned = plan(config, output)
    assert [outcome.job.target.name for outcome in planned.outcomes] == ["a_jpg.png", "b.png"]  # empty files
    taken = find_sources(["p", "p/a.png"], output, exclude=["*.png"])
    assert [source.file.name for source in taken.sources] == ["a.jpg", "b.jpg", "a.png"] and not taken.unwanted


def test_results_of_earlier_runs_beside_the_pictures_are_passed_over(place):
    results = ("p/a_restored.png", "p/a_restored.webp", "p/a_compare.png", "p/a_jpg_restored.tiff")
    place("p/a.jpg", *results, "p/other_restored.png", "p/_restored.jpg")
    assert found("p")[0] == ["p/_restored.jpg", "p/a.jpg", "p/other_restored.png"]
    assert len(found("p", output="out")[0]) == 7
    assert found("p/a_restored.png")[0] == ["p/a_restored.png"]  # given by name, it is wanted


def test_the_output_folder_inside_of_an_input_folder_is_passed_over(place):
    place("p/a.jpg", "p/out/a.png", "p/out/sub/b.png", "p/outside/c.jpg")
    assert found("p", output="p/out")[0] == ["p/a.jpg", "p/outside/c.jpg"]
    assert found("p", output="p")[0][0] == "p/a.jpg"


def test_what_is_missing_or_holds_no_picture_is_said_and_the_rest_is_found(place):
    place("a.jpg", "empty/note.txt")
    files, errors = found("nothing.jpg", "a.jpg", "empty", "x" * 300)
    assert files == ["a.jpg"]
    assert (
        errors[:2] == ["no such file or folder: nothing.jpg", "no pictures in the folder: empty"] and len(errors) == 3
    )


def test_a_folder_that_may_not_be_read_is_said_once(ordinary_user, place):
    place("p/a.jpg")
    Path("p").chmod(0)
    files, [error] = found("p")
    Path("p").chmod(0o755)
    assert not files and "check its permissions" in error


def test_a_pipe_is_no_file(place):
    os.mkfifo("pipe.jpg")
    assert found("pipe.jpg") == ([], ["cannot be read, or is neither file nor folder: pipe.jpg"])


# What results are called


def test_beside_the_picture_or_below_a_folder(place):
    place("p/a.jpg", "p/sub/b.tar.png", "c.jpg", "bare")
    assert named("p", "c.jpg", "bare")[0] == {
        "p/a.jpg": "p/a_restored.png",
        "p/sub/b.tar.png": "p/sub/b.tar_restored.png",
        "c.jpg": "c_restored.png",
        "bare": "bare_restored.png",
    }
    assert named("p", "c.jpg", folder="out", format="jpeg", compare=True)[0] == {
        "p/a.jpg": "out/a.jpg out/a_compare.png",
        "p/sub/b.tar.png": "out/sub/b.tar.jpg out/sub/b.tar_compare.png",
        "c.jpg": "out/c.jpg out/c_compare.png",
    }


def test_each_of_several_folders_keeps_its_name(place):
    place("100D/a.jpg", "101D/sub/a.jpg", "102D/b.jpg")
    jobs, errors = named("100D", "101D/../101D", "102D/b.jpg", folder="out")
    assert jobs == {
        "100D/a.jpg": "out/100D/a.png",
        "101D/../101D/sub/a.jpg": "out/101D/sub/a.png",
        "102D/b.jpg": "out/b.png",
    }
    assert not errors


def test_names_that_clash_keep_the_extension(place):
    place("p/a.jpg", "p/a.png", "p/b.jpg", "c.jpg", "p/c.png")
    jobs, errors = named("p", "c.jpg", folder="out")
    assert jobs == {
        "p/a.jpg": "out/a_jpg.png",
        "p/a.png": "out/a_png.png",
        "p/b.jpg": "out/b.png",
        "p/c.png": "out/c_png.png",
        "c.jpg": "out/c_jpg.png",
    }
    assert not errors
    assert named("p/a.jpg", "p/a.png")[0]["p/a.png"] == "p/a_png_restored.png"


def test_a_name_made_by_a_clash_may_clash_itself(place):
    place("p/a.jpg", "p/a.png", "p/a_jpg.webp", "p/b.jpg", "p/b_compare.jpg")
    jobs, errors = named("p", folder="out", compare=True)
    results = [name for names in jobs.values() for name in names.split()]
    assert not errors and len(set(results)) == len(results) == 10


def test_a_clash_that_stays_is_an_error_of_the_second(place):
    place("x/a.jpg", "y/a.jpg", "y/b.jpg")
    jobs, [error] = named("x/a.jpg", "y/a.jpg", "y/b.jpg", folder="out")
    assert jobs == {"x/a.jpg": "out/a_jpg.png", "y/b.jpg": "out/b.png"}
    assert error.startswith("y/a.jpg: out/a_jpg.png is taken by x/a.jpg")


def test_no_picture_is_written_over_another_input(place):
    place("p/a.jpg", "p/sub/a.png")
    assert named("p/sub/a.png", "p/a.jpg", folder="p", format="jpeg") == (
        {"p/a.jpg": "p/a_jpg.jpg", "p/sub/a.png": "p/a_png.jpg"},
        [],
    )
    place("q/b.jpg", "q/b_restored.png")
    jobs, [error] = named("q/b.jpg", "q/b_restored.png")
    assert jobs == {"q/b_restored.png": "q/b_restored_restored.png"}
    assert error.startswith("q/b.jpg: q/b_restored.png is taken by q/b_restored.png")


@pytest.mark.parametrize("letter", ["x", "ü", "写", "\udcff", "🖼"])
def test_long_names_are_shortened_and_stay_apart(place, letter):
    longest = letter * (251 // len(os.fsencode(letter)))
    names = [f"{longest[:-1]}{end}.jpg" for end in "ab"]
    place(*names)
    jobs, errors = named(*names, compare=True)
    results = [name for each in jobs.values() for name in each.split()]
    assert not errors and len(set(results)) == 4
    for name in results:
        assert len(os.fsencode(name)) <= 255
        place(name)
    assert {name.rpartition("_")[2] for name in results} == {"restored.png", "compare.png"}
    assert sorted(found(".")[0]) == sorted(names)


@pytest.mark.parametrize(
    ("options", "output"),
    [
        ({}, Output("png")),
        ({"format": "webp"}, Output("webp")),
        ({"output": "b.JPG"}, Output("jpeg", file=Path("b.JPG"))),
        ({"output": "b.tif", "format": "tiff"}, Output("tiff", file=Path("b.tif"))),
        ({"output": "b"}, Output("png", folder=Path("b"))),
        ({"output": "v1.2"}, Output("png", folder=Path("v1.2"))),
        ({"output": "there.png"}, Output("png", folder=Path("there.png"))),
        ({"output": "new.png/"}, Output("png", folder=Path("new.png"))),
        ({"output": "www.site.com/"}, Output("png", folder=Path("www.site.com"))),
        ({"output": "b", "inputs": "a.jpg c.jpg"}, Output("png", folder=Path("b"))),
        ({"output": "there.png", "inputs": "a.jpg there.png/x"}, Output("png", folder=Path("there.png"))),
        ({"output": "there.png/../there.png", "inputs": "there.png"}, Output("png")),
        ({"output": "b.jpg", "quality": 80}, Output("jpeg", file=Path("b.jpg"))),
    ],
)
def test_output_is_a_file_a_folder_or_beside(place, options, output):
    place("there.png/x")
    assert choose_output(configure(**options)) == output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "b.png", "format": "webp"}, "format webp contradicts .*: b.png"),
        ({"output": "b.bmp"}, "b.bmp names no format that can be written"),
        ({"output": "b.heic"}, "b.heic names no format that can be written"),
        (
            {"output": "b.png", "inputs": "a.jpg c.jpg"},
            "b.png is called like a file, but there may be several pictures",
        ),
        ({"output": "b.png", "inputs": "there.png"}, "b.png is called like a file, but there may be several pictures"),
        ({"output": "there.png", "inputs": "a.jpg there.png"}, "there.png is one of the folders to restore"),
        ({"quality": 80}, "png takes no quality, it is lossless: leave it out or choose webp, jpeg, avif"),
        ({"output": "b.tiff", "quality": 80}, "tiff takes no quality"),
    ],
)
def test_contradictions_are_refused(place, options, message):
    place("there.png/x")
    with pytest.raises(InputError, match=message):
        choose_output(configure(**options))


def configure(inputs="a.jpg", output=None, **options):
    return RestoreConfig(tuple(map(Path, inputs.split())), output, **options)


def test_what_is_there_is_replaced_or_passed_over_only_when_asked(place):
    place("a.png", "b.png", "b_compare.png", "c_compare.png")
    jobs = [Job(Path(f"{name}.jpg"), Path(f"{name}.png"), Path(f"{name}_compare.png")) for name in "abcd"]

    def left(**options):
        jobs_left, others = pass_over_finished(jobs, configure(**options))
        return "".join(job.source.stem for job in jobs_left), [each.error or each.state for each in others]

    assert left(overwrite=True) == ("abcd", [])
    assert left(resume=True) == ("acd", ["skipped"])  # of a and c, half is missing
    names, errors = left()
    assert names == "d" and errors[2] == "c.jpg: c_compare.png exists, overwrite replaces it, resume skips it"


def test_a_picture_is_not_offered_to_be_replaced_by_its_own_restoration(place):
    place("a.jpg")
    _, [outcome] = pass_over_finished([Job(Path("a.jpg"), Path("./a.jpg"))], configure())
    assert outcome.error == "a.jpg is the picture itself: choose another output"


def test_only_jpegs_below_a_quality_are_chosen(tmp_path):
    photo = skimage_data.astronaut()[:16, :24]
    contents = {"a.jpg": to_jpeg(photo, 49), "b.jpg": to_jpeg(photo, 50), "c.png": to_png(photo)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    jobs = [Job(tmp_path / name, Path("x.png"), format="png") for name in contents]
    measured, others = measure(jobs, configure(only_below=50))
    assert [(job.source.name, job.pixels) for job in measured] == [("a.jpg", 16 * 24)]
    assert [(each.job.source.name, each.state) for each in others] == [
        ("b.jpg", "passed over"),
        ("c.png", "passed over"),
    ]
    assert len(measure(jobs, configure(only_below=51))[0]) == 2 and len(measure(jobs, configure())[0]) == 3


def test_what_vanishes_before_it_is_read_is_one_line():
    _, [outcome] = measure([Job(Path("gone.jpg"), Path("gone.png"))], configure())
    assert (outcome.state, outcome.error) == ("failed", "gone.jpg cannot be read: No such file or directory")


def test_sources_know_their_place(place):
    place("p/sub/a.jpg")
    assert find_sources([Path("p"), Path("p/sub/a.jpg")], Output("png")).sources == [
        Source(Path("p/sub/a.jpg"), Path("sub/a.jpg"))
    ]
