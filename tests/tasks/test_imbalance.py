"""Class weights and focal losses: scikit-learn, torch and torchvision as references, and what recipes make of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from test_classify import NAMES, batch_of, build, picture
from torchvision.ops import sigmoid_focal_loss
from whole_loss import task_loss

from vistruct.config import with_values
from vistruct.contracts import DataInfo
from vistruct.data.class_pixels import with_pixel_counts
from vistruct.engine.introduce import introduce
from vistruct.engine.run import build as build_run
from vistruct.errors import UserError
from vistruct.heads.imbalance import focal_cross_entropy, inverse_frequency, numbers_of, positive_weights
from vistruct.recipes import change, classify, segment
from vistruct.recipes.imbalance import Imbalance, weights_asked
from vistruct.samples import trees
from vistruct.samples.made_classes import eurosat_folder
from vistruct.samples.made_maps import levir_folder, loveda_folder
from vistruct.tasks.classify import ClassifyConfig


def test_inverse_frequency_is_scikit_learns_balanced():
    labels = np.repeat([0, 1, 3], [70, 4, 1])
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    found = inverse_frequency(np.bincount(labels, minlength=5).tolist())
    np.testing.assert_allclose([found[0], found[1], found[3]], expected)
    assert found[2] == found[4] == 1.0  # of no sample
    assert sum(w * n for w, n in zip(found, [70, 4, 0, 1, 0], strict=True)) == pytest.approx(75)


def test_a_softmax_of_two_classes_is_torchvisions_focal_loss():
    generator = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(20, generator=generator)
    labels = torch.randint(0, 2, (20,), generator=generator)
    expected = sigmoid_focal_loss(z, labels.float(), alpha=-1, gamma=1.5)
    found = focal_cross_entropy(torch.stack([torch.zeros(20), z], dim=1), labels, gamma=1.5)
    torch.testing.assert_close(found, expected)


def test_weights_by_name_file_and_order(tmp_path):
    named = tmp_path / "weights.yaml"
    named.write_text("green: 5\n")
    for text in ("green=5", str(named)):
        asked = weights_asked(Imbalance(class_weights=text))
        assert numbers_of(asked, NAMES, None, "here") == (1.0, 5.0, 1.0)
    assert weights_asked(Imbalance()) is None
    mistakes = {"greeen=5": "did you mean 'green'", "green=x": "no weight", "nothing.json": "no such file"}
    for text, said in mistakes.items():
        with pytest.raises(UserError, match=said):
            numbers_of(weights_asked(Imbalance(class_weights=text)), NAMES, None, "here")
    with pytest.raises(UserError, match="not counted"):
        numbers_of("balanced", NAMES, None, "here")


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_several_classes_an_image_weigh_positives_as_torch_does(gamma):
    torch.manual_seed(0)
    plain = build(multi_label=True)
    info = DataInfo(class_names=NAMES, counts={"red": 1, "green": 8, "blue": 0}, num_records=10)
    config = plain.config.model_copy(update={"class_weights": "balanced", "focal_gamma": gamma})
    task = config.build(info, Path())
    task.load_state_dict(plain.state_dict())
    assert positive_weights([1, 8, 0], 10) == (9.0, 0.25, 1.0)
    assert "red 9, green 0.25" in task.traits.remarks[0]
    batch = batch_of(task, picture(0, (0, 2)), picture(1, ()), picture(2, (1,)))
    logits = task.logits(batch.images)
    weights = torch.tensor([9.0, 0.25, 1.0])
    expected = F.binary_cross_entropy_with_logits(logits, batch.targets, pos_weight=weights, reduction="none")
    right = torch.where(batch.targets > 0, logits.sigmoid(), 1 - logits.sigmoid())
    torch.testing.assert_close(task_loss(task, batch).loss, (expected * (1 - right) ** gamma).mean())


def test_a_batch_cut_in_two_has_the_same_gradient():
    info = DataInfo(class_names=NAMES, counts={"red": 1, "green": 8, "blue": 3}, num_records=12)
    config: ClassifyConfig = build().config.model_copy(update={"class_weights": "balanced", "focal_gamma": 2.0})
    task: Any = config.build(info, Path())
    whole = batch_of(task, *(picture(i, (i % 3,)) for i in range(5)))
    parts = [batch_of(task, *(picture(i, (i % 3,)) for i in some)) for some in (range(1), range(1, 5))]
    gradients = []
    for batches in ([whole], parts):
        task.zero_grad()
        units = sum(float(task.units(batch)["classes"]) for batch in batches)
        for batch in batches:
            (task(batch).terms["classes"] / units).backward()
        gradients.append([p.grad.clone() for p in task.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def counted(dataset: Any) -> list[int]:
    truths = [dataset.truth(index).flatten() for index in range(len(dataset))]
    return [int(sum((truth == number).sum() for truth in truths)) for number in range(len(dataset.info.class_names))]


@pytest.mark.parametrize("painted", [False, True])
def test_balanced_segmenters_count_their_training_pixels_and_say_so_once(tmp_path, painted):
    imbalance = Imbalance(class_weights="balanced", loss="focal")
    options: dict[str, Any] = {"imbalance": imbalance, "steps": 3, "size": 64, "overlap": 16}
    if painted:
        from vistruct.data.reading import Reading

        run = segment.recipe(data=trees().train, reading=Reading(fill="boxes"), **options)
    else:
        run = segment.recipe(data=loveda_folder(), split="train", **options)
    state = build_run(with_values(segment.made_tiny(run)), tmp_path)
    source = state.only
    loss = source.task.config.loss
    assert loss.focal_gamma == 2.0
    whole: Any = source.dataset  # of painted objects the windows are read, of label maps the files were counted
    if not painted:
        whole = replace(whole, records=whole.whole_records)
    counts = counted(whole)
    assert loss.class_weights == pytest.approx(inverse_frequency(counts))
    read = with_pixel_counts(replace(whole, class_pixels=None), tmp_path)  # as of data that have not counted them
    assert read.info.pixel_counts == tuple(counts)
    assert with_pixel_counts(replace(whole, class_pixels=None), tmp_path).info.pixel_counts == tuple(counts)
    said: list[str] = []
    introduce(state, said.append)
    assert sum("class weights (balanced: inverse frequency of the training pixels)" in line for line in said) == 1


def test_recipes_pass_it_on_and_refuse_what_does_not_fit():
    imbalance = Imbalance(class_weights="changed=4", loss="focal", focal_gamma=1.0)
    found = change.recipe(data=levir_folder(), split="train", imbalance=imbalance).only.task.loss
    assert (found.class_weights, found.focal_gamma) == ({"changed": 4.0}, 1.0)
    classified = classify.recipe(
        data=eurosat_folder(), train_fraction=0.6, imbalance=Imbalance(class_weights="balanced")
    )
    assert classified.only.task.class_weights == "balanced"
    with pytest.raises(UserError, match="loss of its own"):
        segment.recipe(data=loveda_folder(), split="train", head="mask2former", imbalance=imbalance)
    with pytest.raises(UserError, match="no focal loss"):
        segment.recipe(data=loveda_folder(), split="train", imbalance=Imbalance(focal_gamma=3.0))
