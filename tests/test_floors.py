"""The house keeps its order: imports go down, no circles, no room that grows without end. See docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import vistruct

HOUSE = Path(vistruct.__file__).parent
DOCS = HOUSE.parent / "docs"

# From the ground up: a room may import those of the floors below its own, and nothing else.
FLOORS = [
    ("errors issues progress", "what everybody may raise, count and say"),
    ("contracts ops read_yaml", "what crosses a border, and arithmetic on it: of no model and no file"),
    ("kinds", "where a part is found by its name"),
    ("run_parts", "how a run learns, and what it is judged by"),
    ("config", "a run is made of parts"),
    ("settings", "a run with other values"),
    ("files backbones necks distributed pictures", "know tensors, and neither data sets nor tasks"),
    ("transforms heads", "work on pixels that were read, on maps of a backbone, over several ranks"),
    (
        "windows vlm",
        "cut what transforms can crop, join what heads found; what a question points at moves as objects do",
    ),
    ("data", "data sets are cut into windows; they do not know who learns from them"),
    ("metrics tasks samples", "of data each; a task does not know its measure, nor the measure the task"),
    ("checkpoint reports", "keep tasks whole; show what metrics measured"),
    ("engine inference", "the loop, and the answer: neither needs the other"),
    ("runs", "a run from its start to its report: training, then predictions, pictures and pages"),
    ("recipes", "parts put together with values that suit a purpose"),
    (
        "study web verbs",
        "many runs of recipes, compared; a page on which models are asked; what Python and the command line both call",
    ),
    ("cli", "one command for each of these"),
]
FLOOR = {room: number for number, (rooms, _) in enumerate(FLOORS) for room in rooms.split()}
NOT_EVEN_BELOW = {"engine": {"pictures", "reports"}}  # the loop draws nothing and writes no pages
MOST_LINES = 400
MOST_PROBES = 24

MODULES = {
    ".".join(file.relative_to(HOUSE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(HOUSE.rglob("*.py"))
}
Found = tuple[str, int, str]  # the importing module, the line, the imported one


def test_files_of_tests_have_names_of_their_own() -> None:
    names = [file.name for file in (HOUSE.parent / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports(module: str, tree: ast.AST) -> Iterator[Found]:
    """Of other modules of the package; imports for the type checker alone are no arrows."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        names = []
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            longer = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in longer]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (
            (module, node.lineno, name) for name in names if name in MODULES and name not in ("vistruct", module)
        )
        yield from imports(module, node)


ARROWS = [
    found
    for module, file in MODULES.items()
    if module != "vistruct"  # the door: `vistruct.load`
    for found in imports(module, ast.parse(file.read_text()))
]


def place(module: str, line: int) -> str:
    return f"{MODULES[module].relative_to(HOUSE.parent)}:{line}"


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(module) for module in MODULES if module != "vistruct"}
    assert rooms == FLOOR.keys(), "a new room: say in FLOORS and docs/architecture.md on which floor, and why"


def test_imports_go_down() -> None:
    wrong = [
        f"{place(module, line)} imports {target}: {theirs!r} may import {own!r}, not the other way; "
        "move what is needed down, or what needs it up"
        for module, line, target in ARROWS
        if (own := room_of(module)) != (theirs := room_of(target))
        and (FLOOR[theirs] >= FLOOR[own] or theirs in NOT_EVEN_BELOW.get(own, ()))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle() -> None:
    targets: dict[str, dict[str, int]] = {module: {} for module in MODULES}
    for module, line, target in ARROWS:
        targets[module].setdefault(target, line)
    left = dict(targets)
    while free := [module for module, others in left.items() if not others.keys() & left.keys()]:
        left = {module: others for module, others in left.items() if module not in free}
    while unasked := left.keys() - {target for others in left.values() for target in others}:
        left = {module: others for module, others in left.items() if module not in unasked}
    circles = [f"{place(m, line)} imports {t}" for m, others in left.items() for t, line in others.items() if t in left]
    assert not left, "split off what both need\n" + "\n".join(circles)


def test_no_file_is_too_long() -> None:
    long = {str(file): lines for file in MODULES.values() if (lines := len(file.read_text().splitlines())) > MOST_LINES}
    assert not long, "split by what it holds, not by its length"


def test_no_merge_is_left_half_done() -> None:
    root = HOUSE.parent
    files = [one for folder in ("vistruct", "docs", "scripts", "benchmarks") for one in (root / folder).rglob("*")]
    pages = [one for one in (*files, *root.glob("*.md"), *root.glob("*.toml")) if one.suffix in (".md", ".py", ".toml")]
    assert not [one for one in pages if re.search(r"^(<{7}|>{7}) ", one.read_text(encoding="utf-8"), re.M)]


def test_probes_are_few_and_each_says_why() -> None:
    """What a part of ours offers is declared; who asks a foreign library says in a comment what it may lack."""
    probes, silent = 0, []
    for module, file in MODULES.items():
        lines = file.read_text().splitlines()
        for number, line in enumerate(lines, start=1):
            if re.search(r"\b(getattr|hasattr)\(", line):
                probes += 1
                above = lines[number - 2].strip()
                if "  # " not in line and not above.startswith("# "):
                    silent.append(place(module, number))
    assert not silent, f"say in a comment why this is not known: {silent}"
    assert probes <= MOST_PROBES


def test_the_page_of_the_house_names_what_there_is() -> None:
    page = (DOCS / "architecture.md").read_text()
    named = re.findall(r"`([\w/]+\.py):(\w+)(?:\.(\w+))?`", page)
    assert len(named) > 30
    for file, name, method in named:
        tree = ast.parse((HOUSE / file).read_text())
        found = [node for node in tree.body if getattr(node, "name", "") == name]
        assert found, f"{file} has no {name}"
        within = [node.name for node in ast.walk(found[0]) if isinstance(node, ast.FunctionDef)]
        assert not method or method in within, f"{file}: {name} has no {method}"
    for room in FLOOR:
        assert re.search(rf"`{room}/?`", page), f"{room} is not on the page"
