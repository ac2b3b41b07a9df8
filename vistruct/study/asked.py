"""What a study is told, by the words of `vistruct study`, on the command line and in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistruct.errors import UserError, closest

if TYPE_CHECKING:
    from vistruct.study.study import Study


def told(
    *,
    init: Sequence[str],
    teacher: Sequence[str],
    teacher_option: Sequence[str],
    origin: Sequence[str],
    budget: str | None,
    pretrain_seeds: int | None,
    pretrained_by: Path | None,
    lora: Sequence[str],
    fraction: Sequence[float],
    seeds: int | None,
    tune: Sequence[str],
    lr: Sequence[str],
    metric: str | None,
    against: Sequence[str],
    settings: Sequence[str],
    robust: bool,
) -> dict[str, Any]:
    """The fields of a `Study` that were told, each as it is typed.

    Raises:
        UserError: words that are of no use together, or a name twice.
    """
    given: dict[str, Any] = {
        **with_teachers(teacher, teacher_option, origin, budget, pretrain_seeds),
        "inits": inits(init) if init else None,
        "pretrained_by": None if pretrained_by is None else str(pretrained_by),
        "fractions": list(fraction) or None,
        "seeds": seeds,
        "tune": list(tune) or None,
        "lr": rates(lr, tune or ["full"]) if lr else None,
        "metric": metric,
        "against": list(against) or None,
        "settings": list(settings) or None,
        "robust": robust or None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    return given | with_adapters(lora, given.get("inits") or {}) if lora else given


def study_of(recipe: str | None, config: Path | None, options: Mapping[str, Any], given: Mapping[str, Any]) -> Study:
    """The study of a recipe, or a saved one with other values.

    Args:
        options: of the recipe, by name.
        given: as `told`.

    Raises:
        UserError: neither a recipe nor a file; a value that does not fit.
    """
    from pydantic import ValidationError

    from vistruct.config import explain
    from vistruct.study.study import Study, read_study

    if config is not None:
        values: dict[str, Any] = read_study(config).model_dump(mode="json") | dict(given)
    elif recipe is None:
        raise UserError("no recipe given", fix="name one first: `vistruct recipes` lists them")
    else:
        plain = {name: as_plain(value) for name, value in options.items()}
        alone = {} if {"teachers", "pretrained_by"} & given.keys() else {"inits": {"random": "random"}}
        values = {"recipe": recipe, "options": plain, **alone, **given}
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        raise explain(error, Study, config or "vistruct study") from error


def inits(words: Sequence[str]) -> dict[str, str]:
    """`random`, `NAME=PATH`, or a path alone, which is then named by its last part."""
    found: dict[str, str] = {}
    for word in words:
        name, has_name, source = word.partition("=")
        if not has_name:
            source = word
            name = "random" if word == "random" else Path(word).stem.replace("-", "_").replace(":", "_")
        if name in found:
            raise UserError(f"two inits are called {name!r}", where=f"--init {word}", fix="--init NAME=PATH")
        found[name] = source
    return found


def with_teachers(
    words: Sequence[str], options: Sequence[str], origins: Sequence[str], budget: str | None, seeds: int | None
) -> dict[str, Any]:
    """What the options say of a study's teachers; {}: nothing.

    Raises:
        UserError: options of a teacher that is not named, values that do not fit; what belongs to teachers without one.
    """
    from vistruct.recipes import find
    from vistruct.recipes.options import OF_WEIGHTS, convert, options_of

    if not words:
        for word, said in (("--teacher-option", options), ("--from", origins), ("--budget", budget)):
            if said:
                raise UserError(f"{word} is of teachers, and there is none", fix="--teacher masked")
        return {} if seeds is None else {"pretrain_seeds": seeds}
    found: dict[str, Any] = {}
    for word in words:
        name, has_name, recipe = word.partition("=")
        recipe = recipe if has_name else name
        name = name if has_name else name.replace(".", "_")
        if name in found:
            raise UserError(f"two teachers are called {name!r}", where=f"--teacher {word}", fix="--teacher NAME=RECIPE")
        find(recipe)
        found[name] = {"recipe": recipe, "options": {}}
    for word in options:
        said, has_value, text = word.partition("=")
        name, has_option, option = said.partition(".")
        where = f"--teacher-option {word}"
        if not (has_value and has_option):
            raise UserError(f"{word!r} is no option of a teacher", where=where, fix="NAME.OPTION=VALUE")
        if name not in found:
            raise UserError(f"no teacher {name!r}", where=where, fix=closest(name, found))
        option = option.replace("-", "_")
        if option == "control":
            found[name]["control"] = text
            continue
        known = options_of(find(found[name]["recipe"]).recipe)
        if option not in known:
            raise UserError(
                f"{found[name]['recipe']} has no option {option!r}", where=where, fix=closest(option, known)
            )
        found[name]["options"][option] = as_plain(
            convert(text, known[option].hint, f"--teacher-option {said}=", is_named=option in OF_WEIGHTS)
        )
    given: dict[str, Any] = {"teachers": found, "starts": inits(origins)}
    if budget is not None:
        unit, _, number = budget.partition("=")
        given["budget"] = {unit: number}
    return given | ({} if seeds is None else {"pretrain_seeds": seeds})


def as_plain(value: Any) -> Any:
    """Paths as text, in lists too."""
    if isinstance(value, list | tuple):
        return [as_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def with_adapters(words: Sequence[str], known: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """`inits` and `adapters` of a study, from `NAME=FILE`, or a FILE alone.

    Args:
        known: the inits that were named.

    Raises:
        UserError: a FILE alone beside no or several inits with weights; an init that gets two.
    """
    found, adapters = dict(known), dict[str, str]()
    for word in words:
        name, has_name, file = word.partition("=")
        if not has_name:
            file = word
            weights = {n: source for n, source in known.items() if source.partition(":")[0] != "random"}
            if len(weights) != 1:
                what = f"{word} is to be added to which init? {len(weights)} have weights"
                raise UserError(what, where=f"--lora {word}", fix="--init NAME=WEIGHTS --lora NAME=FILE")
            ((of, source),) = weights.items()
            name = f"{of}_{Path(word).stem}".replace("-", "_")
            found[name] = source
        if name in adapters:
            raise UserError(f"two adapters for the init {name!r}", where=f"--lora {word}", fix="--lora NAME=FILE, once")
        adapters[name] = file
    return {**({"inits": found} if found else {}), "adapters": adapters}


def rates(words: Sequence[str], tune: Sequence[str]) -> dict[str, float]:
    """`full=1e-4`, or `1e-4` for all modes."""
    found: dict[str, float] = {}
    for word in words:
        tuning, has_mode, text = word.rpartition("=")
        try:
            rate = float(text)
        except ValueError:
            fix = "--lr full=1e-4 --lr head=1e-3"
            raise UserError(f"{text!r} is no learning rate", where=f"--lr {word}", fix=fix) from None
        found |= {tuning: rate} if has_mode else dict.fromkeys(tune, rate)
    return found
