"""Several tasks over one backbone, as one module that a step can train.

Tensors are called `backbone.*` and `tasks.NAME.*`; a task has the backbone too, under its own name, as the same object.
What two tasks have in common beside it (`share_trunk`) both have under their own names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vistruct.contracts import JointBatch, MapTask, StepOutput, StreamBatch, Task, named_term
from vistruct.errors import UserError

Look = Callable[[Tensor], list[Tensor]]  # float[B, C, H, W], normalised -> maps


def learned(task: Any, batch: Any, look: Look | None = None) -> StepOutput:
    """What a task, or several as one, makes of a batch, with maps from `look` in place of the backbone."""
    if look is None:
        return task(batch)
    return task(batch, look) if isinstance(task, Joint) else task.learn(look(task.images(batch)), batch)


class Joint(nn.Module):
    """StreamBatch or JointBatch -> StepOutput of the tasks that it is for; terms and metrics are called `NAME.TERM`.

    Args:
        tasks: by the names of their streams; all of them hold the same backbone object.
    """

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        self.backbone = next(iter(tasks.values())).backbone
        strangers = [name for name, task in tasks.items() if task.backbone is not self.backbone]
        if strangers:
            raise ValueError(f"task {strangers[0]!r} has a backbone of its own")
        taken = [name for name in tasks if name in dir(nn.ModuleDict())]
        if taken:
            what = f"a stream cannot be called {taken[0]!r}: torch's modules have that name"
            raise UserError(what, where="streams", fix=f"{taken[0]}_data, or what the task is about")
        self.tasks = nn.ModuleDict(dict(tasks))  # ty: ignore[invalid-argument-type]  # a task is a module

    def forward(self, batch: StreamBatch | JointBatch, look: Look | None = None) -> StepOutput:
        """
        Args:
            look: what gives maps for images, of tasks that learn from maps alone; None: the backbone.
        """
        if isinstance(batch, StreamBatch):
            return _named(batch.stream, learned(self.tasks[batch.stream], batch.batch, look))
        outs = [
            _named(part.stream, self._learner(part).learn(maps, part.batch))
            for part, maps in zip(batch.parts, self._seen(batch.parts, look or self.backbone), strict=True)
        ]
        return StepOutput(
            terms={name: term for out in outs for name, term in out.terms.items()},
            metrics={name: ratio for out in outs for name, ratio in out.metrics.items()},
        )

    def _seen(self, parts: Sequence[StreamBatch], look: Look) -> list[list[Tensor]]:
        """The backbone's maps for each part. Images of one size go through it as one batch, and what several tasks are
        shown alike goes through it once."""
        shown: list[Tensor] = []
        place: list[int] = []  # of each part's images in `shown`
        owner: list[StreamBatch] = []
        for part in parts:
            images = self._learner(part).images(part.batch)
            same = (i for i, one in enumerate(owner) if one.ids == part.ids and shown[i].shape == images.shape)
            at = next((i for i in same if torch.equal(shown[i], images)), len(shown))
            if at == len(shown):
                shown.append(images)
                owner.append(part)
            place.append(at)
        maps: dict[int, list[Tensor]] = {}
        for size in dict.fromkeys(one.shape[1:] for one in shown):
            which = [i for i, one in enumerate(shown) if one.shape[1:] == size]
            seen = look(torch.cat([shown[i] for i in which]) if len(which) > 1 else shown[which[0]])
            levels = [level.split([len(shown[i]) for i in which]) for level in seen]
            maps |= {i: [level[k] for level in levels] for k, i in enumerate(which)}
        return [maps[at] for at in place]

    def _learner(self, part: StreamBatch) -> MapTask:
        task: Any = self.tasks[part.stream]
        return task

    def units(self, batch: StreamBatch | JointBatch) -> Mapping[str, float | Tensor]:
        """Of each term of the batch's own tasks, as these say."""
        found: dict[str, float | Tensor] = {}
        for part in (batch,) if isinstance(batch, StreamBatch) else batch.parts:
            task: Any = self.tasks[part.stream]
            found |= {named_term(part.stream, name): number for name, number in task.units(part.batch).items()}
        return found

    def predict(self, batch: StreamBatch) -> list[Any]:
        """As the batch's own task."""
        task: Any = self.tasks[batch.stream]
        return task.predict(batch.batch)


def _named(stream: str, out: StepOutput) -> StepOutput:
    return StepOutput(
        terms={named_term(stream, name): term for name, term in out.terms.items()},
        metrics={named_term(stream, name): ratio for name, ratio in out.metrics.items()},
    )


def share_trunk(task: Any, other: Any, where: str) -> None:
    """Put another task's neck and head in the place of this one's, but for the layers that know the classes. Where
    classes are told by their names, no layer does, and what reads the names is in common too.

    Args:
        task: nn.Module with `neck` and `head`; it is changed.
        other: of the same parts, for other classes or data.

    Raises:
        UserError: the two are not of the same parts and sizes.
    """
    fix = "describe the same neck and head in both tasks, or leave trunk out"
    if type(task) is not type(other) or not isinstance(task, MapTask):
        what = f"a task of kind {task.config.kind} has no trunk in common with one of kind {other.config.kind}"
        raise UserError(what, where=where, fix=fix)
    own = {f"head.{layer.name}" for layer in task.head.traits.class_layers}
    for name in ("neck", "head", "names"):
        ours, theirs = (vars(one)["_modules"].get(name) for one in (task, other))
        shapes = [
            {f"{name}.{key}": tuple(value.shape) for key, value in ({} if one is None else one.state_dict()).items()}
            for one in (ours, theirs)
        ]
        left = [{key: shape for key, shape in one.items() if key.rpartition(".")[0] not in own} for one in shapes]
        differing = next((key for key in {**left[0], **left[1]} if left[0].get(key) != left[1].get(key)), None)
        if differing is not None or type(ours) is not type(theirs):
            what = f"{differing or name} differs between the two tasks that have their trunk in common"
            raise UserError(what, where=where, fix=fix)
        if ours is not None and theirs is not None:
            _replace_parts(ours, theirs, own, f"{name}.")


def _replace_parts(module: nn.Module, other: nn.Module, own: set[str], path: str) -> None:
    for name, child in list(other.named_children()):
        place = path + name
        if place in own:
            continue
        if any(kept.startswith(f"{place}.") for kept in own):
            _replace_parts(module.get_submodule(name), child, own, f"{place}.")
        else:
            module.register_module(name, child)
    for name, parameter in other.named_parameters(recurse=False):
        module.register_parameter(name, parameter)
    for name, buffer in other.named_buffers(recurse=False):
        module.register_buffer(name, buffer, persistent=name in other.state_dict())
