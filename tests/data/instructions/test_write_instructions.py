"""Instructions from real and made-up data sets: boxes are the annotation's, answers are balanced, files repeat."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vistruct.cli.main import main
from vistruct.contracts import Objects, Record
from vistruct.data.checks.check import check
from vistruct.data.dataset import ChatDataConfig
from vistruct.data.formats.read import read
from vistruct.data.instructions.control import shuffle_answers, write_control
from vistruct.data.instructions.crops import TOO_SMALL, cover, crop_side, cut
from vistruct.data.instructions.families import FAMILIES
from vistruct.data.instructions.scene import CROWD
from vistruct.data.instructions.view import turn_boxes, turn_image, view
from vistruct.data.instructions.write import Summary, write_instructions
from vistruct.errors import UserError
from vistruct.files.images import read_image
from vistruct.issues import IssueCounter
from vistruct.samples import trees

BOX = re.compile(r"\[(\d+), (\d+), (\d+), (\d+)\]")
COLOURS = ((230, 20, 20), (20, 200, 20), (30, 30, 240), (230, 220, 20), (220, 20, 220), (20, 220, 220))


def data_set(folder: Path, images: list[dict], names=("person", "aircraft")) -> Path:
    """A COCO json with PNGs; each image has `size` (width, height) and `boxes` of (name, x, y, w, h, is_crowd).

    The n-th box of an image is painted in the n-th colour on dark grey.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed, annotations = [], []
    for number, image in enumerate(images, 1):
        width, height = image["size"]
        pixels = np.full((height, width, 3), 30, np.uint8)
        for colour, (name, x, y, w, h, crowd) in zip(COLOURS, image["boxes"], strict=False):
            pixels[y : y + h, x : x + w] = colour
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": names.index(name) + 1,
                    "bbox": [x, y, w, h], "area": w * h, "iscrowd": crowd,
                }
            )  # fmt: skip
        Image.fromarray(pixels).save(folder / f"{number}.png")
        listed.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    path = folder / "boxes.json"
    path.write_text(json.dumps({"images": listed, "annotations": annotations, "categories": categories}))
    return path


EDGES = [
    {"size": (120, 80), "boxes": []},
    {"size": (120, 80), "boxes": [("person", 40, 30, 20, 20, 0)]},
    {"size": (100, 100), "boxes": [("person", 0, 0, 30, 30, 0), ("aircraft", 70, 60, 30, 40, 0)]},
    {"size": (99, 61), "boxes": [("aircraft", 10, 10, 20, 20, 0), ("person", 50, 20, 40, 30, 1)]},
    {"size": (1, 1), "boxes": []},
]


def rows_of(summary: Summary) -> list[dict]:
    return [json.loads(line) for line in summary.path.read_text().splitlines()]


def pairs(rows: list[dict]) -> list[tuple[dict, str, str, str]]:
    """(row, family, question, answer) of all."""
    out = []
    for row in rows:
        texts = [turn["value"] for turn in row["conversations"]]
        out += [(row, f, q, a) for f, q, a in zip(row["families"], texts[::2], texts[1::2], strict=True)]
    return out


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Summary]:
    root = tmp_path_factory.mktemp("instructions")
    return {
        "train": write_instructions(trees().train, root / "train", crops=220, rot90=True),
        "test": write_instructions(trees().test, root / "test", crops=150),
    }


@pytest.mark.parametrize("scene", ["train", "test"])
def test_no_answer_can_be_guessed_on_the_shipped_trees(written, scene):
    tally = written[scene].tally
    assert set(tally.families) == set(FAMILIES)
    for family, answers in tally.answers.items():
        total, (commonest, most) = answers.total(), answers.most_common(1)[0]
        assert total >= 25, family
        assert most / total <= 0.62, (family, commonest)
    for family, answer in (
        ("presence", "yes"),
        ("describe_box", "none"),
        ("compare_boxes", "first"),
        ("cell", "none"),
    ):
        assert 0.4 <= tally.answers[family][answer] / tally.families[family] <= 0.6, family


def test_the_summary_counts_what_is_in_the_file(written):
    for summary in written.values():
        rows = rows_of(summary)
        assert len(rows) == summary.pictures
        found = pairs(rows)
        assert summary.tally.families.total() == len(found)
        assert {family: total for family, total, _ in summary.rows()} == summary.tally.families
        for family in ("presence", "cell"):
            answers = [answer for _, f, _, answer in found if f == family]
            assert {a: answers.count(a) for a in answers} == summary.tally.answers[family]


