"""Each manifest that ships, read from a small local stand-in with the features of the real set."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import webdataset
import yaml
from PIL import Image

from clipkit.classify.prompts import TEMPLATES
from clipkit.data import decode_image, list_manifests, load_data, read_manifest
from clipkit.errors import DataError
from clipkit.imagenet import imagenet_class_names
from clipkit.types import Sample
from tests.conftest import square
from tests.data import test_openmoji

datasets = pytest.importorskip("datasets")


@dataclass(frozen=True)
class Hub:
    """A labelled set of the hub.

    Attributes:
        spelled: returns the classes as the hub spells them, in the order of its ids.
        path: owner and name.
        folder: the folder of its parquet files, which is also its config's name, or `data`.
        image: the column of images.
        label: the column of labels.
        more: names of further columns, and for each the classes, or `None` for text.
        splits: the splits of the manifest, called so on the hub as well.
        said: returns classes that the manifest spells otherwise than in lower case with spaces.
    """

    spelled: Callable[[], list[str]]
    path: str
    folder: str = "data"
    image: str = "image"
    label: str = "label"
    more: tuple[tuple[str, tuple[str, ...] | None], ...] = ()
    splits: tuple[str, ...] = ("train", "validation", "test")
    said: Callable[[], dict[str, str]] = dict

    def class_names(self) -> tuple[str, ...]:
        """Return the names as people say them."""
        said = self.said()
        return tuple(said.get(name, name.replace("_", " ").lower()) for name in self.spelled())

    def features(self) -> Any:
        labels = datasets.ClassLabel(names=self.spelled())
        columns = {self.image: datasets.Image(), self.label: labels}
        for name, classes in self.more:
            of_classes = classes and datasets.ClassLabel(names=list(classes))
            columns[name] = of_classes or datasets.Value("string")
        return datasets.Features(columns)


CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
# The hub lost a letter of the crab.
CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch cra crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
FOOD101 = """
apple_pie baby_back_ribs baklava beef_carpaccio beef_tartare beet_salad beignets bibimbap
bread_pudding breakfast_burrito bruschetta caesar_salad cannoli caprese_salad carrot_cake ceviche
cheesecake cheese_plate chicken_curry chicken_quesadilla chicken_wings chocolate_cake
chocolate_mousse churros clam_chowder club_sandwich crab_cakes creme_brulee croque_madame cup_cakes
deviled_eggs donuts dumplings edamame eggs_benedict escargots falafel filet_mignon fish_and_chips
foie_gras french_fries french_onion_soup french_toast fried_calamari fried_rice frozen_yogurt
garlic_bread gnocchi greek_salad grilled_cheese_sandwich grilled_salmon guacamole gyoza hamburger
hot_and_sour_soup hot_dog huevos_rancheros hummus ice_cream lasagna lobster_bisque
lobster_roll_sandwich macaroni_and_cheese macarons miso_soup mussels nachos omelette onion_rings
oysters pad_thai paella pancakes panna_cotta peking_duck pho pizza pork_chop poutine prime_rib
pulled_pork_sandwich ramen ravioli red_velvet_cake risotto samosa sashimi scallops seaweed_salad
shrimp_and_grits spaghetti_bolognese spaghetti_carbonara spring_rolls steak strawberry_shortcake
sushi tacos takoyaki tiramisu tuna_tartare waffles
"""
PETS = """
abyssinian american_bulldog american_pit_bull_terrier basset_hound beagle bengal birman bombay boxer
british_shorthair chihuahua egyptian_mau english_cocker_spaniel english_setter german_shorthaired
great_pyrenees havanese japanese_chin keeshond leonberger maine_coon miniature_pinscher newfoundland
persian pomeranian pug ragdoll russian_blue saint_bernard samoyed scottish_terrier shiba_inu siamese
sphynx staffordshire_bull_terrier wheaten_terrier yorkshire_terrier
"""
EUROSAT = {
    "AnnualCrop": "annual crop land",
    "Forest": "forest",
    "HerbaceousVegetation": "herbaceous vegetation",
    "Highway": "highway",
    "Industrial": "industrial buildings",
    "Pasture": "pasture land",
    "PermanentCrop": "permanent crop land",
    "Residential": "residential buildings",
    "River": "river",
    "SeaLake": "sea or lake",
}


def flowers() -> list[str]:
    from torchvision.datasets import Flowers102

    return list(Flowers102.classes)


@cache
def imagenet() -> list[str]:
    """Return the names that timm has, which are the hub's; `datasets` wants them to differ."""
    from timm.data import ImageNetInfo

    names = [ImageNetInfo().index_to_description(number) for number in range(1000)]
    return [name if names.index(name) == at else f"{name}2" for at, name in enumerate(names)]


