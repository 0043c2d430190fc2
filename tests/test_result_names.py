import os

import pytest

from artifact_remover.result_names import identify, name_apart, name_result


def name_all(*files):
    """Names results in the folders of their pictures, as many pictures are named."""

    def name(file, keep_extension):
        folder, name = os.path.split(file)
        return os.path.join(folder, name_result(name, ".png", keep_extension))

    return name_apart(files, name, lambda result: [os.path.split(result)])


def test_a_result_is_named_after_its_picture():
    assert name_result("a.b.jpg", ".png") == "a.b.png"
    assert name_result("a.b.jpg", "_restored.webp", keep_extension=True) == "a.b_jpg_restored.webp"
    assert name_result("a", ".png", keep_extension=True) == "a.png"


@pytest.mark.parametrize("letter", ["x", "ü", "写", "\udcff", "🖼"])
def test_a_long_name_is_shortened_and_stays_apart(letter):
    longest = letter * (251 // len(os.fsencode(letter)))
    names = {name_result(f"{longest[:-1]}{end}.jpg", "_restored.png") for end in "ab"}
    assert len(names) == 2
    assert all(len(os.fsencode(name)) <= 255 and name.endswith("_restored.png") for name in names)


def test_those_that_would_share_a_name_keep_their_extensions():
    assert name_all("a.jpg", "a.png", "b.jpg", "sub/a.jpg") == ["a_jpg.png", "a_png.png", "b.png", "sub/a.png"]
    # What is apart now may share a name with a third one.
    assert name_all("a.jpg", "a.png", "a_jpg.bmp") == ["a_jpg.png", "a_png.png", "a_jpg_bmp.png"]


def test_names_that_differ_in_case_alone_are_one():
    """On macOS and Windows the second would replace the first."""
    assert name_all("IMG.jpg", "img.png", "SUB/c.jpg", "sub/c.jpg") == [
        "IMG_jpg.png",
        "img_png.png",
        "SUB/c.png",
        "sub/c.png",
    ]


def test_all_paths_to_a_file_have_one_name(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    (tmp_path / "sub" / "link.jpg").symlink_to(tmp_path / "sub" / "a.jpg")
    assert identify(tmp_path / "link" / "a.jpg") == identify(tmp_path / "sub" / ".." / "sub" / "a.jpg")
    assert identify(tmp_path / "sub" / "link.jpg") != identify(tmp_path / "sub" / "a.jpg")
