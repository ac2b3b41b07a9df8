"""The smallest thing the engine can train: dropout, noise, unequal counts, a backbone and a head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from vistruct.config import Eval, Part, Run
from vistruct.contracts import BackboneTraits, DataInfo, Objects, Ratio, Record, Sample, StepOutput, TaskTraits
from vistruct.errors import UserError
from vistruct.kinds import BackbonePart


@dataclass(frozen=True)
class ToyDataset:
    size: int = 24
    broken: int = -1  # index of a sample that cannot be read
    poison: int = -1  # index of a sample that is NaN
    fingerprint: str = "0" * 64

    @property
    def info(self) -> DataInfo:
        return DataInfo(
            class_names=("toy",),
            num_records=self.size,
            fingerprint=self.fingerprint,
            counts={"toy": self.size},
        )

    @property
    def records(self) -> list[Record]:
        return [Record(id=f"s{i}", images=()) for i in range(self.size)]

    def __len__(self) -> int:
        return self.size

    def sample(self, index: int, seed: int) -> Sample:
        """uint8[3, 4, 4], of which the brightness depends on the index and the noise on the seed."""
        if index == self.broken:
            raise UserError("cannot be read", where=f"s{index}", fix="look at it")
        noise = torch.randint(0, 32, (3, 4, 4), generator=torch.Generator().manual_seed(seed))
        image = (noise + 9 * (index % 24)).to(torch.uint8)
        labels = torch.arange(index % 4)  # 0 to 3 of them: unequal counts
        boxes = torch.tensor([float("nan") if index == self.poison else 1.0] * 4).repeat(len(labels), 1)
        return Sample(
            id=f"s{index}",
            image_id=f"s{index}",
            seed=seed,
            images=[image],
            objects=Objects(boxes_xyxy=boxes, labels=labels),
        )


class ToyDataConfig(Part):
    kind: Literal["toy_engine:ToyDataConfig"] = "toy_engine:ToyDataConfig"
    size: int = 24
    broken: int = -1
    poison: int = -1
    fingerprint: str = "0" * 64

    def build(self, cache: Path | None = None) -> ToyDataset:
        return ToyDataset(self.size, self.broken, self.poison, self.fingerprint)


@dataclass
class ToyBatch:
    ids: list[str]
    images: Tensor  # float[B, 48]
    counts: Tensor  # float[B]
    poison: Tensor  # float[B], 0 or NaN

    def to(self, device: torch.device) -> ToyBatch:
        return self


def collate(samples: list[Sample]) -> ToyBatch:
    return ToyBatch(
        ids=[s.id for s in samples],
        images=torch.stack([adaptive_avg_pool2d(s.images[0].float(), 4).flatten() / 255 for s in samples]),
        counts=torch.tensor([float(len(s.objects) + len(s.turns) // 2) for s in samples]),
        poison=torch.stack([s.objects.boxes_xyxy.sum() * 0 for s in samples]),
    )


class ToyBackboneConfig(Part):
    kind: Literal["toy_engine:ToyBackboneConfig"] = "toy_engine:ToyBackboneConfig"
    width: int = 8
    dropout: float = 0.2

    def build(self) -> ToyBackbone:
        return ToyBackbone(self.width, self.dropout)


class ToyBackbone(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Linear(48, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = x + self.drop(block(x).relu())
        return x

    @property
    def traits(self) -> BackboneTraits:
        return BackboneTraits(repeated_blocks=tuple(self.blocks), layer_of=self.layer_of)

    def layer_of(self, name: str) -> tuple[int, int]:
        return (int(name.split(".")[1]) + 1 if name.startswith("blocks") else 0), 2


class ToyTaskConfig(Part):
    kind: Literal["toy_engine:ToyTaskConfig"] = "toy_engine:ToyTaskConfig"
    backbone: BackbonePart = ToyBackboneConfig()
    dropout: float = 0.1

    def build(self, info: DataInfo, assets: Path, backbone: nn.Module | None = None) -> ToyTask:
        return ToyTask(self, backbone)


class ToyTask(nn.Module):
    seen: Tensor

    """Regress the brightness; the units are the number of labels, which differs between samples and may be 0."""

    def __init__(self, config: ToyTaskConfig, backbone: nn.Module | None = None) -> None:
        super().__init__()
        part: Any = config.backbone
        self.config = config
        self.backbone = part.build() if backbone is None else backbone
        self.drop = nn.Dropout(config.dropout)
        self.head = nn.Linear(part.width, 1)
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, batch: ToyBatch) -> StepOutput:
        if self.training:
            self.seen += len(batch.ids)
        error = self._answer(batch) - batch.images.mean(1) + batch.poison
        total = (error.square() * batch.counts).sum()
        return StepOutput(
            terms={"brightness": total},
            metrics={"error": Ratio(total=error.detach().abs().sum(), count=len(error))},
        )

    def units(self, batch: ToyBatch) -> dict[str, float]:
        return {"brightness": float(batch.counts.sum())}

    def _answer(self, batch: ToyBatch) -> Tensor:
        return self.head(self.drop(self.backbone(batch.images)))[:, 0] * self.scale

    def predict(self, batch: ToyBatch) -> list[tuple[str, float]]:
        return list(zip(batch.ids, self._answer(batch).tolist(), strict=True))

    @property
    def traits(self) -> TaskTraits:
        return TaskTraits(prediction="", terms=("brightness",))

    @property
    def collator(self) -> Any:
        return collate


class ToyMetricConfig(Part):
    kind: Literal["toy_engine:ToyMetricConfig"] = "toy_engine:ToyMetricConfig"
    limit: int | None = None
    losses: bool = False

    def build(self, dataset: ToyDataset) -> ToyMetric:
        return ToyMetric(self.losses)

    def usual(self, data: Any) -> str:
        return "loss" if self.losses else "sum"

    def higher_is_better(self, number: str) -> bool | None:
        return {"loss": False, "number": None}.get(number, True)


class ToyMetric:
    def __init__(self, losses: bool) -> None:
        self.needs_loss = losses
        self.got: list[Any] = []

    def update(self, predictions: list[Any]) -> None:
        self.got += predictions

    def compute(self) -> dict[str, float]:
        if self.needs_loss:
            return {
                "loss": sum(float(o.terms["brightness"]) for o, _ in self.got)
                / sum(u["brightness"] for _, u in self.got)
            }
        ordered = [f"s{i}" for i in range(len(self.got))] == [name for name, _ in self.got]
        return {"number": float(len(self.got)), "ordered": float(ordered), "sum": sum(v for _, v in self.got)}


def toy_run(**changes: Any) -> Run:
    """A run of 12 steps of 8 samples."""
    settings: dict[str, Any] = {
        "task": ToyTaskConfig(),
        "data": ToyDataConfig(),
        "steps": 12,
        "batch": 8,
        "save_every": 4,
        "log_every": 1,
        "optim": {"lr": 1e-2},
        "amp": "off",
    }
    return Run(**(settings | changes))


def toy_eval(losses: bool = False) -> Eval:
    return Eval(data=ToyDataConfig(size=7), metric=ToyMetricConfig(losses=losses))


if __name__ == "__main__":  # a process of its own, to be killed or to be one of several
    import sys

    from vistruct.distributed.ranks import leave
    from vistruct.engine.train import train

    torch.set_num_threads(1)
    sys.modules["toy_engine"] = sys.modules["__main__"]
    from vistruct.config import read_run

    try:
        train(read_run(Path(sys.argv[1])), Path(sys.argv[2]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    leave()
