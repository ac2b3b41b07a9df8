"""A teacher that moves: the average of what its student was at earlier steps."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from vistruct.errors import UserError


@torch.no_grad()
def follow(teacher: nn.Module, student: Any, momentum: float) -> None:
    """Move each weight of the teacher to momentum x its own + (1 - momentum) x the student's, in place.

    Args:
        teacher: its tensors go by the names that the student's have.
        student: layers with adapters (LoRA) count with what those add.
        momentum: 0: the teacher becomes the student, to the bit.

    Raises:
        UserError: a student with adapters that is spread over devices, of which none has the sum.
    """
    adapted = any(name.endswith(".lora_A") for name, _ in student.named_parameters())
    for name, own in teacher.named_parameters():  # each once, under however many names
        other = attrgetter(name)(student)
        if adapted and isinstance(other, DTensor):
            what = "a teacher follows a student with adapters (LoRA), which lie spread over devices"
            raise UserError(what, where="parallel=fsdp", fix="--set parallel=ddp")
        if momentum > 0:
            own.lerp_(other.to(own.dtype), 1 - momentum)
        else:
            own.copy_(other)
    for name, buffer in teacher.named_buffers():
        buffer.copy_(attrgetter(name)(student))  # statistics of a norm