def test_crops_follow_the_size_of_the_objects(written):
    sides = [row["width"] for row in rows_of(written["train"])]
    boxes = [a["bbox"] for a in json.loads(trees().train.read_text())["annotations"]]
    median = np.median([(w * h) ** 0.5 for _, _, w, h in boxes])
    assert 1.5 * median - 1 <= min(sides) <= max(sides) <= 3 * median + 1
    assert f"{median:.1f}" in written["train"].line()


def painted_boxes(image: np.ndarray) -> dict[int, tuple[float, ...]]:
    """xyxy in pixels of each colour that is there."""
    out = {}
    for number, colour in enumerate(COLOURS):
        ys, xs = np.nonzero(np.abs(image.astype(int) - colour).max(-1) < 90)
        if len(ys):
            out[number] = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    return out


def test_boxes_in_answers_lie_on_what_is_seen_in_the_turned_crop(tmp_path):
    boxes = [("person", 30, 40, 40, 25, 0), ("aircraft", 150, 30, 30, 50, 0), ("person", 90, 120, 36, 36, 0)]
    source = data_set(tmp_path, [{"size": (240, 200), "boxes": boxes}])
    summary = write_instructions(
        source,
        tmp_path / "out",
        crops=60,
        crop_size=(110, 180),
        rot90=True,
        families=("ground_all",),
        questions=3,
    )
    checked = 0
    for row, _, _, answer in pairs(rows_of(summary)):
        picture = np.asarray(Image.open(tmp_path / "out" / row["image"]).convert("RGB"))
        assert picture.shape[:2] == (row["height"], row["width"])
        seen = painted_boxes(picture)
        for quad in BOX.findall(answer):
            box = np.array([int(v) for v in quad]) * ([row["width"], row["height"]] * 2) / 1000
            assert min(np.abs(box - other).max() for other in seen.values()) <= 1.2, (row["image"], box, seen)
            checked += 1
    assert checked > 50


def test_boxes_of_whole_images_are_those_of_the_json_within_rounding(tmp_path):
    source = data_set(tmp_path, EDGES)
    content = json.loads(source.read_text())
    summary = write_instructions(
        source, tmp_path / "out", questions=12, families=("ground_all", "ground_one", "describe_box")
    )
    assert summary.whole == summary.pictures
    checked = 0
    for row, family, question, answer in pairs(rows_of(summary)):
        number = int(Path(row["image"]).stem)
        truth = [a for a in content["annotations"] if a["image_id"] == number]
        text = question if family == "describe_box" and answer != "none" else answer
        for quad in BOX.findall(text):
            x1, y1, x2, y2 = (
                int(v) * side / 1000 for v, side in zip(quad, (row["width"], row["height"]) * 2, strict=True)
            )
            off = [
                max(abs(x1 - x), abs(y1 - y), abs(x2 - x - w), abs(y2 - y - h))
                for x, y, w, h in (a["bbox"] for a in truth if not a["iscrowd"])
            ]
            assert min(off) <= 0.5 * max(row["width"], row["height"]) / 1000 + 1e-9
            checked += 1
    assert checked >= 8


@pytest.mark.parametrize("turn", range(8))
def test_boxes_turn_with_their_image(turn):
    image = torch.zeros(3, 30, 50, dtype=torch.uint8)
    x1, y1, x2, y2 = 4, 7, 21, 12
    image[:, y1:y2, x1:x2] = 255
    turned = turn_image(image, turn)
    ys, xs = np.nonzero(turned[0].numpy())
    (box,) = turn_boxes(np.array([[x1, y1, x2, y2]], float), (30, 50), turn)
    assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_the_eight_turns_are_different_and_include_none():
    image = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3).expand(3, 2, 3)
    turned = [turn_image(image, turn) for turn in range(8)]
    assert torch.equal(turned[0], image)
    assert len({(tuple(t.shape), tuple(t.flatten().tolist())) for t in turned}) == 8


def record(boxes, crowd=None, size_hw=(100, 200)) -> Record:
    return Record(
        id="a", images=(Path("a.png"),), size_hw=size_hw,
        objects=Objects(
            boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
            labels=np.arange(len(boxes)) % 2,
            is_crowd=np.array(crowd or [False] * len(boxes), bool),
        ),

    )  # fmt: skip


def test_a_cut_object_counts_from_half_of_it_on_and_is_doubtful_below():
    # of 40 px wide objects, the window from x = 100 on shows 40, 20, 19, 4 and 0 px
    boxes = [[100, 0, 140, 10], [80, 20, 120, 30], [79, 40, 119, 50], [64, 60, 104, 70], [60, 80, 100, 90]]
    scene = view(record(boxes), (100, 0, 200, 100), ("tree", "person"))
    assert scene.boxes_xyxy.tolist() == [[0, 0, 40, 10], [0, 20, 20, 30]]
    assert scene.doubtful_xyxy.tolist() == [[0, 40, 19, 50]]
    assert scene.doubtful_labels.tolist() == [0]


