"""Shares of a data set by hash: stable, disjoint, of the right size, groups undivided."""

import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_tf.datasets import splits


def images(count):
    return [
        types.SimpleNamespace(image_id=i, file_name=f"scene{i // 10}/{i}.jpg") for i in range(count)
    ]


def test_a_name_alone_has_all():
    assert splits.parse("val") == [("val", 1.0)]


def test_shares():
    shares = splits.parse("train:0.7, val:0.2,test:0.1")
    parts = splits.assign(images(3000), shares)
    assert sorted(image.image_id for part in parts.values() for image in part) == list(range(3000))
    for name, share in shares:
        assert abs(len(parts[name]) / 3000 - share) < 0.03


@given(st.integers(20, 60), st.integers(0, 40))
def test_an_image_stays_where_it_is_when_others_go(count, removed):
    shares = [("train", 0.5), ("val", 0.5)]
    everything = images(count)
    rest = everything[removed:]
    place = {
        i.image_id: name for name, part in splits.assign(everything, shares).items() for i in part
    }
    try:
        parts = splits.assign(rest, shares)
    except ValueError:
        return  # A part is empty.
    assert all(place[i.image_id] == name for name, part in parts.items() for i in part)


def test_groups_are_not_divided():
    parts = splits.assign(images(400), splits.parse("train:0.5,val:0.5"), r"^(scene\d+)/")
    scenes = [{i.file_name.split("/")[0] for i in part} for part in parts.values()]
    assert scenes[0] and scenes[1] and not scenes[0] & scenes[1]


@pytest.mark.parametrize(
    "text, message",
    [
        ("train:0.8,val:0.3", "sum to 1"),
        ("train:0.8,val", "must be like"),
        ("train:x,val:0.2", "must be like"),
        ("train:1.2,val:-0.2", "must be like"),
        ("train:nan,val:0.2", "must be like"),
        ("a/b:0.5,val:0.5", "must be like"),
        ("train:0.5,train:0.5", "twice"),
        (":1", "must be like"),
    ],
)
def test_wrong_shares(text, message):
    with pytest.raises(ValueError, match=message):
        splits.parse(text)


@pytest.mark.parametrize(
    "group, message",
    [("(", "no regular expression"), ("scene", "no group"), ("(room)", "not found")],
)
def test_wrong_groups(group, message):
    with pytest.raises(ValueError, match=message):
        splits.assign(images(4), splits.parse("train:0.5,val:0.5"), group)


def test_a_part_without_an_image():
    with pytest.raises(ValueError, match="none falls to"):
        splits.assign(images(1), splits.parse("train:0.5,val:0.5"))