HUB_SETS = {
    "cifar10": Hub(CIFAR10.split, "uoft-cs/cifar10", "plain_text", "img", splits=("train", "test")),
    "cifar100": Hub(
        CIFAR100.split,
        "uoft-cs/cifar100",
        "cifar100",
        "img",
        "fine_label",
        more=(("coarse_label", ("aquatic_mammals", "fish")),),
        splits=("train", "test"),
        said=lambda: {"cra": "crab"},
    ),
    "food101": Hub(FOOD101.split, "ethz/food101", splits=("train", "validation")),
    "oxford_pets": Hub(
        PETS.split,
        "timm/oxford-iiit-pet",
        more=(("image_id", None), ("label_cat_dog", ("cat", "dog"))),
        splits=("train", "test"),
    ),
    "flowers102": Hub(
        flowers,
        "dpdl-benchmark/oxford_flowers102",
        said=lambda: {"pink-yellow dahlia?": "pink-yellow dahlia"},
    ),
    "eurosat": Hub(
        lambda: list(EUROSAT), "timm/eurosat-rgb", more=(("image_id", None),), said=EUROSAT.copy
    ),
    "imagenet1k": Hub(
        imagenet,
        "ILSVRC/imagenet-1k",
        splits=("train", "validation"),
        said=lambda: dict(zip(imagenet(), imagenet_class_names(), strict=True)),
    ),
}


def labels(hub: Hub, split: str) -> list[int]:
    """Return the label of each row: each class once, and in another order in each split."""
    step = {"train": 1, "validation": 7, "test": 13}[split]
    count = len(hub.spelled())
    return [(step * (number + 1)) % count for number in range(count + 3)]


def picture(hub: Hub, split: str, row: int) -> tuple[int, int, int]:
    """Return the colour of a row's picture, which tells it from all others."""
    return row % 256, row // 256, hub.splits.index(split)


def drawn(sample: Sample) -> Image.Image:
    assert sample.image is not None
    return decode_image(sample.image)


def rows(hub: Hub, split: str) -> Any:
    told: dict[str, list[Any]] = {hub.label: labels(hub, split)}
    count = len(told[hub.label])
    colours = [picture(hub, split, row) for row in range(count)]
    told[hub.image] = [Image.new("RGB", (4, 4), colour) for colour in colours]
    for name, classes in hub.more:
        told[name] = [row % 2 if classes else f"{split}_{row}" for row in range(count)]
    return datasets.Dataset.from_dict(told, features=hub.features())


def as_the_hub_has_it(hub: Hub, root: Path) -> None:
    """Write parquet files by split, and the card that says where they are."""
    files = []
    for split in hub.splits:
        file = root / hub.path / hub.folder / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows(hub, split).to_parquet(file)
        files.append({"split": split, "path": f"{hub.folder}/{split}-*"})
    config = "default" if hub.folder == "data" else hub.folder
    card = {"configs": [{"config_name": config, "data_files": files, "default": True}]}
    (root / hub.path / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n# A stand-in\n")


def as_save_to_disk_writes_it(hub: Hub, root: Path) -> None:
    splits = {split: rows(hub, split) for split in hub.splits}
    datasets.DatasetDict(splits).save_to_disk(root / hub.path)


@pytest.mark.parametrize("write", [as_the_hub_has_it, as_save_to_disk_writes_it])
@pytest.mark.parametrize("name", HUB_SETS)
def test_labelled_sets_of_the_hub(
    name: str, write: Callable[[Hub, Path], None], tmp_path: Path
) -> None:
    hub = HUB_SETS[name]
    write(hub, tmp_path)
    manifest = read_manifest(name)
    assert manifest.source["path"] == hub.path
    assert tuple(manifest.splits) == hub.splits
    for split in hub.splits:
        data = load_data(f"{name}@{split}", root=tmp_path)
        assert data.class_names == hub.class_names()
        told = [hub.class_names()[number] for number in labels(hub, split)]
        assert [sample.label for sample in data] == told
        for row in (0, 3, len(told) - 1):
            assert drawn(data[row]).getpixel((0, 0)) == picture(hub, split, row)
        assert set(data[1].metadata) == {column for column, _ in hub.more} - {"image_id"}
        assert (data[1].id == f"{split}_1") is ("image_id" in dict(hub.more))
        assert (data.rejects, data.name) == ((), f"{name}@{split}")
        assert data.templates == tuple(manifest.templates)
        assert len(data.templates) >= 3
        assert (data.licence, data.homepage) == (manifest.licence, manifest.homepage)
    with pytest.raises(DataError, match=f"several splits: name one of {', '.join(hub.splits)}"):
        load_data(name, root=tmp_path)


def test_a_set_of_the_hub_whose_classes_are_others_is_refused(tmp_path: Path) -> None:
    hub = Hub(CIFAR100.split, "uoft-cs/cifar10", "plain_text", "img", splits=("train", "test"))
    as_the_hub_has_it(hub, tmp_path)
    with pytest.raises(DataError, match="has 100 classes in column 'label', and 10 class_names"):
        load_data("cifar10@test", root=tmp_path)


def test_a_set_that_is_nowhere_says_so_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="uoft-cs/cifar10 cannot be loaded by datasets: ") as raised:
        load_data("cifar10@test", root=tmp_path)
    assert "\n" not in str(raised.value)