def test_a_crowd_is_doubtful_however_much_of_it_shows():
    scene = view(record([[0, 0, 50, 50], [198, 0, 298, 50]], [True, True], (100, 300)), (0, 0, 200, 100), ("a", "b"))
    assert len(scene.boxes_xyxy) == 0
    assert scene.doubtful_xyxy.tolist() == [[0, 0, 50, 50], [198, 0, 200, 50]]
    assert scene.possible(0) == scene.possible(1) == CROWD


def test_covering_crops_leave_no_pixel_out_and_small_images_stay_whole():
    small, large = record([[0, 0, 40, 40]]), record([[0, 0, 40, 40]], size_hw=(300, 1100))
    side = crop_side([small, large], None)
    plan = cover([small, large], None, side)
    assert plan[0] == (small, (0, 0, 200, 100))
    seen = np.zeros((300, 1100), bool)
    for part, (x1, y1, x2, y2) in plan[1:]:
        assert part is large
        assert x2 - x1 == y2 - y1 == side.high
        seen[y1:y2, x1:x2] = True
    assert seen.all()
    _, first = cover([small], (64, 64), crop_side([small], (64, 64)))[0]
    assert first == (0, 0, 64, 64)  # a size that was given is kept


def test_default_crops_of_tiny_and_of_huge_objects_stay_in_reach():
    assert crop_side([record([[0, 0, 3, 3]])], None).low == 32
    huge = crop_side([record([[0, 0, 100, 90]])], None)
    assert huge.low == huge.high == 100  # no larger than the image


def test_random_crops_lie_inside_their_images():
    records = [record([[0, 0, 30, 30]], size_hw=hw) for hw in ((50, 70), (200, 40), (90, 90))]
    side, report = crop_side(records, None), IssueCounter()
    for part, (x1, y1, x2, y2) in cut(records, 200, side, np.random.default_rng(0), report):
        height, width = part.size_hw or (0, 0)
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert x2 - x1 == y2 - y1
    assert not report.counts


def test_images_smaller_than_a_given_crop_are_counted(tmp_path):
    source = data_set(tmp_path, EDGES)
    summary = write_instructions(source, tmp_path / "out", crops=10, crop_size=(90, 90))
    assert summary.dropped[TOO_SMALL] == 4


@pytest.mark.parametrize("options", [{}, {"crops": 12}, {"crops": 12, "rot90": True}, {"crop_size": (60, 60)}])
def test_the_same_seed_writes_the_same_bytes_and_another_does_not(tmp_path, options):
    source = data_set(tmp_path / "data", EDGES)

    def files(name: str, seed: int) -> dict[str, bytes]:
        write_instructions(source, tmp_path / name, seed=seed, **options)
        found = [p for p in (tmp_path / name).rglob("*") if ".vistruct" not in p.parts]
        return {p.relative_to(tmp_path / name).as_posix(): p.read_bytes() for p in found if p.is_file()}

    first = files("a", 0)
    assert files("b", 0) == first
    assert files("c", 1)["instructions.jsonl"] != first["instructions.jsonl"]


@pytest.mark.parametrize("options", [{}, {"crops": 6}, {"rot90": True}])
def test_what_is_written_can_be_checked_and_trained_on_without_a_root(tmp_path, options):
    source = data_set(tmp_path / "data", EDGES)
    write_instructions(source, tmp_path / "out", **options)
    result = check(tmp_path / "out")
    assert result.ok, str(result)
    dataset = ChatDataConfig(jsonl=tmp_path / "out" / "instructions.jsonl").build()
    for index in range(len(dataset)):
        assert dataset.sample(index, 0).images


def test_shuffled_answers_move_every_conversation_and_lose_none(written):
    rows = rows_of(written["test"])
    moved = shuffle_answers(rows, seed=0)
    texts = [json.dumps(row["conversations"]) for row in rows]
    others = [json.dumps(row["conversations"]) for row in moved]
    assert sorted(texts) == sorted(others)
    assert [row["image"] for row in rows] == [row["image"] for row in moved]
    numbered = [{"image": n, "conversations": n} for n in range(50)]
    assert all(row["image"] != row["conversations"] for row in shuffle_answers(numbered, seed=3))
    assert shuffle_answers(rows, seed=1) != moved == shuffle_answers(rows, seed=0)
    for row in moved:
        assert len(row["families"]) == len(row["conversations"]) / 2
    with pytest.raises(UserError, match="alone"):
        shuffle_answers(rows[:1], seed=0)


