"""What a model found in an image, together with the image: saved, shown and converted; and the results of many images.

    found = vistruct.load("runs/det").predict("port.tif")
    found.prediction                       # a dataclass of contracts/predictions.py
    found.save("out/port.geojson")         # what `vistruct predict --format geojson` writes, by the same code

Nothing here knows a kind of prediction: how one is drawn, written and converted its `Kind` says.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistruct.errors import UserError
from vistruct.files.json_files import read_cached
from vistruct.files.owned import Owned
from vistruct.files.text import write_text
from vistruct.inference.files import ALL, Results, chosen_formats, looked_at, predict_files
from vistruct.inference.kind import Asked, Done, EachFile, OneFile
from vistruct.inference.scenes import Case

if TYPE_CHECKING:
    from PIL import Image

    from vistruct.inference.model import Model

SHOWN = 2048  # pixels: the longest side of a picture in a notebook


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """A prediction, the image (pair, volume) that it is about, and the model that made it."""

    prediction: Any  # of `model.kind.prediction`, a dataclass of contracts/predictions.py
    case: Case
    model: Model
    asked: Asked

    def __repr__(self) -> str:
        return f"{self.name}: {self.summary}"

    @property
    def name(self) -> str:
        """That of the image's file; of an image in memory its number."""
        return self.case.name

    @property
    def summary(self) -> str:
        """What `vistruct predict` prints of it."""
        return "\n".join(self.model.kind.tell(self.model, [self._done]).lines)

    @property
    def _done(self) -> Done:
        values = self.model.kind.pack(self.case, self.prediction)
        return Done(case=self.case, values=values, read=lambda: self.prediction, is_all=self.asked.is_all)

    def save(self, path: str | Path, *, format: str | Sequence[str] = ()) -> Path:
        """Write files of the formats of `vistruct predict --format`.

        Args:
            path: a folder, which gets the files that `vistruct predict --out` puts there; or one file, if it has an
                ending: its format is then known by that, or named. A file is replaced.
            format: one name or several; none: the usual ones of this kind of prediction; "all".

        Returns:
            The file, or the folder.

        Raises:
            UserError: a format that this kind does not have, or that cannot hold these names or classes; an ending
                that is of no format, or of several; in a folder a file that vistruct did not write, or one about
                another image.
            OSError: the disk is full, or the place may not be written.
        """
        names = (format,) if isinstance(format, str) else tuple(format)
        place = Path(path)
        return self._save_file(place, names) if place.suffix and not place.is_dir() else self._save_in(place, names)

    def show(self) -> Image.Image:
        """The image with what was found in it, as `vistruct predict` writes it to pictures/.

        Raises:
            UserError: a kind of prediction that has no picture.
        """
        draw = self.model.kind.picture
        if draw is None:
            what = f"a model of {self.model.kind.name} has no pictures"
            raise UserError(what, where="show", fix="look at .prediction")
        return draw(self.model, self.case, self.prediction, self.asked)

    def _repr_png_(self) -> bytes | None:
        """How notebooks show it."""
        if self.model.kind.picture is None:
            return None
        picture, file = self.show(), io.BytesIO()
        picture.thumbnail((SHOWN, SHOWN))
        picture.save(file, format="PNG")
        return file.getvalue()

    def to_geojson(self) -> dict[str, Any]:
        """A FeatureCollection of outlines: in the coordinates of the scene, with `crs`; of an image that lies nowhere
        in its pixels, y down, which `description` says.

        Raises:
            UserError: a kind of prediction without outlines; a raster, and no rasterio to say where it lies.
        """
        return self._json("geojson")

    def to_coco(self) -> dict[str, Any]:
        """COCO's json about this image, a score on each annotation.

        Raises:
            UserError: a kind of prediction without objects.
        """
        return self._json("coco")

    def to_supervision(self) -> Any:
        """`supervision.Detections` (of classes `Classifications`), for its annotators, trackers and zones.

        Oriented boxes are in `data["xyxyxyxy"]`, masks in `mask`, names in `data["class_name"]`.

        Raises:
            UserError: supervision is not installed, or has nothing for this kind of prediction.
        """
        convert = self.model.kind.supervision
        if convert is None:
            what = f"supervision has nothing for {self.model.kind.name}"
            raise UserError(what, where="to_supervision", fix="detections, segments and classes can be converted")
        return convert(self.case, self.prediction)

    def _formats(self, names: Sequence[str]) -> list[EachFile | OneFile]:
        kind, cases, classes = self.model.kind, [self.case], self.model.class_names
        chosen = chosen_formats(kind, names, cases, classes)
        if names and ALL not in names:
            return [one for one in chosen if one.name in names]
        more = kind.probabilities(classes) if self.asked.probabilities and kind.probabilities is not None else []
        return [*chosen, *more]

    def _write(self, format: EachFile | OneFile, place: Path) -> None:
        if isinstance(format, EachFile):
            format.write(self.model, self.case, self.prediction, place, self.asked)
        else:
            format.write(self.model, [self._done], place)

    def _ending(self, format: EachFile | OneFile) -> str:
        """Of the file; "": a folder."""
        file = Path(format.file) if isinstance(format, OneFile) else format.files([self.case], True)[self.name]
        return "".join(file.suffixes[-2:]) if file.suffix == ".gz" else file.suffix

    def _save_file(self, path: Path, names: Sequence[str]) -> Path:
        kind = self.model.kind
        known = {one.name: ending for one in kind.formats if (ending := self._ending(one))}
        fitting = [name for name, ending in known.items() if path.name.lower().endswith(ending)]
        chosen = list(names) or fitting
        if len(chosen) != 1 or not set(chosen) <= {*fitting}:
            listed = ", ".join(f"{name} ({ending})" for name, ending in known.items())
            if not names and len(fitting) > 1:
                fix = " or ".join(f'format="{name}"' for name in fitting)
                raise UserError(f"several formats end in {path.suffix}", where=path, fix=fix)
            self._formats(names)  # a name that is none is said first
            what = f"no file of {', '.join(names) or kind.name} ends like this"
            raise UserError(what, where=path, fix=f"name a folder, or a file of {listed}")
        (format,) = self._formats(chosen)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".vistruct-") as folder:
            made = Path(folder) / path.name
            self._write(format, made)
            os.replace(made, path)
        return path

    def _save_in(self, folder: Path, names: Sequence[str]) -> Path:
        formats = self._formats(names)
        owned = Owned(folder, "predict")
        files = {one: folder / self._place(one) for one in formats}
        owned.check(files.values(), self.case.files)
        with owned.held():
            self._note(owned, [one for one in formats if isinstance(one, OneFile)])
            for format, file in files.items():
                with owned.making(file) as place:
                    self._write(format, place)
        return folder

    def _place(self, format: EachFile | OneFile) -> Path:
        if isinstance(format, OneFile):
            return Path(format.file)
        return Path(format.folder) / format.files([self.case], True)[self.name]

    def _note(self, owned: Owned, formats: Sequence[OneFile]) -> None:
        """Keep which image files about all images are about.

        Raises:
            UserError: one is about another, which would be lost.
        """
        list_of = owned.home / "about.json"
        about = read_cached(list_of, dict[str, str]) or {}
        for one in formats:
            if (owned.folder / one.file).exists() and about.get(one.file) != self.name:
                what = (
                    f"{one.file} is about {about.get(one.file, 'other images')}, and would be about {self.name} alone"
                )
                fix = "all images at once: model.predict(images).save(folder); or a folder of its own"
                raise UserError(what, where=owned.folder, fix=fix)
        about |= {one.file: self.name for one in formats}
        write_text(list_of, [json.dumps(about, indent=1), "\n"])

    def _json(self, name: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            (format,) = self._formats([name])
            file = Path(folder) / f"{name}.json"
            self._write(format, file)
            return json.loads(file.read_text(encoding="utf-8"))


class Predictions(Iterator[Result]):
    """The results of several images, one after another as they are asked for: none is kept."""

    def __init__(self, model: Model, cases: Sequence[Case], asked: Asked) -> None:
        self.model, self.cases, self.asked = model, tuple(cases), asked
        self._looked = looked_at(model, self.cases, asked)

    def __repr__(self) -> str:
        return f"{len(self.cases)} {self.model.kind.what} to predict: loop over them, or .save(folder)"

    def __next__(self) -> Result:
        """
        Raises:
            UserError: an image that cannot be read; `next` goes on behind it.
        """
        case, found = next(self._looked)
        if isinstance(found, UserError):
            raise found
        return result_of(self.model, case, found, self.asked)

    def save(self, folder: str | Path, *, format: str | Sequence[str] = ()) -> Results:
        """Predict every image, and write what `vistruct predict --out FOLDER --format ...` does.

        What is there already is not predicted again; what cannot be read is left out, said, and in `.broken`.

        Raises:
            UserError: as `inference.files.predict_files`.
        """
        names = (format,) if isinstance(format, str) else tuple(format)
        return predict_files(self.model, self.cases, Path(folder), formats=names, asked=self.asked)


def result_of(model: Model, case: Case, found: Any, asked: Asked) -> Result:
    """A prediction with its image, of it what was asked for."""
    chosen = model.kind.chosen
    kept = found if chosen is None or asked.is_all else chosen(found, asked)
    return Result(prediction=kept, case=case, model=model, asked=asked)