def test_imagenet_by_name_and_its_validation_set_alone(tmp_path: Path) -> None:
    """As the manifest's comment fetches it: some of the parquet files, and no card."""
    hub = HUB_SETS["imagenet1k"]
    as_the_hub_has_it(hub, tmp_path)
    (tmp_path / hub.path / "README.md").unlink()
    (tmp_path / hub.path / "data" / "train-00000-of-00001.parquet").unlink()
    data = load_data("imagenet1k@validation", root=tmp_path)
    assert data.class_names == imagenet_class_names()
    assert data.templates == TEMPLATES["imagenet"]()
    assert len(data) == 1003
    with pytest.raises(DataError, match="has no split 'test'"):
        load_data("imagenet1k@test", root=tmp_path)


def test_listing_manifests_does_not_import_open_clip() -> None:
    code = (
        "import sys\n"
        "from clipkit.data.manifest import list_manifests, read_manifest\n"
        "for name in list_manifests(): read_manifest(name)\n"
        "sys.exit('open_clip' in sys.modules or 'datasets' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_coco_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCO", str(tmp_path))
    (tmp_path / "annotations").mkdir()
    for split, ids in {"train2017": (9, 25, 30), "val2017": (139, 285)}.items():
        (tmp_path / split).mkdir()
        for id_ in ids:
            square("red", id_).save(tmp_path / split / f"{id_:012d}.jpg")
        content = {
            "info": {"description": "COCO 2017 Dataset", "year": 2017},
            "licenses": [{"url": "http://creativecommons.org/licenses/by/2.0/", "id": 4}],
            "images": [
                {
                    "license": 4,
                    "file_name": f"{id_:012d}.jpg",
                    "coco_url": f"http://images.cocodataset.org/{split}/{id_:012d}.jpg",
                    "height": 40,
                    "width": 48,
                    "date_captured": "2013-11-14 17:02:52",
                    "flickr_url": "http://farm7.staticflickr.com/x.jpg",
                    "id": id_,
                }
                for id_ in ids
            ],
            "annotations": [
                {"image_id": id_, "id": 10 * id_ + turn, "caption": f"{split} {id_} {turn}\n"}
                for turn in range(5)
                for id_ in ids
            ],
        }
        (tmp_path / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
    train, val = load_data("coco_captions@train"), load_data("coco_captions@val")
    assert [(sample.id, sample.image) for sample in val] == [
        ("139", tmp_path / "val2017" / "000000000139.jpg"),
        ("285", tmp_path / "val2017" / "000000000285.jpg"),
    ]
    assert [len(data.rejects) for data in (train, val)] == [0, 0]
    assert train[1].captions == tuple(f"train2017 25 {turn}" for turn in range(5))
    assert train[1].metadata["license"] == 4
    with pytest.raises(DataError, match="coco_captions has several splits: name one of train, val"):
        load_data("coco_captions")


def write_img2dataset(folder: Path, shard: int, count: int = 4) -> None:
    """Write a shard as img2dataset does, a table and counts beside it; its first row failed."""
    folder.mkdir(parents=True, exist_ok=True)
    table = []
    with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as tar:
        for number in range(count + 1):
            fields = {
                "url": f"https://example.org/{shard}/{number}.jpg",
                "caption": f"picture {number} of {shard}",
                "key": f"{shard:05d}{number:04d}",
                "status": "success" if number else "failed_to_download",
                "error_message": None if number else "<urlopen error timed out>",
                "width": 48 if number else None,
                "height": 40 if number else None,
                "original_width": 96 if number else None,
                "original_height": 80 if number else None,
                "exif": "{}" if number else None,
                "sha256": f"{number:064x}" if number else None,
            }
            table.append(fields)
            if number:
                told = {"txt": fields["caption"], "json": json.dumps(fields, indent=4)}
                tar.write({"__key__": fields["key"], "jpg": square("blue", number), **told})
    pd.DataFrame(table).to_parquet(folder / f"{shard:05d}.parquet")
    (folder / f"{shard:05d}_stats.json").write_text(json.dumps({"count": count + 1}))


@pytest.mark.parametrize(
    ("name", "folders"), [("cc12m", {"": 2}), ("cc3m", {"train": 2, "validation": 1})]
)
def test_shards_of_conceptual_captions(
    name: str, folders: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name.upper(), str(tmp_path))
    for folder, shards in folders.items():
        for shard in range(shards):
            write_img2dataset(tmp_path / folder, shard)
    for folder, shards in folders.items():
        data = load_data(f"{name}@{folder}" if folder else name)
        assert len(data) == 4 * shards
        assert data[4 * shards - 1].captions == (f"picture 4 of {shards - 1}",)
        assert data[0].id == "000000001"
        assert data[0].metadata["url"] == "https://example.org/0/1.jpg"
        assert drawn(data[0]).size == (48, 40)
        assert (data.rejects, data.class_names) == ((), ())
    if "train" in folders:
        with pytest.raises(DataError, match="several splits: name one of train, validation"):
            load_data(name)


def test_flickr30k(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lists of the split are written by the lines in the manifest's comment."""
    shutil.copytree(photos, tmp_path / "set" / "flickr30k-images")
    names = sorted(path.name for path in photos.glob("*.png"))
    lines = [f"{name}#{turn}\tcaption {turn} of {name} ." for name in names for turn in range(5)]
    (tmp_path / "set" / "results_20130124.token").write_text("\n".join(lines) + "\n")
    splits = {"train": names[:12], "val": names[12:15], "test": names[15:]}
    karpathy = [
        {"filename": name, "split": split, "sentences": [], "imgid": 0}
        for split, chosen in splits.items()
        for name in chosen
    ]
    monkeypatch.chdir(tmp_path / "set")
    Path("dataset_flickr30k.json").write_text(json.dumps({"images": karpathy}))
    comment = read_manifest("flickr30k").path.read_text()
    code = "\n".join(re.findall("^#   (.*)$", comment, re.MULTILINE))
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setenv("FLICKR30K", str(tmp_path / "set"))
    for split, chosen in splits.items():
        data = load_data(f"flickr30k@{split}")
        assert [sample.id for sample in data] == chosen
        assert [len(sample.captions) for sample in data] == [5] * len(chosen)
        assert data.rejects == ()
    assert len(load_data("flickr30k")) == 18


def test_flickr8k(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "set" / "images")
    names = sorted(path.name for path in photos.glob("*.png"))
    lines = [f"{name},caption {n} of, {name}" for name in names for n in range(5)]
    (tmp_path / "set" / "captions.csv").write_text("\n".join(["image,caption", *lines]))
    splits = {"train": names[:12], "dev": names[12:15], "test": names[15:]}
    for split, chosen in splits.items():
        (tmp_path / "set" / f"{split}.txt").write_text("\n".join([*chosen, "gone.png"]))
    for split, chosen in splits.items():
        data = load_data(f"flickr8k@{split}", root=tmp_path / "set")
        assert [sample.id for sample in data] == chosen
        assert data[0].captions == tuple(f"caption {n} of, {chosen[0]}" for n in range(5))
        assert [(r.id, r.reason) for r in data.rejects] == [
            ("gone.png", "named by the split but not in the data")
        ]
    assert len(load_data("flickr8k", root=tmp_path / "set")) == 18


def test_the_example_of_a_table_in_parquet(photos: Path, tmp_path: Path) -> None:
    """It is copied beside the table, as its comment says."""
    shutil.copytree(photos, tmp_path / "set" / "images")
    shutil.copy(read_manifest("example_parquet").path, tmp_path / "set" / "mine.yaml")
    names = sorted(path.name for path in photos.glob("*.png"))
    table = {
        "id": [f"{at:04d}" for at in range(18)],
        "file_name": names,
        "text": [f"caption of {name}" for name in names],
        "category": [name[:-5] for name in names],
        "split": ["train"] * 14 + ["test"] * 4,
    }
    pd.DataFrame(table).to_parquet(tmp_path / "set" / "pairs.parquet")
    train, test = (load_data(f"{tmp_path}/set/mine.yaml@{split}") for split in ("train", "test"))
    assert [len(train), len(test)] == [14, 4]
    assert (test[0].id, test[0].label) == ("0014", names[14][:-5])
    assert test[0].captions == (f"caption of {names[14]}",)
    assert test[0].image == tmp_path / "set" / "images" / names[14]


@pytest.mark.parametrize("name", ["example_folder", "example_table", "skimage_photos"])
def test_pictures_of_packages(name: str) -> None:
    data = load_data(name)
    assert len(data) >= 4
    assert data.rejects == ()
    assert data.licence


TESTS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(HUB_SETS, test_labelled_sets_of_the_hub),
    "cc12m": test_shards_of_conceptual_captions,
    "cc3m": test_shards_of_conceptual_captions,
    "coco_captions": test_coco_captions,
    "example_folder": test_pictures_of_packages,
    "example_parquet": test_the_example_of_a_table_in_parquet,
    "example_table": test_pictures_of_packages,
    "flickr30k": test_flickr30k,
    "flickr8k": test_flickr8k,
    "openmoji": test_openmoji.test_all_of_openmoji,
    "openmoji_base": test_openmoji.test_variants_stay_on_one_side,
    "skimage_photos": test_pictures_of_packages,
}


def test_every_manifest_has_a_test_and_every_kind_a_manifest() -> None:
    assert set(TESTS) == set(list_manifests())
    sources = [read_manifest(name).source for name in list_manifests()]
    kinds = {"folder", "table", "coco", "token", "webdataset", "hub", "openmoji"}
    assert {source["kind"] for source in sources} == kinds
    tables = [source for source in sources if source["kind"] == "table"]
    assert {Path(source.get("path", "rows")).suffix for source in tables} == {
        "",
        ".csv",
        ".parquet",
    }


@pytest.mark.parametrize("name", sorted(list_manifests()))
def test_every_manifest_can_be_read_by_people(name: str) -> None:
    manifest = read_manifest(name)
    text = manifest.path.read_text()
    assert text.startswith("# ")
    assert max(map(len, text.splitlines())) <= 120
    assert manifest.licence
    assert manifest.homepage.startswith("https://")
    for names in (manifest.class_names, manifest.templates):
        assert len(set(names)) == len(names)
    if manifest.class_names:
        assert manifest.templates
        assert not [name for name in manifest.class_names if "_" in name or name != name.strip()]


WITH_VARIABLES = {
    name: match[1]
    for name in list_manifests()
    if (match := re.match(r"\$\{(\w+)\}", str(read_manifest(name).source.get("root"))))
}


@pytest.mark.parametrize("name", WITH_VARIABLES)
def test_a_variable_that_is_not_set_is_named_in_one_sentence(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable, manifest = WITH_VARIABLES[name], read_manifest(name)
    monkeypatch.delenv(variable, raising=False)
    split = next(iter(manifest.splits), "")
    with pytest.raises(DataError) as raised:
        load_data(f"{name}@{split}" if split else name)
    told = str(raised.value)
    assert told.startswith(f"data set {name} needs the environment variable {variable}: set it to")
    assert str(manifest.path) in told
    assert "\n" not in told
    monkeypatch.setenv(variable, "/no/such/folder")
    with pytest.raises(DataError, match="its root /no/such/folder is not a folder"):
        load_data(f"{name}@{split}" if split else name)


def test_the_sets_that_are_not_fetched_need_a_variable_each() -> None:
    expected = {"cc12m", "cc3m", "coco_captions", "flickr30k", "flickr8k"}
    assert set(WITH_VARIABLES) == expected
    assert len(set(WITH_VARIABLES.values())) == len(expected)
