"""The demo's steps, each a cell: data in and numbers out, in a process of its own with one thread.

Every step goes through the ordinary parts: recipes, the engine, the loader, the metrics. A step that trains keeps its
run directory; what it returns is small and JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vistruct.checkpoint.load import load_model
from vistruct.config import Eval, Run, run_to_yaml
from vistruct.contracts import BoxPrediction, Record
from vistruct.data.dataset import ChatDataConfig
from vistruct.data.formats.boxes import coco
from vistruct.data.formats.chat import schemas as chat
from vistruct.data.formats.read import read
from vistruct.data.instructions.write import shuffle_answers, write_instructions
from vistruct.engine.evaluate import evaluate
from vistruct.files.images import read_image
from vistruct.inference.model import load
from vistruct.metrics.answers import AnswersConfig
from vistruct.ops.seeds import derive
from vistruct.pictures.chat import draw_conversation
from vistruct.pictures.objects import draw_prediction
from vistruct.recipes.vitp import pretrain as pretrain_recipe
from vistruct.runs import train_and_report
from vistruct.samples import trees
from vistruct.study.linear import statistics
from vistruct.study.patches import object_patches
from vistruct.study.probe import dense_features, dense_probe, label_efficiency
from vistruct.vlm.vrl import PRESETS, keep_tokens

Report = Callable[..., None]
CROP = (72, 144)  # pixels at 10 cm: one to several crowns
PATCH = 64  # pixels, a probe's patch
DENSE_CROP = 96  # pixels


def write_data(*, out: str, crops: int, results: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Instructions about the training scene, and the same with every conversation moved to another picture."""
    folder = Path(out) / "instructions"
    summary = write_instructions(
        trees().train, folder, crops=crops, crop_size=CROP, questions=3, always=("grid_map",), turned=True, seed=0,
        progress=lambda done, total: report(done, total, "pictures"),
    )  # fmt: skip
    rows = [json.loads(line) for line in summary.path.read_text().splitlines()]
    # Beside the true ones, in a file of another folder: a data set's folder holds one annotation file.
    shuffled = Path(out) / "shuffled" / "instructions.jsonl"
    shuffled.parent.mkdir(exist_ok=True)
    moved = [{**row, "image": f"../instructions/{row['image']}"} for row in shuffle_answers(rows, seed=0)]
    chat.write(shuffled, moved)
    return {
        "true": str(summary.path),
        "shuffled": str(shuffled),
        "families": [list(row) for row in summary.rows()],
        "line": summary.line(),
    }


