"""Data as others lay it out: what is found, in which order and with which labels, and what is said of damage."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.bundle import Preprocess
from shared.errors import DataError
from shared.image import fit, read_image, to_input
from train.data import image_files
from train.data.dataset import Dataset, network_input
from train.data.formats import list_set, parse
from train.data.formats.taskonomy import read_normals
from train.data.open_dataset import open_datasets
from train.kinds.label_form import IGNORE
from train.rooms import write_rooms

REAL = Path(__file__).parents[3].parent / "shared" / "data"
SMALL = Preprocess(height=24, width=32)
FRUIT = ("apple", "banana", "cherry")

needs_real_data = pytest.mark.skipif(
    not REAL.is_dir(), reason=f"no {REAL}: real data are not in the repository"
)


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def colour(number: int, size: tuple[int, int] = (32, 24)) -> np.ndarray:
    """A flat picture whose red says which one it is."""
    return np.full((size[1], size[0], 3), (10 * number, 7, 9), np.uint8)


def labels(view: Dataset) -> np.ndarray:
    """All labels of a set."""
    return view.labels(np.arange(len(view)))


def numbers(view: Dataset) -> list[int]:
    """Which pictures these are, by their red."""
    return (view.images(np.arange(len(view)))[:, 5, 5, 0] // 10).tolist()


def by_class(root: Path, splits: tuple[str, ...] = ("train", "val")) -> Path:
    for part, split in enumerate(splits):
        for number in range(9):
            save(root / split / FRUIT[number % 3] / f"{number}.png", colour(number + 9 * part))
    return root


def camvid(root: Path, count: int = 6) -> Path:
    """Class `number % 2` in the upper half, 2, which is unlabelled, below."""
    for split in ("train", "val"):
        for number in range(count):
            save(root / split / "images" / f"{number:04}.png", colour(number, (40 + number, 31)))
            labels = np.full((31, 40 + number), 2, np.uint8)
            labels[:16] = 3 * (number % 2)
            save(root / split / "labels" / f"{number:04}.png", labels)
    for folder in (root, root / "train", root / "val"):
        (folder / "classes.txt").write_text("Road\nTree\nUnlabelled\nCar\n\n")
    return root


def listed(root: Path, rows: list[tuple], columns: tuple = ("file", "index", "name", "split")) -> Path:
    root.mkdir(exist_ok=True)
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return root


def found(data: object, kind: str, **options) -> Dataset:
    (view,) = open_datasets(data, [kind], **{"preprocess": SMALL, **options})
    return view


# Each format.


def test_folders_by_class(tmp_path):
    root = by_class(tmp_path / "fruit")
    (root / "train" / ".cache").mkdir()
    (root / "train" / "apple" / "deep").mkdir()
    (root / "train" / "apple" / "0.png").rename(root / "train" / "apple" / "deep" / "0.png")
    (root / "train" / "apple" / "notes.txt").write_text("none of a picture")
    for data in (f"folders:{root}#train", f"{root}#train", str(root / "train")):
        view = found(data, "classification")
        assert view.names == FRUIT
        assert sorted(numbers(view)) == list(range(9))
        assert labels(view).tolist() == [number % 3 for number in numbers(view)]
    with pytest.raises(DataError, match=r"holds splits, not classes; choose one: .*#train"):
        found(root, "classification")


def test_a_split_without_one_of_the_classes_numbers_them_alike(tmp_path):
    root = by_class(tmp_path / "fruit")
    shutil.rmtree(root / "val" / "apple")
    with pytest.raises(DataError, match="val/apple: no image of this class"):
        found(f"{root}#val", "classification")
    view = found(f"{root}#val", "classification", damaged="skip")
    assert view.names == FRUIT
    assert set(labels(view)) == {1, 2}


def test_the_last_pictures_are_a_fair_sample_on_every_machine(tmp_path):
    """Not the last classes; and the order does not depend on where the set lies."""
    one, other = by_class(tmp_path / "a"), by_class(tmp_path / "elsewhere" / "b")
    first = found(f"{one}#train", "classification")
    assert numbers(first) == numbers(found(f"{other}#train", "classification"))
    assert numbers(first) != sorted(numbers(first))
    part = found(f"{one}#train", "classification", start=-4)
    assert numbers(part) == numbers(first)[-4:]
    assert labels(part).tolist() == labels(first)[-4:].tolist()


def test_a_thousand_classes(tmp_path):
    for index in range(1000):
        save(tmp_path / f"n{index:08}" / "a.png", colour(index % 25, (4, 4)))
    view = found(tmp_path, "classification")
    assert len(view.names) == 1000
    assert sorted(labels(view)) == list(range(1000))


def test_csv(tmp_path):
    for number in range(4):
        save(tmp_path / f"{number}.png", colour(number))
    rows = [
        (f"{number}.png", number * 2, f"name {number}", "train" if number else "val") for number in range(4)
    ]
    listed(tmp_path, rows)
    for data in (tmp_path, f"csv:{tmp_path}", tmp_path / "labels.csv"):
        view = found(data, "classification")
        assert view.names == ("name 0", "1", "name 1", "3", "name 2", "5", "name 3")
        assert labels(view).tolist() == [2 * number for number in numbers(view)]
    assert sorted(numbers(found(f"{tmp_path}#train", "classification"))) == [1, 2, 3]
    for split in ("train", "val"):
        assert found(f"{tmp_path}#{split}", "classification").names == view.names
    with pytest.raises(DataError, match="no split 'tset'; it has train, val"):
        found(f"{tmp_path}#tset", "classification")
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne\n")
    with pytest.raises(DataError, match=r"3\.png: index '6' is not one of 0..4"):
        found(tmp_path, "classification")
    listed(tmp_path, rows, ("path", "label", "a", "b"))
    with pytest.raises(DataError, match="must name the columns file and index"):
        found(tmp_path, "classification")


@pytest.mark.parametrize("index", ["-1", "1.5", "", "99999999999999999999", "x"])
def test_an_index_that_is_none(tmp_path, index):
    save(tmp_path / "a.png", colour(1))
    listed(tmp_path, [("a.png", "0"), ("a.png", index)], ("file", "index"))
    with pytest.raises(DataError, match=r"1 damaged or missing: .*is not one of 0..0"):
        found(tmp_path, "classification")


def test_the_labels_of_another_networks_classes_are_no_labels(tmp_path, caplog):
    by_class(tmp_path)
    data = f"folders:{tmp_path}#train"
    for labels in (FRUIT, ("class 0", "class 1", "class 2")):
        assert found(data, "classification", labels=[labels]).names == FRUIT
    for labels, why in (
        (("apple", "cherry", "banana"), "in another order"),
        ((*FRUIT, "dewberry"), "3 of them, not 4"),
        (FRUIT[:2], "3 of them, not 2"),
    ):
        with pytest.raises(DataError, match=f"are not those that the network .* answers .{why}"):
            found(data, "classification", labels=[labels])
        caplog.clear()
        view = found(data, "classification", labels=[labels], needed=[False])
        assert view.form is None
        assert len(view) == 9
        assert why in caplog.text


def test_the_rooms_of_another_networks_classes_have_no_labels(tmp_path):
    write_rooms(tmp_path / "rooms", range(2), height=32, width=32, layers=("image", "category"), shard_size=2)
    kinds, other = ["classification", "normals"], [("a", "b"), ()]
    with pytest.raises(DataError, match="18 of them, not 2"):
        open_datasets(tmp_path / "rooms", kinds, labels=other, needed=[True, False])
    first, second = open_datasets(tmp_path / "rooms", kinds, labels=other, needed=[False, False])
    assert first.form is None
    assert second.form is None


def test_images_without_labels(tmp_path):
    for number in range(3):
        save(tmp_path / "train" / f"{number}.png", colour(number))
        save(tmp_path / "val" / f"{number}.png", colour(number + 3))
    view, same = open_datasets(tmp_path, ["classification", "normals"], needed=[False, False])
    assert sorted(numbers(view)) == list(range(6))
    assert numbers(view) == numbers(same)
    assert view.form is None
    with pytest.raises(DataError, match="has no labels for classification"):
        open_datasets(f"images:{tmp_path}", ["classification"])
    assert len(open_datasets(f"images:{tmp_path}#train", ["classification"], needed=[False])[0]) == 3


def test_camvid(tmp_path):
    root = camvid(tmp_path / "camvid")
    for data in (f"labels:{root}#train", f"{root}#val", root / "train"):
        view = found(data, "segmentation")
        assert view.names == ("Road", "Tree", "Car")  # the class that is none is left out
        maps = view.labels(np.arange(len(view)))
        assert maps.shape == (6, 24, 32)
        assert set(np.unique(maps[:, 20])) == {IGNORE}
        assert maps[:, 3, 3].tolist() == [2 * (number % 2) for number in numbers(view)]
    with pytest.raises(DataError, match="it has the splits train, val: labels:"):
        found(root, "segmentation")


def test_cityscapes(tmp_path):
    for city, kind, values in [
        ("aachen", "labelIds", [7, 26, 0, 33]),
        ("bonn", "labelTrainIds", [0, 13, 255, 18]),
    ]:
        save(tmp_path / "leftImg8bit" / "train" / city / f"{city}_0_leftImg8bit.png", colour(1))
        labels = np.repeat(np.array(values, np.uint8), 8)[None].repeat(24, 0)
        save(tmp_path / "gtFine" / "train" / city / f"{city}_0_gtFine_{kind}.png", labels)
    view = found(f"{tmp_path}#train", "segmentation")
    assert len(view.names) == 19
    for row in view.labels(np.arange(2))[:, 0]:
        assert row[::8].tolist() == [0, 13, IGNORE, 18]
        assert [view.names[index] for index in (0, 13, 18)] == ["road", "car", "bicycle"]
    with pytest.raises(DataError, match="no split test; it has train"):
        found(f"{tmp_path}#test", "segmentation")


def test_coco(tmp_path, capfd):
    save(tmp_path / "val2017" / "7.png", colour(3))
    boxes = [(20, [0, 0, 20, 20]), (5, [4, 4, 8, 8])]
    objects = [
        {
            "id": number,
            "image_id": 7,
            "category_id": category,
            "iscrowd": 0,
            "area": w * h,
            "bbox": [x, y, w, h],
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for number, (category, (x, y, w, h)) in enumerate(reversed(boxes), 1)
    ]
    crowd = {"size": [24, 32], "counts": [24 * 30, 24 * 2]}  # the last two columns
    objects.append({**objects[0], "id": 9, "iscrowd": 1, "area": 48, "segmentation": crowd})
    about = {
        "images": [{"id": 7, "file_name": "7.png", "height": 24, "width": 32}],
        "categories": [{"id": 20, "name": "sheep"}, {"id": 5, "name": "airplane"}],
        "annotations": objects,
    }
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.parent.mkdir()
    file.write_text(json.dumps(about))
    for data in (tmp_path, f"coco:{tmp_path}#val2017"):
        view = found(data, "segmentation")
        assert view.names == ("background", "airplane", "sheep")
        (classes,) = view.labels(np.array([0]))
        assert [classes[2, 2], classes[8, 8], classes[22, 25], classes[5, 31]] == [2, 1, 0, IGNORE]
    assert "loading" not in capfd.readouterr().out
    about["annotations"][0]["category_id"] = 77
    file.write_text(json.dumps(about))
    with pytest.raises(DataError, match="the annotations of image 7 are damaged: KeyError 77"):
        found(tmp_path, "segmentation")
    file.write_text("{")
    with pytest.raises(DataError, match="is not COCO's instances"):
        found(tmp_path, "segmentation")


def taskonomy(root: Path) -> Path:
    """Two views of each of two buildings; a floor below a wall that faces the camera."""
    for number, building in enumerate(("allensville", "allensville", "beechwood", "beechwood")):
        start = f"point_{number}_view_0_domain"
        save(root / "rgb" / building / f"{start}_rgb.png", colour(number))
        normal = np.full((24, 32, 3), (128, 128, 255), np.uint8)
        normal[12:] = (128, 0, 128)
        normal[:, :4] = 128
        save(root / "normal" / building / f"{start}_normal.png", normal)
        classes = np.full((24, 32), 17, np.uint8)
        classes[:4], classes[4:8] = 0, 1
        save(root / "segment_semantic" / building / f"{start}_segmentsemantic.png", classes)
        for domain, count in (("class_object", 1000), ("class_scene", 365)):
            scores = np.zeros(count)
            scores[100 * number + (domain == "class_scene")] = 0.7
            (root / domain / building).mkdir(parents=True, exist_ok=True)
            np.save(root / domain / building / f"{start}_{domain}.npy", scores)
    (root / "depth_zbuffer").mkdir()
    return root


def test_taskonomy(tmp_path):
    root = taskonomy(tmp_path / "taskonomy")
    kinds = ["classification", "normals", "segmentation"]
    classes, normals, segments = views = open_datasets(root, kinds, preprocess=SMALL)
    assert len({tuple(numbers(view)) for view in views}) == 1
    assert len(classes.names) == 1000
    assert labels(classes).tolist() == [100 * number for number in numbers(classes)]
    first = normals.labels(np.array([0]))[0]
    assert [first[3, 20].tolist(), first[3, 1].tolist()] == [[0, 0, 127], [0, 0, 0]]
    assert first[20, 20].tolist() == [0, 127, 0]  # up, where Taskonomy's green points down
    assert (len(segments.names), segments.names[0], segments.names[-1]) == (17, "background", "vase")
    assert segments.labels(np.array([0]))[0][[0, 5, 20], 9].tolist() == [IGNORE, 0, 16]
    scenes = found(f"taskonomy:{root}#class_scene+beechwood", "classification")
    assert sorted(labels(scenes)) == [201, 301]
    with pytest.raises(DataError, match="no building coffeen"):
        found(f"{root}#coffeen", "classification")


def test_taskonomys_normals_whichever_way_they_point(tmp_path):
    """In a file whose blue grows into the scene, what a camera sees would face away from it."""
    towards = np.array([[[128, 128, 255], [255, 128, 128]]], np.uint8)
    away = towards.copy()
    away[..., 2] = 255 - away[..., 2]
    made = [read_normals(save(tmp_path / f"{i}.png", v)) for i, v in enumerate((towards, away))]
    assert np.abs(made[0].astype(int) - made[1]).max() <= 1
    assert made[0][0, 0, 2] == 127
    assert made[0][0, 1, 0] == 127


def test_depth_is_not_read(tmp_path):
    save(tmp_path / "rgb" / "ona" / "point_0_view_0_domain_rgb.png", colour(1))
    (tmp_path / "depth_zbuffer").mkdir()
    with pytest.raises(DataError, match="has depth_zbuffer, but that is not read"):
        found(tmp_path, "depth")


# Geometry, order and size.


@pytest.mark.parametrize(
    "settings",
    [
        SMALL,
        Preprocess(height=33, width=17, fit="stretch"),
        Preprocess(height=23, width=31, resize=37),
        Preprocess(height=23, width=31, resize=37, interpolation="bicubic", mean=(0.5, 0.5, 0.5)),
    ],
)
def test_training_sees_what_the_edge_makes_byte_for_byte(tmp_path, settings):
    random = np.random.default_rng(0)
    for number, (width, height) in enumerate([(41, 67), (97, 31), (32, 24), (31, 23), (7, 5), (200, 33)]):
        save(tmp_path / f"{number}.png", random.integers(0, 256, (height, width, 3), np.uint8))
    (view,) = open_datasets(tmp_path, ["classification"], needed=[False], preprocess=settings)
    paths = [Path(item.name) for item in list_set(parse(tmp_path)[0]).items]
    for index, path in enumerate(paths):
        edge = to_input(np.asarray(fit(read_image(path.read_bytes(), path.name), settings)), settings)
        trained = network_input(view.images(np.array([index])), settings)[0].numpy()
        assert edge.tobytes() == trained.tobytes(), path


def test_without_a_size_that_of_the_first_picture_counts(tmp_path):
    root = camvid(tmp_path / "camvid")
    (view,) = open_datasets(f"{root}#train", ["segmentation"])
    first = list_set(parse(f"{root}#train")[0]).items[0].read()
    assert view.size == (first.height, first.width)
    assert np.array_equal(view.images(np.array([0]))[0], np.asarray(first))


def test_what_does_not_fit_into_memory_is_read_again(tmp_path, monkeypatch):
    root = camvid(tmp_path / "camvid")
    whole = found(f"{root}#train", "segmentation")
    monkeypatch.setattr(image_files, "CACHE_BYTES", 1000)
    view = found(f"{root}#train", "segmentation")
    indices = np.array([3, 0, 5])
    assert np.array_equal(view.images(indices), whole.images(indices))
    assert np.array_equal(view.labels(indices), whole.labels(indices))
    for path in (root / "train" / "images").iterdir():
        path.write_bytes(b"gone")
    with pytest.raises(DataError, match=r"\.png is not an image.*; it was sound when the set was opened"):
        view.images(indices)


def test_several_sets_one_after_another(tmp_path):
    one, other = by_class(tmp_path / "a", ("train",)), by_class(tmp_path / "b", ("train",))
    plain = tmp_path / "plain"
    save(plain / "x.png", colour(20))
    joined = found(f"{one}#train,{other}#train", "classification")
    single = found(f"{one}#train", "classification")
    assert numbers(joined) == numbers(single) * 2
    assert labels(joined).tolist() == labels(single).tolist() * 2
    mixed = found(f"{one}#train,images:{plain}", "classification", needed=[False])
    assert numbers(mixed) == [*numbers(single), 20]
    assert mixed.form is None
    with pytest.raises(DataError, match=r"has classes for classification, images:.* has none"):
        found(f"{one}#train,images:{plain}", "classification")
    (other / "train" / "apple").rename(other / "train" / "quince")
    with pytest.raises(DataError, match="has others"):
        found(f"{one}#train,{other}#train", "classification")


def test_rooms_at_their_own_size_and_at_another(tmp_path):
    layers = ("image", "category", "normals", "semantic")
    write_rooms(tmp_path, range(6), height=32, width=48, layers=layers, shard_size=4)
    kinds = ["classification", "normals", "segmentation"]
    own = open_datasets(tmp_path, kinds, 1, -1)
    same = open_datasets(f"rooms:{tmp_path}", kinds, 1, -1, preprocess=Preprocess(height=32, width=48))
    other = open_datasets(tmp_path, kinds, 1, -1, preprocess=Preprocess(height=16, width=16))
    indices = np.arange(4)
    for one, two, three in zip(own, same, other, strict=True):
        assert np.array_equal(one.images(indices), two.images(indices))
        assert three.images(indices).shape == (4, 16, 16, 3)
        assert one.names == three.names
    assert labels(own[0]).tolist() == labels(other[0]).tolist()
    assert other[1].labels(indices).shape == (4, 16, 16, 3)
    assert set(np.unique(other[2].labels(indices))) <= set(np.unique(own[2].labels(indices)))


# What is wrong with a set.


def test_damage_is_named_counted_refused_or_skipped(tmp_path, capsys, caplog):
    root = camvid(tmp_path / "camvid", 12) / "train"
    (root / "images" / "0000.png").write_bytes(b"no picture")
    whole = (root / "images" / "0001.png").read_bytes()
    (root / "images" / "0001.png").write_bytes(whole[: len(whole) // 2])
    (root / "labels" / "0002.png").unlink()
    (root / "images" / "0003.png").unlink()
    save(root / "labels" / "0004.png", np.zeros((30, 40), np.uint8))
    save(root / "labels" / "0005.png", np.full((31, 45), 4, np.uint8))
    with pytest.raises(
        DataError, match=r"6 damaged or missing: .*; and 3 more; mend them, or skip such files"
    ) as caught:
        found(root, "segmentation")
    assert "\n" not in str(caught.value)
    view = found(root, "segmentation", damaged="skip")
    assert sorted(numbers(view)) == [6, 7, 8, 9, 10, 11]
    assert view.labels(np.arange(6))[:, 3, 3].tolist() == [2 * (number % 2) for number in numbers(view)]
    assert "6 left out, 6 images remain: " in caplog.text
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda root: (root / "images" / "0000.png").write_bytes(b"none"), "0000.png is not an image"),
        (lambda root: (root / "labels" / "0000.png").unlink(), "has no label map 0000 in"),
        (lambda root: (root / "images" / "0000.png").unlink(), "0000.png has no image in"),
        (lambda root: save(root / "labels" / "0000.png", colour(1)), "0000.png has pixels of mode RGB"),
        (
            lambda root: save(root / "labels" / "0000.png", np.zeros((24, 31), np.uint8)),
            "0000.png is 40 x 31, its segmentation 31 x 24",
        ),
        (
            lambda root: save(root / "labels" / "0000.png", np.full((31, 40), 9, np.uint8)),
            "0000.png holds the class 9, which the set does not have",
        ),
    ],
)
def test_each_damage_by_its_name(tmp_path, damage, said):
    root = camvid(tmp_path / "camvid") / "train"
    damage(root)
    with pytest.raises(DataError, match="1 damaged or missing: ") as caught:
        found(root, "segmentation")
    assert said in str(caught.value)


def test_nothing_left_is_an_error_though_skipped(tmp_path):
    root = camvid(tmp_path / "camvid", 2) / "train"
    for path in (root / "images").iterdir():
        path.write_bytes(b"none")
    with pytest.raises(DataError, match="no image is left"):
        found(root, "segmentation", damaged="skip")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{}/nowhere", "no such file or folder: .*nowhere$"),
        ("{}/nowhere#train", "no such file or folder: .*nowhere$"),
        (
            "imagenet:{}",
            "'imagenet' is not a format; known are rooms, folders, labels, csv, coco, taskonomy, images",
        ),
        ("{}", r"no data set of a known format; looked for index.json \(rooms\), labels.csv"),
        ("images:{}", "has no image"),
        ("labels:{}", "has no folders images and labels"),
        ("labels:{}#train", "has no folders train/images and train/labels"),
        ("coco:{}", "has no annotations/instances_SPLIT.json"),
        ("folders:{}", "has no image"),
        ("taskonomy:{}", "no such folder: .*rgb"),
        ("rooms:{}", "index.json"),
        ("images:{}/nowhere", "no such file or folder: .*/nowhere$"),
        ("images:nowhere", "no such file or folder: nowhere$"),
        ("", "a data set needs a path"),
    ],
)
def test_a_set_that_is_none(tmp_path, data, said):
    with pytest.raises(DataError, match=said):
        open_datasets(data.format(tmp_path), ["segmentation"], needed=[False])


def test_parts_that_are_empty(tmp_path):
    root = by_class(tmp_path, ("train",)) / "train"
    with pytest.raises(DataError, match="9 held out of 9 images leave none to train on"):
        found(root, "classification", stop=-9)
    with pytest.raises(DataError, match=r"has 9 images, none of them in 20\.\.None"):
        found(root, "classification", start=20)


# The data that the issue names.


@needs_real_data
def test_real_sets_are_read_whole_and_soon():
    train = found(f"{REAL / 'imagenet1k-sample'}#train", "classification")
    assert (len(train), len(train.names), len(set(labels(train)))) == (700, 1000, 700)
    assert train.names[0] == "tench"
    val = found(f"{REAL / 'imagenet1k-sample'}#val", "classification")
    assert not set(labels(val)) & set(labels(train))
    road = found(f"{REAL / 'camvid'}#val", "segmentation")
    assert (len(road), len(road.names)) == (101, 11)
    counted = np.bincount(road.labels(np.arange(101)).ravel(), minlength=256)
    assert counted[:11].argmax() in (1, 3)  # building or road
    assert counted[11:IGNORE].sum() == 0
    assert len(found(f"{REAL / 'bsds500'}#train", "classification", needed=[False])) == 200
