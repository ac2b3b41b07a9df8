"""The adapters that a run trains, alone on disk: at chosen steps (`Run.snapshots`), and at the end.

Each is a folder of peft's that `--lora` takes, with what tells the weights that it belongs to. All ranks call together
what is here; rank 0 writes.
"""

from __future__ import annotations

from pathlib import Path

from vistruct.checkpoint.low_rank import Adapters, Prints, digest_of, print_of
from vistruct.checkpoint.peft_folder import write_adapters
from vistruct.distributed.shard import on_main
from vistruct.engine.lora import adapted_layers, adapters_of, merged_state
from vistruct.engine.run import State, started_from

FOLDER = "adapters"


def trained_adapters(state: State, place: Path) -> Adapters | None:
    """The adapters as they are now, on rank 0 of a run that trains some; to be left at `place`."""
    model, layers = state.model, adapted_layers(state.model)
    needed = {f"{name}.{own}" for name in layers for own in ("weight", "lora_A", "lora_B")}
    held = on_main({key: value for key, value in model.state_dict(keep_vars=True).items() if key in needed})
    if not held:
        return None
    merged = merged_state(model, held)
    prints = {name: Prints(*(print_of(one[f"{name}.weight"]) for one in (held, merged))) for name in layers}
    own = adapters_of(model, held)
    return Adapters(source=place / FOLDER, layers=own, digest=digest_of(own), base=prints)


def write_snapshot(state: State) -> Path:
    """The adapters after this step, `adapters/step_NNNNNN`; written again by a run that went back before it."""
    folder = state.out_dir / FOLDER / f"step_{state.step:06d}"
    found = trained_adapters(state, state.out_dir)
    if found is not None:
        keep_adapters(state, found, folder)
    return folder


def keep_adapters(state: State, adapters: Adapters, folder: Path) -> None:
    """Write them for peft and for `--lora`.

    Raises:
        UserError: no room.
    """
    modules = [name for name, _ in state.model.named_modules()]
    base = "; ".join(dict.fromkeys(started_from(state, source) for source in state.sources.values()))
    write_adapters(folder, adapters.layers, modules=modules, base=base, prints=adapters.base)