def split_target(*, out: str, results: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """The test scene in two: its left third may be learned from, the rest is measured on; COCO json and PNG each."""
    scene, image = _scene(trees().test)
    folder = Path(out) / "target"
    folder.mkdir(parents=True, exist_ok=True)
    height, width = image.shape[1:]
    middle = (scene.objects.boxes_xyxy[:, 0] + scene.objects.boxes_xyxy[:, 2]) / 2
    parts: dict[str, Any] = {}
    for name, left, right in (("labelled", 0, width // 3), ("tested", width // 3, width)):
        picture = folder / f"{name}.png"
        Image.fromarray(image[:, :, left:right].permute(1, 2, 0).numpy()).save(picture)
        own = (middle >= left) & (middle < right)  # a crown on the border belongs to the side of its middle
        boxes = scene.objects.boxes_xyxy[own] - np.array([left, 0, left, 0], np.float32)
        boxes[:, [0, 2]] = boxes[:, [0, 2]].clip(0, right - left)
        part = Record(
            id=picture.name,
            images=(picture,),
            size_hw=(height, right - left),
            objects=replace(scene.objects.keep(own), boxes_xyxy=boxes),
        )
        coco.write(folder / f"{name}.json", [part], ("tree",))
        parts |= {name: str(folder / f"{name}.json"), f"num_{name}": int(own.sum())}
    return parts


def write_questions(*, out: str, pictures: int, results: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Questions of every family about the test scene, and about other crops of the training scene than those taught."""
    said: dict[str, Any] = {}
    for scene, source in (("test", trees().test), ("train", trees().train)):
        summary = write_instructions(
            source, Path(out) / "questions" / scene, crops=pictures, crop_size=CROP, questions=8, turned=True, seed=1,
            progress=lambda done, total: report(done, total, "pictures"),
        )  # fmt: skip
        said[scene] = {"jsonl": str(summary.path), "line": summary.line()}
    return said


def answer(*, start: str, trained: bool, results: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """What a whole model, language and all, answers about each scene.

    Args:
        trained: False asks the same model with fresh random weights.
    """
    task, card = load_model(Path(results[start]["run"]))
    if not trained:
        torch.manual_seed(derive(0, "init"))
        task = card.task.build(card.info, card.path)
    figures: dict[str, Any] = {}
    for number, (scene, said) in enumerate(results["questions"].items()):
        report(number, len(results["questions"]), f"{scene} scene")
        asked = Eval(data=ChatDataConfig(jsonl=Path(said["jsonl"])), metric=AnswersConfig())
        found = evaluate(task, asked, torch.device("cpu"), batch=32)
        figures[scene] = {name: value if np.isfinite(value) else None for name, value in found.items()}
    return figures


def align(*, out: str, steps: int, results: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Teach projector and language model to read a backbone of random weights, which stays as it is."""
    run = pretrain_recipe.recipe(
        data=Path(results["data"]["true"]), size="small", vrl="off", steps=steps, freeze_backbone=True
    )
    return _train(run, Path(out), "align", report)


def pretrain(
    *, out: str, answers: str, vrl: str, steps: int, seed: int, results: Mapping[str, Any], report: Report
) -> dict[str, Any]:
    """Train everything on the instructions, from where `align` left off."""
    run = pretrain_recipe.recipe(
        data=Path(results["data"][answers]), size="small", vrl=vrl, steps=steps, seed=seed,  # ty: ignore[invalid-argument-type]
        start=Path(results["align"]["run"]),
    )  # fmt: skip
    run = run.model_copy(update={"log_every": 5})
    return _train(run, Path(out), f"pretrain-{answers}-{vrl}-{seed}", report)


def probe(*, start: str, draws: int, results: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """What the frozen backbone is worth with few labels of the test scene, as it is and under the control."""
    backbone = load_model(Path(results[start]["run"]))[0].backbone
    scene, image = _scene(trees().test)
    patches, labels = object_patches(image, scene.objects.boxes_xyxy, PATCH, seed=0)
    training, training_image = _scene(trees().train)
    elsewhere, _ = object_patches(training_image, training.objects.boxes_xyxy, PATCH, seed=0)
    report(0, 4, "patches")
    features = dense_features(backbone, patches).mean((1, 2))
    reference = statistics(dense_features(backbone, elsewhere).mean((1, 2)))
    out: dict[str, Any] = {
        "patch": label_efficiency(features, labels, draws=draws),
        "patch_control": label_efficiency(features, labels, draws=draws, reference=reference),
    }
    report(2, 4, "cells")
    out["dense"] = dense_probe(backbone, image, scene.objects.boxes_xyxy, DENSE_CROP, draws=draws, l2=3.0)
    report(4, 4)
    return out


def draw_scene(run_dir: Path, annotation: Path) -> Path:
    """A scene with as many of the best detections as it has objects."""
    scene, image = _scene(annotation)
    prediction = load(run_dir).predict(image)
    assert isinstance(prediction, BoxPrediction)
    ranked = prediction.objects.scores.sort(descending=True).values
    at = min(len(scene.objects), len(ranked)) - 1
    picture = draw_prediction(image, prediction, scene.objects, min_score=float(ranked[at]) if at >= 0 else 1.0)
    path = run_dir / "samples" / "test_scene.png"
    path.parent.mkdir(exist_ok=True)
    picture.save(path)
    return path


def draw_conversations(jsonl: Path, out: Path, most: int = 2) -> list[Path]:
    """A few conversations with the visual tokens that VRL keeps for their first question."""
    dataset = ChatDataConfig(jsonl=jsonl).build()
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    longest = sorted(range(min(40, len(dataset))), key=lambda index: -len(dataset.records[index].turns))
    for index in longest[:most]:
        sample = dataset.sample(index, seed=index)
        kept = keep_tokens(torch.ones(36, dtype=torch.bool), [36], PRESETS["paper"], [derive(sample.seed, "row", 0)])
        path = out / f"conversation_{index}.png"
        draw_conversation(sample, kept, (6, 6)).save(path)
        paths.append(path)
    return paths


def _scene(annotation: Path) -> tuple[Record, torch.Tensor]:
    record = read(annotation, "boxes")[0].records[0]
    return record, read_image(record.images[0])


def _train(run: Run, out: Path, name: str, report: Report) -> dict[str, Any]:
    # Named by what it is, so that a run of other settings is another directory and nothing is overwritten.
    digest = hashlib.sha256(run_to_yaml(run).encode()).hexdigest()[:8]
    directory = out / "runs" / f"{name}-{digest}"
    train_and_report(
        run, directory, on_step=lambda step, metrics: report(step, run.steps, f"loss {metrics['loss']:.3f}")
    )
    return {"run": str(directory)}
