"""`vistruct eval CLIP --data PATH`: a CLIP of others is measured as it is, and once more with adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from toy_clip import eva_clip_file, match_of, open_clip_file, transformers_folder

from vistruct.cli.main import main
from vistruct.data.captions import CaptionDataConfig
from vistruct.data.checks.learned import learned_images
from vistruct.data.reading import Worded
from vistruct.engine.train import train
from vistruct.recipes.clip import match, zero_shot
from vistruct.samples.made_classes import EUROSAT, eurosat_folder, resisc45_folder, texture

LORA = Path(__file__).parents[1] / "golden/visft_lora"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def told(capsys: Any, *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    said = capsys.readouterr()
    return int(caught.value.code or 0), said.out, said.err


def evaluated(capsys: Any, *words: object) -> dict[str, Any]:
    code, out, err = told(capsys, "eval", *words, "--json")
    assert code == 0, err
    (found,) = json.loads(out)["evaluations"].values()
    return found


def captioned(folder: Path, *, pictures: str = "pics", number: str = "{}.png") -> Path:
    """Six images with two captions each, as Karpathy's json has them."""
    images = []
    (folder / pictures).mkdir()
    for i, word in enumerate(("cat", "dog", "tree", "ship", "road", "roof")):
        Image.fromarray(texture(i, 0, 40)[:, :36]).save(folder / pictures / number.format(i))
        sentences = [{"raw": f"a {word}"}, {"raw": f"one {word} from above"}]
        own = {"filepath": pictures, "filename": number.format(i), "split": "test", "cocoid": i}
        images.append({**own, "sentences": sentences})
    file = folder / "dataset_coco.json"
    file.write_text(json.dumps({"dataset": "coco", "images": images}))
    return file


def test_classes_are_told_apart_as_by_hand(tmp_path: Path, capsys: Any) -> None:
    theirs, weights, described = open_clip_file(tmp_path)
    folder = eurosat_folder() / "2750"
    (tmp_path / "words.txt").write_text("a photo of a {}.\n\n{} from above\n")
    (tmp_path / "names.csv").write_text("SeaLake,sea,lake\nAnnualCrop,a field\n")
    more = ("--templates", tmp_path / "words.txt", "--texts", tmp_path / "names.csv")
    found = evaluated(capsys, weights, "--model", described, "--data", folder, *more)

    import open_clip

    names = {"AnnualCrop": ["a field"], "Forest": ["Forest"], "SeaLake": ["sea", "lake"]}
    vectors = []
    with torch.no_grad():
        for own in names.values():
            texts = [template.format(one) for one in own for template in ("a photo of a {}.", "{} from above")]
            mean = theirs.encode_text(open_clip.tokenize(texts), normalize=True).mean(dim=0)
            vectors.append(mean / mean.norm())
        shown = open_clip.image_transform(32, is_train=False)
        right = []
        for number, name in enumerate(names):
            for file in sorted((folder / name).iterdir()):
                image = theirs.encode_image(shown(Image.open(file))[None], normalize=True)
                right.append(int((image @ torch.stack(vectors).T).argmax()) == number)
    assert found["OA"] == pytest.approx(sum(right) / len(right))
    assert (tmp_path / "runs/eval-toy/evaluations/2750.json").is_file()


