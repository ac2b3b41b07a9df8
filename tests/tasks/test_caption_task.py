"""Captioning as a task: words of its data, one caption drawn, sentences out; and the whole way through a run."""

from __future__ import annotations

import csv
import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from toy_pixels import CellsConfig
from whole_loss import task_loss

from vistruct.checkpoint.load import load_model
from vistruct.cli.main import main
from vistruct.contracts import DataInfo, Sample
from vistruct.errors import UserError
from vistruct.heads.caption_transformer import CaptionTransformerConfig
from vistruct.recipes import caption
from vistruct.runs import train_and_report
from vistruct.tasks.caption import Caption, CaptionBatch, CaptionConfig
from vistruct.vlm.vocabulary import FILE, open_vocabulary, read_vocabulary

CORPUS = ("A cat sits.", "A dog sits, too.", "A cat!")


def build(assets: Path, **fields: object) -> Caption:
    torch.manual_seed(0)
    head = CaptionTransformerConfig(width=16, depth=1, heads=2, mlp_width=32, dropout=0)
    config = CaptionConfig(**{"backbone": CellsConfig(cell=4), "head": head, "least_count": 2, **fields})
    return config.build(DataInfo(corpus=lambda: iter(CORPUS)), assets)


def picture(seed: int, captions: tuple[str, ...] = CORPUS, side: int = 16) -> Sample:
    image = torch.randint(0, 256, (3, side, side), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    return Sample(id=f"picture {seed}", image_id=f"picture {seed}", seed=seed, images=[image], captions=captions)


def batch_of(task: Caption, *samples: Sample) -> CaptionBatch:
    return task.collator(list(samples))  # ty: ignore[invalid-return-type]


def test_words_are_those_of_the_captions_and_kept_with_the_model(tmp_path: Path) -> None:
    task = build(tmp_path)
    kept = json.loads((tmp_path / FILE).read_text())
    assert kept == {"a": 1, "cat": 2, "sits": 3, "<unk>": 4, "<start>": 5, "<end>": 6, "<pad>": 0}
    assert task.vocabulary.encode("A dog sits.") == [5, 1, 4, 3, 6]
    assert task.vocabulary.decode([5, 1, 4, 3, 6, 0]) == "a <unk> sits"
    again = CaptionConfig(backbone=task.config.backbone, head=task.config.head).build(DataInfo(), tmp_path)
    assert again.vocabulary == task.vocabulary
    with pytest.raises(UserError, match="no captions to find them in"):
        CaptionConfig(backbone=task.config.backbone, head=task.config.head).build(DataInfo(), tmp_path / "none")


@pytest.mark.parametrize("units", ["characters", "subwords"])
def test_characters_and_subwords_give_texts_back_as_they_are(units: str, tmp_path: Path) -> None:
    task = build(tmp_path, units=units, least_count=1, vocab_size=320)
    for text in ("A cat sits.", "A dog!"):
        assert task.vocabulary.decode(task.vocabulary.encode(text)) == text
    assert read_vocabulary(tmp_path / FILE, units) == task.vocabulary  # ty: ignore[invalid-argument-type]
    pickle.loads(pickle.dumps(task.collator))


def test_a_given_word_map_is_taken_and_a_broken_one_refused(tmp_path: Path) -> None:
    file = tmp_path / "WORDMAP.json"
    file.write_text(json.dumps({"cat": 1, "<unk>": 2, "<start>": 3, "<end>": 4, "<pad>": 0}))
    (tmp_path / "assets").mkdir()
    assert build(tmp_path / "assets", words=file).vocabulary.encode("A cat") == [3, 2, 1, 4]
    for numbers, said in (
        ({"cat": 1, "<pad>": 0}, "no <unk>"),
        ({"<unk>": 2, "<start>": 2, "<end>": 4, "<pad>": 0}, "0, 1, 2"),
    ):
        file.write_text(json.dumps(numbers))
        with pytest.raises(UserError, match=said):
            open_vocabulary(tmp_path, "words", None, given=file, least=1, size=300)


def test_one_caption_is_drawn_by_the_seed_and_all_of_them_in_turn(tmp_path: Path) -> None:
    task = build(tmp_path, least_count=1)
    drawn = [task.vocabulary.decode(batch_of(task, picture(seed)).captions[0].tolist()) for seed in range(60)]
    assert drawn[0] == task.vocabulary.decode(batch_of(task, picture(0)).captions[0].tolist())
    counts = {text: drawn.count(text) for text in set(drawn)}
    assert set(counts) == {"a cat sits", "a dog sits too", "a cat"}
    assert min(counts.values()) > 10


def test_a_long_caption_is_cut_and_counted(tmp_path: Path) -> None:
    task = build(tmp_path, longest=2)
    batch = batch_of(task, picture(0, ("A cat sits.",)), picture(1, ("A cat.",)))
    assert batch.captions.tolist() == [[5, 1, 2, 6], [5, 1, 2, 6]]
    assert batch.is_cut.tolist() == [True, False]
    cut = task(batch).metrics["cut"]
    assert (int(cut.total), cut.count) == (1, 2)


def test_a_batch_is_the_sum_of_its_images(tmp_path: Path) -> None:
    task = build(tmp_path)
    samples = [picture(seed) for seed in range(3)]
    whole = task_loss(task, batch_of(task, *samples))
    apart = [task(batch_of(task, one)).terms["words"] for one in samples]
    units = [float(task.units(batch_of(task, one))["words"]) for one in samples]
    torch.testing.assert_close(whole.loss, sum(apart) / sum(units))


def test_what_is_no_image_of_one_size_or_has_no_caption_is_told(tmp_path: Path) -> None:
    task = build(tmp_path)
    with pytest.raises(UserError, match="no caption to learn from"):
        task(batch_of(task, picture(0, ())))
    with pytest.raises(UserError, match="16 x 16 pixels in one batch"):
        batch_of(task, picture(0), picture(1, side=20))
    assert len(task.eval().predict(batch_of(task, picture(0, ()), picture(1, ())))) == 2


def test_the_tiny_twin_trains_measures_and_is_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vistruct.runs.write_run_report", lambda out_dir: None)
    torch.set_num_threads(1)
    run = caption.tiny()
    out = train_and_report(run, tmp_path / "run")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    assert math.isfinite(lines[-1]["val/CIDEr-D"])
    kept = json.loads((out / "evaluations" / "val.json").read_text())
    for name in ("CIDEr-D", "ROUGE-L"):
        each = [total / count for total, count in kept["details"]["per_image"][name].values()]
        assert sum(each) / len(each) == pytest.approx(kept["numbers"][name])
    task, card = load_model(out)
    assert (task.vocabulary.numbers["stripes"] > 0, card.task.kind) == (True, "caption")
    assert (out / "samples" / "predictions_val.png").is_file()


def ran(*words: str) -> object:
    try:
        main(list(words))
    except SystemExit as stopped:
        return stopped.code
    return 0


def test_predictions_are_written_as_coco_scores_them_and_scored_without_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    data = caption.tiny().only.data.annotation  # ty: ignore[unresolved-attribute]
    assert ran("train", "caption", "--tiny", "--out", str(run), "--set", "steps=2") == 0
    images = [str(path) for path in sorted((data.parent / "pics").glob("*_5.jpg"))]
    assert ran("predict", str(run), *images, "--out", str(tmp_path / "found")) == 0
    rows = json.loads((tmp_path / "found" / "captions.json").read_text())
    assert {tuple(sorted(row)) for row in rows} == {("caption", "image_id")}
    with open(tmp_path / "found" / "captions.csv") as opened:
        assert [row["caption"] for row in csv.DictReader(opened)] == [row["caption"] for row in rows]
    capsys.readouterr()
    assert ran("eval", str(run), "--data", str(data), "--split", "val", "--json") == 0
    of_model = json.loads(capsys.readouterr().out)["evaluations"]
    assert ran("eval", str(tmp_path / "found"), "--data", str(data), "--split", "val", "--json") == 0
    of_file = json.loads(capsys.readouterr().out)["evaluations"]
    (ours,), (theirs,) = of_model.values(), of_file.values()
    assert theirs["CIDEr-D"] == pytest.approx(ours["CIDEr-D"])