def test_the_control_lies_in_a_folder_of_its_own_and_finds_its_pictures(written, tmp_path):
    control = write_control(written["test"].path, tmp_path / "elsewhere" / "control")
    dataset = ChatDataConfig(jsonl=control).build()
    truth = {row["image"]: row["conversations"] for row in rows_of(written["test"])}
    rows = rows_of(Summary(path=control))
    assert len(rows) == len(truth)
    for index, row in enumerate(rows):
        picture = (control.parent / row["image"]).resolve()
        own = truth[picture.relative_to(written["test"].path.parent.resolve()).as_posix()]
        assert row["conversations"] != own
        assert dataset.sample(index, 0).images


def test_labels_of_the_same_pictures_are_what_the_questions_are_made_of(tmp_path):
    boxes = [("person", 20, 30, 30, 20, 0), ("aircraft", 70, 60, 30, 40, 0), ("person", 5, 80, 16, 12, 1)]
    source = data_set(tmp_path / "data", [{"size": (120, 110), "boxes": boxes}])
    asked = {"crops": 30, "crop_size": (50, 90), "rot90": True}
    summary = write_instructions(source, tmp_path / "talk", boxes=tmp_path / "far" / "labels", **asked)
    walked, report = read(tmp_path / "far" / "labels" / "annotations.json", "boxes")
    assert not report.counts
    assert [one.images[0].resolve() for one in walked.records] == [
        (tmp_path / "talk" / row["image"]).resolve() for row in rows_of(summary)
    ]
    seen = 0
    for record in walked.records:
        picture = read_image(record.images[0])
        for box, label, crowd in zip(
            record.objects.boxes_xyxy, record.objects.labels, record.objects.is_crowd, strict=True
        ):
            x0, y0, x1, y1 = (round(float(edge)) for edge in box)
            if crowd or min(x1 - x0, y1 - y0) < 8:
                continue
            inside = picture[:, y0 + 3 : y1 - 3, x0 + 3 : x1 - 3].float().mean((1, 2)).tolist()
            assert inside == pytest.approx(COLOURS[int(label)], abs=12)
            seen += 1
    assert seen > 20
    assert any(record.objects.is_crowd.any() for record in walked.records)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"families": ("presense",)}, "presense"),
        ({"questions": 0}, "questions=0"),
        ({"families": ()}, "0 families"),
        ({"crops": 0}, "0 crops"),
        ({"crops": 3, "crop_size": (500, 600)}, "500 pixels"),
        ({"crops": 3, "crop_size": (60, 40)}, "no range"),
        ({"crops": 3, "crop_size": (0, 40)}, "no range"),
    ],
)
def test_mistakes_are_named(tmp_path, options, what):
    source = data_set(tmp_path, EDGES)
    with pytest.raises(UserError, match=re.escape(what)):
        write_instructions(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_data_set_without_objects_is_named(tmp_path):
    source = data_set(tmp_path, EDGES[:1])
    with pytest.raises(UserError, match="no objects"):
        write_instructions(source, tmp_path / "out")


def test_the_source_s_own_images_are_never_written_over(tmp_path):
    source = data_set(tmp_path / "images", EDGES)
    with pytest.raises(UserError, match="among the images"):
        write_instructions(source, tmp_path, crops=3)


def test_the_command_prints_the_table_and_last_the_path(tmp_path, capsys):
    source = data_set(tmp_path / "data", EDGES)
    with pytest.raises(SystemExit) as end:
        main(["instruct", str(source), "--out", str(tmp_path / "out"), "--crop-size", "60"])
    assert not end.value.code
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(tmp_path / "out" / "instructions.jsonl")
    assert any("describe_box" in line and "%" in line for line in lines)
    assert "crops of 60 px" in lines[-2]


def test_only_its_own_instructions_are_replaced(tmp_path: Path) -> None:
    source, out = data_set(tmp_path / "data", EDGES), tmp_path / "out"
    write_instructions(source, out, crops=9)
    (out / "images" / "mine.jpg").write_bytes(b"mine")
    (out / "labels.json").write_bytes(b"mine")
    again = write_instructions(source, out, crops=3, seed=1)
    named = {json.loads(line)["image"] for line in again.path.read_text().splitlines()}
    assert {f"images/{one.name}" for one in (out / "images").iterdir()} == named | {"images/mine.jpg"}
    assert (out / "labels.json").read_bytes() == b"mine"
    again.path.write_text("corrected by hand\n")
    with pytest.raises(UserError, match="would be overwritten"):
        write_instructions(source, out)
    other = tmp_path / "other"
    (other / "images").mkdir(parents=True)
    (other / "images" / "000001.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="would be overwritten"):
        write_instructions(source, other, crops=3)
    assert again.path.read_text() == "corrected by hand\n"
    assert [one.name for one in other.rglob("*")] == ["images", "000001.jpg"]