def test_captions_are_found_as_by_hand_and_long_ones_are_counted(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "siglip"
    folder.mkdir()
    transformers_folder(folder, "siglip")
    file = captioned(tmp_path)
    words = json.loads(file.read_text())
    words["images"][0]["sentences"][0]["raw"] = "cat " * 80
    file.write_text(json.dumps(words))
    found = evaluated(capsys, folder, "--data", file, "--split", "test")
    assert (found["images"], found["captions"], found["captions_cut"]) == (6, 12, 1)
    task = match_of(folder, tmp_path / "assets")
    data = CaptionDataConfig(annotation=file, split="test", resize=None).build()
    with torch.no_grad():
        said = task.clip.of_texts([text for record in data.records for text in record.captions])
    assert said.shape == (12, 32)
    assert 0 <= found["text_to_image_R@1"] <= found["text_to_image_R@5"] <= found["text_to_image_R@10"] == 1


@pytest.mark.parametrize(("model", "heads", "post"), [("g", 3, False), ("e", 2, True)])
def test_eva_clip_s_files_give_the_original_s_embeddings(golden: Any, tmp_path: Path, model, heads, post) -> None:
    folder = {"g": "visft_eva_g", "e": "visft_eva02_e"}[model]
    io, visual = golden(f"{folder}/io.safetensors"), dict(golden(f"{folder}/weights.safetensors").tensors)
    visual |= golden(f"{folder}/extra.safetensors").tensors
    width = visual["pos_embed"].shape[2]
    vision = {"image_size": 56, "width": width, "head_width": width // heads, "layers": 2 if post else 3}
    ratio = {"g": 4.3637, "e": 8.571428571428571}[model]
    weights, described = eva_clip_file(tmp_path, visual, "EVA.pt", **vision, mlp_ratio=ratio, postnorm=post)
    task = match_of(weights, tmp_path, str(described))
    images = torch.stack([io["a.image.0"], io["a.image.1"]])
    with torch.no_grad():
        found = task.clip.of_images(task.backbone.tokens(images))
    expected = torch.nn.functional.normalize(io[f"clip_{model}.embedding"], dim=1)
    assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_before_and_after_an_adapter_of_visft_are_paired_and_a_leak_is_said(golden: Any, tmp_path, capsys) -> None:
    tensors = dict(golden("visft_lora/visual.safetensors").tensors)
    torch.manual_seed(0)
    tensors |= {"cls_token": torch.randn(1, 1, 32), "head.weight": torch.randn(24, 32), "head.bias": torch.zeros(24)}
    vision = {"image_size": 28, "width": 32, "head_width": 16, "layers": 2, "mlp_ratio": 8.571428571428571}
    weights, described = eva_clip_file(tmp_path, tensors, "toy.pt", **vision, postnorm=True)
    file = captioned(tmp_path, pictures="val2014", number="COCO_val2014_{:012d}.png")
    words = (weights, "--model", described, "--data", file, "--split", "test")
    before = evaluated(capsys, *words)
    code, out, err = told(capsys, "eval", *words, "--lora", LORA / "eva_e_lora_500.pt", "--json")
    assert code == 0, err
    (found,) = json.loads(out)["evaluations"].values()
    assert {name: one["before"] for name, one in found.items()} == pytest.approx(before)
    rank = found["text_to_image_rank"]
    assert rank["after"] != rank["before"]
    assert (rank["over"], rank["count"]) == ("images", 6)
    assert rank["interval"][0] <= rank["difference"] <= rank["interval"][1]
    assert "6 of 6 images are COCO's" in err
    assert "6 of 6 images" not in told(capsys, "eval", *words)[2]


def test_images_of_no_coco_are_not_said_to_be_learned(tmp_path: Path) -> None:
    data = CaptionDataConfig(annotation=captioned(tmp_path), split="test").build()
    assert learned_images(LORA / "eva_e_lora_500.pt", data) == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "measured on data"),
        (("--data", "CLASSES"), "does not say which CLIP"),
        (("--data", "CLASSES", "--model", "JSON", "--templates", "a photo"), "no such file, and no template"),
        (("--data", "CLASSES", "--model", "ViT-B-16/openai"), "cannot hold"),
        (("--data", "WNIDS", "--model", "JSON"), "n00000000"),
    ],
)
def test_what_does_not_go_is_said_with_a_way_on(tmp_path: Path, capsys: Any, words, said) -> None:
    _, weights, described = open_clip_file(tmp_path)
    for number in range(2):
        folder = tmp_path / "wnids" / f"n0000000{number}"
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(folder / "a.png")
    places = {"CLASSES": eurosat_folder() / "2750", "JSON": described, "WNIDS": tmp_path / "wnids"}
    code, _, err = told(capsys, "eval", weights, *(places.get(word, word) for word in words))
    assert code == 2
    assert said in err
    assert "try:" in err


def test_a_run_of_it_trains_and_is_measured_on_other_classes_too(tmp_path: Path, capsys: Any) -> None:
    run = train(zero_shot.tiny(), tmp_path / "run")
    model = json.loads((run / "model/model.json").read_text())
    assert tuple(model["info"]["class_names"]) == EUROSAT
    found = evaluated(capsys, run, "--data", resisc45_folder(), "--split", "valid")
    assert {"OA", "recall/airplane", "recall/stadium"} <= found.keys()
    code, out, _ = told(capsys, "predict", run, eurosat_folder() / "2750/Forest", "--json")
    assert code == 0
    assert json.loads(out)["images"] == 5


def test_a_run_on_captions_trains_and_is_measured_by_retrieval(tmp_path: Path, capsys: Any) -> None:
    run = train(match.tiny(), tmp_path / "run")
    found = evaluated(capsys, run)
    assert found["captions"] == 2 * found["images"]
    code, out, _ = told(capsys, "predict", run, eurosat_folder() / "2750/Forest", "--json")
    assert code == 0
    assert (json.loads(out)["images"], json.loads(out)["width"]) == (5, 24)


def test_captions_among_all_texts_teach_a_clip_that_is_asked_zero_shot_before_and_after(
    tmp_path: Path, capsys: Any
) -> None:
    _, weights, described = open_clip_file(tmp_path)
    data, classes = captioned(tmp_path), eurosat_folder() / "2750"
    asked = Worded(model=str(described))
    run = match.recipe(data=data, clip=weights, split="test", among="bank", steps=2, batch=6, lr=0.01, worded=asked)
    found = train(run.model_copy(update={"workers": 0}), tmp_path / "run")
    assert len(json.loads((found / "model/text_bank.json").read_text())) == 12
    before = evaluated(capsys, weights, "--model", described, "--data", classes, "--templates", "a photo of a {}.")
    after = evaluated(capsys, found, "--data", classes, "--templates", "a photo of a {}.")
    assert before.keys() == after.keys()
    assert "OA" in after
