"""Classes told by their names: GLIP's formula, two sets of boxes with different classes, and names never learned."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from toy_clip import OPEN_CLIP, TEXT, shuffled
from toy_pixels import CellsConfig
from whole_loss import task_loss

from vistruct.checkpoint.parts import load_parts
from vistruct.config import run_from_dict
from vistruct.contracts import DataInfo, FeatureSpec, Objects, Sample
from vistruct.errors import UserError
from vistruct.heads.by_name import ByName
from vistruct.heads.fcos import FcosConfig
from vistruct.recipes import detect
from vistruct.samples import trees
from vistruct.tasks.dense import Detect, DetectConfig
from vistruct.tasks.joint import share_trunk
from vistruct.tasks.names import NamesConfig, in_words
from vistruct.vlm.text_tower import TextConfig

COLOURS = {"red": (230, 30, 30), "green": (30, 230, 30), "blue": (30, 30, 230), "white": (230, 230, 230)}
COLOURS |= {"yellow": (230, 230, 30), "cyan": (30, 230, 230)}
LIKE = {"crimson": (210, 20, 60), "lime": (50, 205, 50), "ivory": (255, 255, 230), "navy": (20, 10, 190)}
LIKE |= {"gold": (240, 215, 40), "aqua": (60, 230, 215)}  # never learned: red, green, white, blue, yellow, cyan nearly


class Colours(nn.Module):
    """Names -> what they look like, as a text tower of CLIP nearly knows."""

    config = SimpleNamespace(text=SimpleNamespace(width=3), trains=False)

    def forward(self, class_names: tuple[str, ...]) -> Tensor:
        return F.normalize(torch.tensor([(COLOURS | LIKE)[name] for name in class_names]).float() - 128, dim=1)


def detector(class_names: tuple[str, ...]) -> Detect:
    torch.manual_seed(0)
    head = FcosConfig(num_convs=1, name_width=3, score_threshold=0.2)
    config = DetectConfig(backbone=CellsConfig(cell=4, width=32), head=head, mean=(0.5,) * 3, std=(0.3,) * 3)
    return Detect(config, class_names, names=Colours())  # ty: ignore[invalid-argument-type]


def squares(seed: int, shown: tuple[str, ...], learned: tuple[str, ...]) -> Sample:
    """A square of each colour, one beside the other, with boxes of those that are learned alone."""
    draw = torch.Generator().manual_seed(seed)
    image = torch.full((3, 16, 16 * len(shown)), 60, dtype=torch.uint8)
    boxes, labels = [], []
    for at, name in enumerate(shown):
        x, y = (int(torch.randint(0, 5, (), generator=draw)) for _ in range(2))
        image[:, y : y + 12, 16 * at + x : 16 * at + x + 12] = torch.tensor(COLOURS[name])[:, None, None]
        if name in learned:
            boxes.append([16 * at + x, y, 16 * at + x + 12, y + 12])
            labels.append(learned.index(name))
    objects = Objects(
        boxes_xyxy=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
    )
    return Sample(id=f"{seed}", image_id=f"{seed}", seed=seed, images=[image], objects=objects)


def test_a_class_is_scored_by_glips_formula_place_by_place() -> None:
    torch.manual_seed(1)
    layer = ByName(5, 4, prior=0.01)
    for parameter in (layer.log_scale, layer.of_name):
        nn.init.normal_(parameter)
    v, t = torch.randn(2, 5, 3, 2), F.normalize(torch.randn(3, 4), dim=1)
    found = layer(v, t)
    assert layer.bias.item() == pytest.approx(math.log(0.01 / 0.99))
    w, b = layer.project.weight, layer.project.bias
    for image, row, column, k in ((0, 0, 0, 0), (1, 2, 1, 2), (0, 1, 0, 1)):
        seen = v[image, :, row, column] @ (w @ (t[k] / 2) + b) / math.exp(layer.log_scale.item())
        expected = seen + t[k] @ layer.of_name + layer.bias
        torch.testing.assert_close(found[image, row * 2 + column, k], expected)
    layer.bias.data.fill_(1e6)
    assert float(layer(v, t).detach().max()) == 50_000
    head: Any = FcosConfig(num_convs=1, name_width=4).build((FeatureSpec(channels=16, stride=4),), 9)
    one = head([torch.randn(1, 16, 3, 2)], None, t)
    assert one.logits.shape == (1, 6, 3)  # as many as there are names, not nine
    assert head.traits.class_layers == ()


def test_two_sets_with_other_classes_learn_together_and_names_never_learned_are_found() -> None:
    sets = {"a": ("red", "green", "white"), "b": ("blue", "yellow", "cyan")}
    tasks = {name: detector(classes) for name, classes in sets.items()}
    share_trunk(tasks["b"], tasks["a"], "trunk")
    assert all(p is q for p, q in zip(tasks["a"].head.parameters(), tasks["b"].head.parameters(), strict=True))
    tasks["b"].backbone = tasks["a"].backbone
    optim = torch.optim.AdamW(tasks["a"].parameters(), lr=1e-2)
    every = sets["a"] + sets["b"]  # all images show all six; those of the other set have no box there
    batches = {
        name: [task.collator([squares(2 * k + i, every, sets[name]) for i in range(2)]) for k in range(8)]
        for name, task in tasks.items()
    }
    for step in range(60):
        optim.zero_grad()
        for name, task in tasks.items():
            task_loss(task, batches[name][step % 8]).loss.backward()
        optim.step()
    model = tasks["a"].eval()
    for asked in (every, tuple(LIKE)):
        assert model.traits.take_classes is not None
        model.traits.take_classes(asked)
        assert model.traits.class_names == asked
        right = dict.fromkeys(asked, 0)
        for seed in range(900, 905):
            found = model.predict(model.collator([squares(seed, every, ())]))[0].objects
            place = found.boxes_xyxy[:, [0, 2]].mean(dim=1) // 16
            for at, name in enumerate(right):
                best = found.labels[place == at]  # best score first
                right[name] += bool(len(best)) and int(best[0]) == at
        assert all(number >= 4 for number in right.values()), right


def test_the_recipe_takes_the_text_tower_of_a_clip(tmp_path: Path) -> None:
    import open_clip

    theirs = shuffled(open_clip.CLIP(**OPEN_CLIP))
    described = {"model_cfg": OPEN_CLIP, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    save_file(theirs.state_dict(), tmp_path / "open_clip_model.safetensors")
    run = detect.recipe(data=trees().train, names=tmp_path, channels=16)
    task = run.only.task.model_copy(update={"backbone": CellsConfig(cell=8), "neck": None})
    built: Any = task.build(DataInfo(class_names=("palm_tree", "ship")), tmp_path)
    assert load_parts(built, run.only.start_parts, None).fresh == ()  # ty: ignore[unresolved-attribute]
    with torch.no_grad():
        expected = theirs.encode_text(open_clip.tokenize(["palm tree", "ship"]), normalize=True)
        found = built.names(("palm_tree", "ship"))
    torch.testing.assert_close(found, expected)
    assert built.traits.still == ("names",)
    assert not found.requires_grad
    assert run_from_dict(run.model_dump(mode="json")) == run
    learns: Any = detect.recipe(data=trees().train, names=tmp_path, names_learn=True).only.task.names
    reads = learns.build(tmp_path)
    reads(("ship",)).sum().backward()
    assert reads.text.model.text_projection.grad is not None


def test_numbered_classes_have_the_rest_of_an_fcos_in_common() -> None:
    def numbered(class_names: tuple[str, ...]) -> Detect:
        config = DetectConfig(backbone=CellsConfig(cell=8), head=FcosConfig(num_convs=1))
        return config.build(DataInfo(class_names=class_names), Path())

    one, other = numbered(("a", "b")), numbered(("c",))
    share_trunk(one, other, "trunk")
    own = {name for name, p in one.head.named_parameters() if p is not dict(other.head.named_parameters())[name]}
    assert own == {f"layers.classification_head.cls_logits.{kind}" for kind in ("weight", "bias")}


def test_wrong_names_are_refused(tmp_path: Path) -> None:
    text = TextConfig(options=TEXT, width=24)
    with pytest.raises(UserError, match="has outputs for numbered classes") as caught:
        detect.recipe(data=trees().train, head="retina", names=tmp_path)
    assert caught.value.fix == "--head fcos"
    (tmp_path / "clip.pt").touch()
    with pytest.raises(UserError, match="does not say how its text tower is built"):
        detect.recipe(data=trees().train, names=tmp_path / "clip.pt")
    with pytest.raises(UserError, match=r"has \{\} once"):
        NamesConfig(text=text, templates=("a ship",)).build(tmp_path)
    config = DetectConfig(backbone=CellsConfig(), head=FcosConfig(name_width=24))
    with pytest.raises(UserError, match="names are read as vectors of None, and the head takes 24"):
        config.build(DataInfo(class_names=("a",)), tmp_path)
    assert in_words(("a_b",), ("the {}.",), {}) == [["the a b."]]
    assert in_words(("x",), ("{}", "no {}"), {"x": ("y", "z")}) == [["y", "no y", "z", "no z"]]
