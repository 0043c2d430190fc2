import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.errors import InputError
from data_prep.splits import PARTS, ROLES, Span, split_as_prepared, split_div2k, split_folder


def photographs(span):
    return {(span.split, index) for index in range(span.start, span.stop)}


def sizes(splits, role):
    return [len(splits[role][part]) for part in PARTS]


def assert_parts_never_overlap(splits):
    spans = [(part, photographs(splits[role][part])) for role in ROLES for part in PARTS]
    for (part, span), (other_part, other) in itertools.combinations(spans, 2):
        assert part == other_part or not span & other


def test_div2k_has_the_sizes_asked_for():
    splits = split_div2k()
    assert sizes(splits, "generator") == [700, 100, 100]
    assert sizes(splits, "discriminator") == [300, 50, 50]


def test_div2k_is_sliced_as_tensorflow_datasets_reads_it():
    assert [str(span) for span in split_div2k()["discriminator"].values()] == [
        "train[0:300]",
        "train[700:750]",
        "validation[0:50]",
    ]


def test_div2k_parts_never_overlap():
    assert_parts_never_overlap(split_div2k())


@given(st.integers(3, 3000))
def test_parts_of_a_folder_never_overlap_and_are_never_empty(count):
    splits = split_folder(range(count))
    assert_parts_never_overlap(splits)
    assert min(sizes(splits, "generator") + sizes(splits, "discriminator")) >= 1
    assert sum(sizes(splits, "generator")) == count


@given(st.integers(3, 3000))
def test_discriminator_takes_some_of_the_generators_photographs(count):
    splits = split_folder(range(count))
    for part in PARTS:
        assert photographs(splits["discriminator"][part]) <= photographs(splits["generator"][part])


@given(st.sets(st.integers(0, 200), min_size=3))
def test_every_photograph_that_is_not_excluded_has_one_part(kept):
    splits = split_folder(sorted(kept))
    assert_parts_never_overlap(splits)
    shared_out = [index for part in PARTS for _, index in photographs(splits["generator"][part])]
    assert kept <= set(shared_out)
    for role in ROLES:
        assert all(kept & {index for _, index in photographs(splits[role][part])} for part in PARTS)


def test_folder_of_900_is_split_like_div2k():
    splits = split_folder(range(900))
    assert sizes(splits, "generator") == [700, 100, 100]
    assert sizes(splits, "discriminator") == [300, 50, 50]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_folder_with_fewer_photographs_than_parts_is_refused(count):
    with pytest.raises(InputError, match=f"{count} usable photographs are too few"):
        split_folder(range(count))


def test_prepared_splits_serve_both_roles():
    splits = split_as_prepared({"train": 8, "validation": 2, "test": 4})
    assert splits["generator"] == splits["discriminator"]
    assert splits["generator"]["validation"] == Span("validation", 0, 2)
