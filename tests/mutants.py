"""Sound small data sets of every format, and what may become of one on its way to us: a mutant.

A mutant is read as `vistruct check` reads it (or as weights, cards and archives are). What it ends with is counted:
read, an error of three lines, or a fault: a traceback, an end that never comes, or more memory than 2 GiB.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import tarfile
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import box_sets
import numpy as np
import question_sets
import rasterio
import samrs_sets
import tool_exports
import torch
from class_folders import class_folder, labelled_csv
from PIL import Image
from safetensors.torch import save_file

from vistruct.checkpoint.load import read_card
from vistruct.checkpoint.tensors import read_tensors
from vistruct.config import read_run
from vistruct.data.checks.check import check
from vistruct.errors import UserError
from vistruct.files.archive import unpack
from vistruct.files.tensor_header import read_header
from vistruct.samples import made_maps, made_scenes, made_volumes

HANGS_S = 20  # seconds for one mutant on a busy machine
MOST_BYTES = 2 * 2**30
NUMBERS = [
    "-1",
    "0",
    "1e23",
    "1e400",
    "-1e-320",
    "nan",
    "inf",
    "9" * 400,
    "9" * 5000,
    "0x10",
    "1_000",
    "",
    "x",
    "½",
    "1,5",
]
VALUES = [
    "null",
    "[]",
    "{}",
    '""',
    '"x"',
    "-1",
    "1e23",
    "1e999",
    "NaN",
    "9" * 5000,
    "true",
    "[[[[]]]]",
    "[" * 5000,
    '"\\ud800"',
]
NAMES = [
    "$\\frac$.png",
    "n" * 250,
    " ",
    "-x",
    "a\nb.png",
    "\udcff\udcfe.png",
    "..png",
    "CON",
    "a" * 120 + ".json",
    "é.png",
]


@dataclass(frozen=True)
class Ended:
    """What reading one mutant ended with."""

    seed: int
    name: str  # of the data set
    what: str  # how it was changed
    how: str  # "read", "refused", or what is wrong
    trace: str = ""


def _yolo(folder: Path) -> Path:
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(folder / "images" / split / f"{split}{number}.png")
            (folder / "labels" / split / f"{split}{number}.txt").write_text("0 0.5 0.5 0.2 0.3\n1 .25 .25 .1 .1\n")
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames:\n  0: a\n  1: b\n")
    return folder / "data.yaml"


def _xview(folder: Path) -> Path:
    (folder / "train_images").mkdir()
    Image.fromarray(np.full((64, 64, 3), 70, np.uint8)).save(folder / "train_images" / "1.tif")
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]},
            "properties": {"bounds_imcoords": "4,5,20,24", "type_id": kind, "image_id": "1.tif"},
        }
        for kind in (11, 18, 73)
    ]
    (folder / "xView_train.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return folder


def _chat(folder: Path) -> Path:
    Image.fromarray(np.full((32, 32, 3), 60, np.uint8)).save(folder / "a.jpg")
    turns = [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "A <ref>port</ref><box>[[1,2,30,40]]</box>."},
    ]
    rows = [{"id": n, "image": "a.jpg", "width": 32, "height": 32, "conversations": turns} for n in range(3)]
    (folder / "talk.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "talk.jsonl"


def _messages(folder: Path) -> Path:
    Image.fromarray(np.full((32, 32, 3), 60, np.uint8)).save(folder / "a.png")
    turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "That."}]
    (folder / "talk.json").write_text(json.dumps([{"images": ["a.png"], "messages": turns}] * 3))
    return folder / "talk.json"


def _mix(folder: Path) -> Path:
    _chat(folder)
    (folder / "mix.json").write_text(json.dumps({"one": {"root": ".", "annotation": "talk.jsonl", "repeat_time": 1}}))
    return folder / "mix.json"


def _lists(folder: Path) -> Path:
    (folder / "i").mkdir()
    for number in range(4):
        Image.fromarray(np.full((20, 20, 3), 50 * number, np.uint8)).save(folder / "i" / f"{number}.png")
    (folder / "train.txt").write_text("".join(f"i/{number}.png {number % 2}\n" for number in range(4)))
    return folder / "train.txt"


def _masks(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    for kind, most, shape in (("images", 255, (24, 24, 3)), ("masks", 2, (24, 24))):
        (folder / kind).mkdir()
        for name in "abc":
            Image.fromarray(generator.integers(0, most, shape, np.uint8)).save(folder / kind / f"{name}.png")
    return folder


def _second(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    for kind, shape in (("im1", (24, 24, 3)), ("im2", (24, 24, 3)), ("label1", (24, 24)), ("label2", (24, 24))):
        (folder / kind).mkdir()
        for name in "ab":
            Image.fromarray(generator.integers(0, 2, shape, np.uint8)).save(folder / kind / f"{name}.png")
    return folder


def _on_map(folder: Path) -> Path:
    place = {"crs": "EPSG:32612", "transform": rasterio.Affine(0.1, 0, 5e5, 0, -0.1, 4e6)}
    with rasterio.open(
        folder / "scene.tif", "w", driver="GTiff", width=64, height=64, count=3, dtype="uint8", **place
    ) as file:
        file.write(np.full((3, 64, 64), 90, np.uint8))
    ring = [[5e5 + x, 4e6 - y] for x, y in ((1, 1), (3, 1), (3, 3), (1, 3), (1, 1))]
    one = {"type": "Feature", "properties": {"class": "a"}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32612"}}
    (folder / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [one, one]}))
    return folder


def _header_and_voxels(suffix: str, header: Callable[[str], str]) -> Callable[[Path], Path]:
    """Two cases of volumes whose headers are text."""

    def make(folder: Path) -> Path:
        for kind, dtype, word in (("images", np.int16, "short"), ("labels", np.uint8, "uchar")):
            (folder / kind).mkdir()
            for number, name in enumerate("ab"):
                voxels = np.random.default_rng(number).integers(0, 2, (4, 5, 6)).astype(dtype)
                (folder / kind / f"{name}{suffix}").write_bytes(header(word).encode() + voxels.tobytes())
        return folder

    return make


def _nrrd_header(word: str) -> str:
    return (
        f"NRRD0004\ntype: {word}\ndimension: 3\nspace: left-posterior-superior\nsizes: 6 5 4\nencoding: raw\n"
        "endian: little\nspace directions: (1,0,0) (0,1,0) (0,0,2)\nspace origin: (0,0,0)\n\n"
    )


def _mha_header(word: str) -> str:
    return (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
        "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 1 2\nDimSize = 6 5 4\n"
        f"ElementType = MET_{word.upper()}\nElementDataFile = LOCAL\n"
    )


def _dicom(folder: Path) -> Path:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    for patient in "ab":
        (folder / patient).mkdir()
        uid = generate_uid(entropy_srcs=[patient])
        for number in range(3):
            meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
            meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[patient, str(number)])
            file = folder / patient / f"{number}.dcm"
            one = FileDataset(str(file), {}, file_meta=meta, preamble=b"\0" * 128)
            one.SOPClassUID, one.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
            one.SeriesInstanceUID, one.PatientID, one.Modality = uid, patient, "CT"
            one.Rows, one.Columns, one.SamplesPerPixel, one.PhotometricInterpretation = 5, 6, 1, "MONOCHROME2"
            one.BitsAllocated = one.BitsStored = 16
            one.HighBit, one.PixelRepresentation = 15, 1
            one.PixelSpacing, one.ImageOrientationPatient = [1, 1], [1, 0, 0, 0, 1, 0]
            one.ImagePositionPatient = [0, 0, 2 * number]
            one.PixelData = np.full((5, 6), 40 * number, np.int16).tobytes()
            one.save_as(file, enforce_file_format=True)
    return folder


def _export(layout: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        tool_exports.LAYOUTS[layout][1](folder)
        return folder

    return make


def _weights(folder: Path) -> Path:
    save_file(
        {"a": torch.zeros(2, 3), "b": torch.ones(4)}, folder / "w.safetensors", metadata={"aliases": '{"c": "a"}'}
    )
    return folder / "w.safetensors"


def _run(folder: Path) -> Path:
    from vistruct.config import run_to_yaml
    from vistruct.recipes import detect

    (folder / "run.yaml").write_text(run_to_yaml(detect.tiny()))
    return folder / "run.yaml"


def _card(folder: Path) -> Path:
    from vistruct.recipes import detect

    run = detect.tiny()
    info = {
        "class_names": ["a"], "palette": None, "channels": 3, "pixels": "uint8", "mean": [1.0, 2.0, 3.0], "std": None,
        "input": {}, "num_records": 1, "fingerprint": "0", "counts": {"a": 1}, "dropped": {},
    }  # fmt: skip
    task = run.only.task.model_dump(mode="json")
    whole = {"format": 2, "task": task, "info": info, "input": {"channels": 3}, "sha256": "0", "stream": "main"}
    (folder / "model.json").write_text(json.dumps(whole | {"run": run.model_dump(mode="json")}))
    return folder


def _zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"d/{number}.txt", f"{number}" * 300)
    return folder / "x.zip"


def _tar(folder: Path) -> Path:
    with tarfile.open(folder / "x.tar.gz", "w:gz") as archive:
        for number in range(4):
            entry = tarfile.TarInfo(f"d/{number}.txt")
            entry.size = 300
            archive.addfile(entry, io.BytesIO(b"7" * 300))
    return folder / "x.tar.gz"


def _copied(made: Callable[[], Path], below: str = "") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        shutil.copytree(made(), folder, dirs_exist_ok=True)
        return folder / below

    return make


def _box_set(make: Callable[[Path], Any]) -> Callable[[Path], Path]:
    return lambda folder: make(folder / "set").root


def _samrs(folder: Path) -> Path:
    made = samrs_sets.make_sota(folder)
    (folder / "trainval" / "train.txt").write_text("\n".join(made.truth))
    return folder


def _samrs_json(folder: Path) -> Path:
    made = samrs_sets.make_sota(folder)
    samrs_sets.write_json(made, "train", list(made.truth))
    shutil.rmtree(made.segs / "ins")
    return folder


def _look(path: Path) -> object:
    return check(path)


def _read_weights(path: Path) -> object:
    return read_header(path), read_tensors(path)


def _unpack(path: Path) -> object:
    return unpack(path, path.parent / "to", max_bytes=2**24)


MADE: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "coco": (_copied(lambda: made_scenes.coco_folder(("a", "b"), "annotations", "images/{split}", True)), _look),
    "dota": (_box_set(box_sets.make_dota), _look),
    "voc": (_box_set(box_sets.make_voc), _look),
    "dior": (_box_set(box_sets.make_dior), _look),
    "dior_r": (_box_set(box_sets.make_dior_r), _look),
    "fair1m": (_box_set(box_sets.make_fair1m), _look),
    "hrsc": (_box_set(box_sets.make_hrsc), _look),
    "ssdd": (_box_set(box_sets.make_ssdd), _look),
    "sardet": (_box_set(box_sets.make_sardet), _look),
    "samrs": (_samrs, _look),
    "samrs json": (_samrs_json, _look),
    "samrs xml": (lambda folder: samrs_sets.make_sior(folder).root, _look),
    "yolo": (_yolo, _look),
    "xview": (_xview, _look),
    "chat": (_chat, _look),
    "messages": (_messages, _look),
    "mix": (_mix, _look),
    "vqa": (question_sets.vqa, _look),
    "gqa": (question_sets.gqa, _look),
    "vizwiz": (question_sets.vizwiz, _look),
    "textvqa": (question_sets.text_vqa, _look),
    "list": (_lists, _look),
    "csv": (_copied(labelled_csv), _look),
    "class folders": (_copied(class_folder), _look),
    "masks": (_masks, _look),
    "loveda": (_copied(made_maps.loveda_folder), _look),
    "isaid": (_copied(made_maps.isaid_folder), _look),
    "uavid": (_copied(made_maps.uavid_folder), _look),
    "levir": (_copied(made_maps.levir_folder), _look),
    "s2looking": (_copied(made_maps.s2looking_folder), _look),
    "amos": (_copied(made_volumes.amos_folder), _look),
    "brats": (_copied(made_volumes.brats_folder), _look),
    "covid": (_copied(made_volumes.covid_folder), _look),
    "second": (_second, _look),
    "geojson": (_on_map, _look),
    "nrrd": (_header_and_voxels(".nrrd", _nrrd_header), _look),
    "mha": (_header_and_voxels(".mha", _mha_header), _look),
    "dicom": (_dicom, _look),
    **{layout: (_export(layout), _look) for layout in tool_exports.LAYOUTS},
    "weights": (_weights, _read_weights),
    "run": (_run, read_run),
    "card": (_card, read_card),
    "zip": (_zip, _unpack),
    "tar": (_tar, _unpack),
}  # fmt: skip


def sound(folder: Path, names: list[str] | None = None) -> dict[str, Path]:
    """Each data set in a folder of its own; where to read it."""
    places = {}
    for name in names or MADE:
        (folder / name).mkdir(parents=True)
        places[name] = MADE[name][0](folder / name)
    return places


def mutated(root: Path, chance: random.Random) -> str:
    """Change one or two files below a folder; what was done."""
    done = []
    for _ in range(chance.choice((1, 1, 2))):
        files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
        if not files:
            break
        texts = [path for path in files if path.suffix in _TEXTS]
        file = chance.choice(texts if texts and chance.random() < 0.6 else files)
        changes = [_flip, _cut, _zero, _repeat, _place]
        if file in texts:
            changes += [_number, _number, _word, _line, _value, _value, _value, _coding, _key]
        change = chance.choice(changes)
        change(file, chance)
        done.append(f"{change.__name__.strip('_')} {file.relative_to(root)}")
    return "; ".join(done)


_TEXTS = {".nrrd", ".mha", ".json", ".jsonl", ".txt", ".xml", ".yaml", ".csv", ".geojson", ".tsv"}


def _flip(file: Path, chance: random.Random) -> None:
    data = bytearray(file.read_bytes())
    early = chance.random() < 0.5  # headers are where it hurts
    for _ in range(chance.choice((1, 3, 20))):
        if data:
            data[chance.randrange(min(len(data), 400) if early else len(data))] = chance.randrange(256)
    file.write_bytes(data)


def _cut(file: Path, chance: random.Random) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: chance.choice((0, 1, 8, chance.randrange(len(data) + 1)))])


def _zero(file: Path, chance: random.Random) -> None:
    data, at = bytearray(file.read_bytes()), chance.randrange(file.stat().st_size + 1)
    data[at : at + 64] = bytes(64)
    file.write_bytes(data)


def _repeat(file: Path, chance: random.Random) -> None:
    data = file.read_bytes()
    at = chance.randrange(len(data) + 1)
    file.write_bytes(data[:at] + data[max(0, at - 100) : at] * 5 + data[at:])


def _place(file: Path, chance: random.Random) -> None:
    """Another thing in its place, or another name."""
    kind = chance.choice(("name", "name", "gone", "folder", "circle", "pipe", "locked"))
    if kind == "name":
        with contextlib.suppress(OSError):
            file.rename(file.with_name(chance.choice(NAMES)))
        return
    if kind == "locked":
        file.chmod(0)
        return
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "circle":
        file.symlink_to(file.name)
    elif kind == "pipe" and file.suffix not in _TEXTS:  # annotations may come through one: <(...) of a shell
        os.mkfifo(file)


def _text(file: Path) -> str:
    return file.read_bytes().decode("utf-8", "surrogateescape")


def _write(file: Path, text: str) -> None:
    file.write_bytes(text.encode("utf-8", "surrogateescape"))


def _swap(file: Path, chance: random.Random, pattern: str, by: list[str]) -> None:
    text = _text(file)
    found = list(re.finditer(pattern, text))
    if found:
        hit = chance.choice(found)
        _write(file, text[: hit.start()] + chance.choice(by) + text[hit.end() :])


def _number(file: Path, chance: random.Random) -> None:
    _swap(file, chance, r"-?\d+(\.\d+)?", NUMBERS)


def _word(file: Path, chance: random.Random) -> None:
    _swap(file, chance, r"[A-Za-z_]{3,}", ["", "x" * 3000, "\x00", "$a$", "../../x", "/etc/passwd", "<", '"', "\udcff"])


def _line(file: Path, chance: random.Random) -> None:
    lines = _text(file).split("\n")
    at = chance.randrange(len(lines))
    lines[at : at + 1] = chance.choice(([], [lines[at]] * 3, [lines[at] * 50], ["{"], [","], ["\t"]))
    _write(file, "\n".join(lines))


def _value(file: Path, chance: random.Random) -> None:
    _swap(file, chance, r'(?<=: )("[^"]*"|-?[\d.]+|\[[^\[\]]*\]|\{[^{}]*\})', VALUES)


def _key(file: Path, chance: random.Random) -> None:
    _swap(file, chance, r'"\w+"(?=:)', ['"x"', "3", '"id"', "null"])


def _coding(file: Path, chance: random.Random) -> None:
    data = _text(file)
    file.write_bytes(data.encode(chance.choice(("utf-16", "utf-8-sig", "utf-32")), "replace"))


def ended(name: str, sounds: Path, place: Path, seed: int, scratch: Path) -> Ended:
    """Make one mutant, read it, and say how that ended."""
    chance = random.Random(seed)
    root = scratch / f"m{seed}"
    shutil.copytree(sounds / name, root, symlinks=True)
    what = "?"
    try:
        what = mutated(root, chance)
        _limited(lambda: MADE[name][1](root / place.relative_to(sounds / name)))
        return Ended(seed, name, what, "read")
    except UserError as error:
        how = "refused" if error.what and error.where else "refused without a place"
        return Ended(seed, name, what, how, "" if how == "refused" else str(error))
    except BaseException as error:  # noqa: BLE001  # whatever it is, is what is looked for
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "/vistruct/" in frame.filename and "site-packages" not in frame.filename]
        at = f"{ours[-1].filename.rpartition('/vistruct/')[2]}:{ours[-1].lineno}" if ours else "?"
        return Ended(seed, name, what, f"{type(error).__name__} at {at}", traceback.format_exc()[-1500:])
    finally:
        shutil.rmtree(root, ignore_errors=True)


class Hangs(BaseException):
    """It did not come to an end; no `except Exception` may catch it."""


def _limited(work: Callable[[], object]) -> None:
    def ring(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(HANGS_S)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            work()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(
    sounds: Path, places: dict[str, Path], seeds: Iterator[int], scratch: Path, *, batch: int = 40
) -> Iterator[Ended]:
    """Mutants in forked processes of `batch` each: one that hangs in a library, dies, or takes too much is told too."""
    names = list(places)
    todo = list(seeds)
    while todo:
        told: list[Ended] = []
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _child(writing, todo[:batch], names, sounds, places, scratch)
        os.close(writing)
        with os.fdopen(reading, "rb", buffering=0) as lines:  # what a buffer held, select would not see
            while select.select([lines], [], [], 2 * HANGS_S)[0] and (line := lines.readline()):
                told.append(Ended(**json.loads(line)))
                yield told[-1]
        if len(told) < len(todo[:batch]):  # it may hang where no signal reaches it
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        done = len(told)
        if done < len(todo[:batch]):
            seed = todo[done]
            yield Ended(seed, names[seed % len(names)], "?", f"process ended: {os.waitstatus_to_exitcode(status)}")
            done += 1
        todo = todo[done:]


def _child(
    writing: int, seeds: list[int], names: list[str], sounds: Path, places: dict[str, Path], scratch: Path
) -> None:
    with os.fdopen(writing, "w") as out:
        for seed in seeds:
            name = names[seed % len(names)]
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            one = ended(name, sounds, places[name], seed, scratch)
            taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            if taken > MOST_BYTES:
                one = Ended(seed, name, one.what, f"took {taken / 2**30:.1f} GiB")
            out.write(json.dumps(vars(one)) + "\n")
            out.flush()
    os._exit(0)
