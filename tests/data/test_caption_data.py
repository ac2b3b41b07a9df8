"""Images with captions in every published layout: the same records, and each kind of damage said."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vistruct.data.at_path import part_at
from vistruct.data.captions import CaptionDataConfig
from vistruct.data.checks.check import check
from vistruct.data.convert_captions import convert_captions
from vistruct.data.dataset import RecordDataset
from vistruct.data.formats.captions import hdf5
from vistruct.data.formats.detect import family_of, splits_of
from vistruct.data.instructions.write import write_instructions
from vistruct.errors import UserError
from vistruct.samples import trees
from vistruct.transforms.sizing import Size
from vistruct.vlm.words import tokens_of

GOLDEN = Path(__file__).parent.parent / "golden" / "visft_caption" / "dataset"
HDF5 = GOLDEN / "processed_datasets" / "coco_caption_hdf5_files"
SENTENCES = {"a.png": ("A cat, asleep.", "The cat's bed."), "b.png": ("Two dogs.",), "c.png": ("A red ball.",)}


def pictures(folder: Path, names: Any = SENTENCES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def coco(**changes: Any) -> dict[str, Any]:
    images = [{"id": 10 + at, "file_name": name, "domain": "in-domain"} for at, name in enumerate(SENTENCES)]
    told = [(10 + at, caption) for at, captions in enumerate(SENTENCES.values()) for caption in captions]
    rows = [{"image_id": image, "id": at, "caption": caption} for at, (image, caption) in enumerate(told)]
    return {"info": {}, "images": images, "licenses": [], "annotations": rows} | changes


def karpathy(splits: tuple[str, ...] = ("train", "restval", "val")) -> dict[str, Any]:
    images = [
        {
            "filepath": "pics",
            "filename": name,
            "split": split,
            "cocoid": 10 + at,
            "sentences": [{"raw": raw, "tokens": tokens_of(raw)} for raw in captions],
        }
        for at, (split, (name, captions)) in enumerate(zip(splits, SENTENCES.items(), strict=True))
    ]
    return {"dataset": "coco", "images": images}


def told(dataset: RecordDataset) -> dict[str, tuple[str, ...]]:
    return {record.id: record.captions for record in dataset.records}


def written(root: Path, layout: str) -> Path:
    """The same three images and four captions in a published layout; what is named on the command line."""
    pictures(root / "images")
    rows = [(name, at, text) for name, texts in SENTENCES.items() for at, text in enumerate(texts)]
    files = {
        "captions_val2017.json": json.dumps(coco()),
        "rows.csv": "image,caption\n" + "".join(f'{name},"{text}"\n' for name, _, text in rows),
        "rows.tsv": "filename\tsentence\n" + "".join(f"{name}\t{text}\n" for name, _, text in rows),
        "results.csv": "image_name| comment_number| comment\n" + "".join(f"{n}| {k}| {t}\n" for n, k, t in rows),
        "results_20130124.token": "".join(f"{name}#{at}\t{text}\n" for name, at, text in rows),
        "captions.txt": "image,caption\n" + "".join(f"{name},{text}\n" for name, _, text in rows),
        "rows.jsonl": "".join(json.dumps({"image": n, "caption": t}) + "\n" for n, _, t in rows),
        "metadata.jsonl": "".join(json.dumps({"file_name": n, "text": t}) + "\n" for n, _, t in rows),
        "coco_karpathy.json": json.dumps([{"image": n, "caption": list(t)} for n, t in SENTENCES.items()]),
        "pretty.json": json.dumps(coco(), indent=2),
    }
    (root / layout).write_text(files[layout])
    return root / layout


LAYOUTS = {
    "captions_val2017.json": "coco-captions",
    "pretty.json": "coco-captions",
    "rows.csv": "caption-table",
    "rows.tsv": "caption-table",
    "results.csv": "caption-table",
    "results_20130124.token": "caption-table",
    "captions.txt": "caption-table",
    "rows.jsonl": "caption-lines",
    "metadata.jsonl": "caption-lines",
    "coco_karpathy.json": "caption-lines",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_records_and_is_found_by_itself(tmp_path: Path, layout: str) -> None:
    path = written(tmp_path, layout)
    found = family_of(path)
    assert (found.kind, found.format) == ("captions", LAYOUTS[layout])
    dataset = part_at(path).build()
    assert told(dataset) == SENTENCES
    assert dataset.info.counts == {"images": 3, "captions": 4}
    assert list(dataset.info.corpus()) == [text for texts in SENTENCES.values() for text in texts]
    sample = dataset.sample(1, seed=0)
    assert (sample.captions, tuple(sample.images[0].shape)) == (("Two dogs.",), (3, 6, 8))
    assert check(path).ok
    pickle.dumps(dataset)  # goes to worker processes


def test_karpathys_splits_are_as_published_and_restval_is_spoken_of(tmp_path: Path) -> None:
    pictures(tmp_path / "pics")
    (tmp_path / "dataset_coco.json").write_text(json.dumps(karpathy()))
    assert family_of(tmp_path).format == "karpathy"
    assert splits_of(tmp_path, "karpathy") == ("train", "restval", "val")
    with pytest.raises(UserError, match="several splits"):
        part_at(tmp_path).build()
    both = part_at(tmp_path, split="train+restval").build()
    assert told(both) == {f"pics/{name}": SENTENCES[name] for name in ("a.png", "b.png")}
    assert not both.report.counts
    assert both.records[0].notes == {"coco_id": "10"}
    train = part_at(tmp_path, split="train").build()
    assert list(train.report.counts.values()) == [1]
    assert "restval" in next(iter(train.report.counts))


def test_tokens_are_those_of_karpathys_files() -> None:
    assert tokens_of("A man's T-shirt, <unk> (red).") == ["a", "mans", "tshirt", "<unk>", "red"]


def test_a_folder_of_coco_has_captions_and_boxes_and_that_is_a_question(tmp_path: Path) -> None:
    pictures(tmp_path / "val2017")
    pictures(tmp_path / "train2017", ["d.png"])
    (tmp_path / "annotations").mkdir()
    one = {"images": [{"id": 1, "file_name": "d.png"}], "annotations": [{"image_id": 1, "id": 1, "caption": "A sky."}]}
    (tmp_path / "annotations" / "captions_train2017.json").write_text(json.dumps(one))
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(coco()))
    assert family_of(tmp_path).format == "coco-captions"
    assert splits_of(tmp_path, "coco-captions") == ("train2017", "val2017")
    assert told(part_at(tmp_path, split="val").build()) == SENTENCES
    assert len(part_at(tmp_path, split="train+val").build()) == 4
    boxes = {
        "images": [{"id": 1, "file_name": "d.png", "width": 8, "height": 6}],
        "categories": [{"id": 1, "name": "sky"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "area": 4, "iscrowd": 0}],
    }
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(boxes))
    with pytest.raises(UserError, match=r"boxes \(coco\), captions \(coco-captions\)"):
        family_of(tmp_path)
    assert CaptionDataConfig(annotation=tmp_path, split="train2017").build().records[0].captions == ("A sky.",)


def test_what_is_left_out_is_counted_and_what_is_missing_stops(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    rows = ["image,caption,split", "a.png,A cat.,train", "a.png,A cat.,train", "a.png, ,train", "b.png,,train"]
    rows += ["gone.png,A ghost.,train", "c.png,One, two, three.,val", "short"]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    with pytest.raises(UserError, match="not on disk"):
        part_at(tmp_path / "rows.csv", split="train").build()
    kept = CaptionDataConfig(annotation=tmp_path / "rows.csv", split="train", missing="drop").build()
    assert told(kept) == {"a.png": ("A cat.", "A cat.")}
    assert sorted(kept.report.counts.items()) == [
        ("caption left out: nothing is in it", 2),
        ("caption that an image has twice", 1),
        ("image left out: file missing", 1),
        ("image left out: it has no caption", 1),
        ("line left out: it has fewer columns than the first", 2),
    ]
    result = check(tmp_path / "rows.csv")
    assert not result.ok


def test_an_image_in_two_splits_stops(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    (tmp_path / "rows.csv").write_text("image,caption,split\na.png,A cat.,train\na.png,A dog.,val\n")
    with pytest.raises(UserError, match="image in two splits"):
        part_at(tmp_path / "rows.csv", split="train").build()


def test_results_of_a_model_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps([{"image_id": 10, "caption": "A cat."}]))
    with pytest.raises(UserError):
        CaptionDataConfig(annotation=tmp_path / "results.json").build()


def test_captions_are_made_from_boxes(tmp_path: Path) -> None:
    write_instructions(trees().test, tmp_path / "out", families=("caption",), questions=1)
    assert family_of(tmp_path / "out" / "instructions.jsonl").kind == "talk"
    dataset = CaptionDataConfig(annotation=tmp_path / "out").build()
    assert dataset.info.counts["captions"] >= len(dataset) > 0
    assert all(caption.startswith("The image shows") for record in dataset.records for caption in record.captions)


def test_drawn_splits_keep_captions_with_their_image(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.csv")
    shares = {"train": 0.7, "val": 0.3}
    parts = [CaptionDataConfig(annotation=path, random_split=shares, split=name).build() for name in shares]
    assert told(parts[0]) | told(parts[1]) == SENTENCES
    assert not set(told(parts[0])) & set(told(parts[1]))


def test_the_golden_hdf5_files_are_read_as_the_published_data_set_reads_them() -> None:
    assert splits_of(HDF5, "captions-hdf5") == ("train", "val", "test")
    words = {number: word for word, number in json.loads(next(HDF5.glob("WORDMAP*")).read_text()).items()}
    golden = load_file(GOLDEN.parent / "dataset_samples.safetensors")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    seen = 0
    for split in ("train", "val", "test"):
        dataset = part_at(HDF5, split=split).build()
        for name in golden:
            if not name.startswith(split) or not name.endswith(".caption"):
                continue
            at, stem = int(name.split(".")[1]), name.removesuffix(".caption")
            length = int(golden[f"{stem}.length"])
            caption = " ".join(words[int(number)] for number in golden[name][1 : length - 1])
            sample = dataset.sample(at // 5, seed=0)
            assert sample.captions[at % 5] == caption
            image = (sample.images[0] / 255 - mean[:, None, None]) / std[:, None, None]
            corner = golden[f"{stem}.image_corner"]
            torch.testing.assert_close(image[:, : corner.shape[1], : corner.shape[2]], corner, atol=5e-5, rtol=1e-4)
            seen += 1
    assert seen
    assert check(HDF5).ok


def test_the_golden_hdf5_files_are_written_byte_for_byte(tmp_path: Path) -> None:
    done = convert_captions(GOLDEN / "src" / "dataset_coco.json", tmp_path / "out")
    assert (dict(done.images), dict(done.lost.counts)) == ({"train": 2, "val": 1, "test": 1}, {hdf5.LONG: 1})
    names = sorted(file.name for file in HDF5.iterdir())
    assert sorted(file.name for file in done.path.iterdir() if not file.name.startswith(".")) == names
    import h5py

    for name in names:
        if name.endswith(".json"):
            assert (done.path / name).read_bytes() == (HDF5 / name).read_bytes(), name
        else:
            with h5py.File(done.path / name) as ours, h5py.File(HDF5 / name) as theirs:
                assert np.array_equal(ours["images"][()], theirs["images"][()])
                assert dict(ours.attrs) == dict(theirs.attrs)


def test_tables_go_into_hdf5_and_come_back(tmp_path: Path) -> None:
    layout = hdf5.Layout(captions_per_image=2, min_word_freq=0)
    done = convert_captions(written(tmp_path, "rows.csv"), tmp_path / "out", layout=layout)
    back = CaptionDataConfig(annotation=done.path).build()
    assert [set(record.captions) for record in back.records] == [
        {" ".join(tokens_of(text)) for text in texts} for texts in SENTENCES.values()
    ]
    assert tuple(back.sample(0, 0).images[0].shape) == (3, 256, 256)


def test_words_of_another_map_and_rows_too_few_stop(tmp_path: Path) -> None:
    for file in HDF5.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    word_map = next(tmp_path.glob("WORDMAP*"))
    word_map.write_text(json.dumps({"cat": 1, "<start>": 17, "<end>": 18, "<pad>": 0}))
    with pytest.raises(UserError, match="not in the word map"):
        part_at(tmp_path, split="val").build()
    lengths = next(tmp_path.glob("VAL_CAPLENS*"))
    lengths.write_text("[3, 4]")
    with pytest.raises(UserError, match="5 captions and 2 lengths"):
        part_at(tmp_path, split="val").build()


def test_images_are_brought_to_a_size(tmp_path: Path) -> None:
    size = Size(height=4, width=4, keep_aspect=False)
    dataset = CaptionDataConfig(annotation=written(tmp_path, "rows.csv"), resize=size).build()
    assert tuple(dataset.sample(0, 0).images[0].shape) == (3, 4, 4)
