"""The release as users get it: sdist and wheel built, compared, installed elsewhere, and used.

Run:      uv run --no-sync python scripts/check_release.py [--dist FOLDER]
Checks:   the wheel from the sdist has the files of the wheel from the tree, and every file of the package; installed it
          says its version, checks a shipped scene, trains a small run and reads it back
Leaves:   sdist and wheel in FOLDER (dist/)
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_SHIPPED = ("__pycache__",)


def run(*words: str | Path, cwd: Path = ROOT) -> str:
    """A command's output; what it said and an end of this script where it fails."""
    # Without PYTHONPATH nothing of the tree can stand in for what is missing in the wheel.
    away = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in away}
    print("$", *words, flush=True)
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}\nfailed with {done.returncode}: {' '.join(map(str, words))}")
    return done.stdout


def built(dist: Path) -> Path:
    """The wheel, built from the sdist that is built from the tree."""
    shutil.rmtree(dist, ignore_errors=True)
    run("uv", "build", "--quiet", "--out-dir", dist)
    with tempfile.TemporaryDirectory() as folder:
        run("uv", "build", "--quiet", "--wheel", "--out-dir", folder)
        (from_tree,) = Path(folder).glob("*.whl")
        tree = files_of(from_tree)
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    found = files_of(wheel)
    if found != tree:
        raise SystemExit(f"the sdist and the tree do not give the same wheel: {sorted(found ^ tree)[:5]}")
    package = ROOT / "vistruct"
    wanted = {
        f"vistruct/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and not set(path.parts) & set(NOT_SHIPPED)
    }
    if missing := wanted - found:
        raise SystemExit(f"not in the wheel: {sorted(missing)[:5]}")
    print(f"{wheel.name}: {len(found)} files, {wheel.stat().st_size / 1e6:.1f} MB; {sdist.stat().st_size / 1e6:.1f} MB")
    return wheel


def files_of(wheel: Path) -> set[str]:
    """Names in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def used(wheel: Path, folder: Path) -> None:
    """Install the wheel into an environment of its own, and do with it what a user does first."""
    run("uv", "venv", "--quiet", "--python", sys.executable, folder / "env")
    python = folder / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    run("uv", "pip", "install", "--quiet", "--python", python, wheel)
    vistruct = python.with_name("vistruct")
    version = re.search(r'__version__ = "(.+)"', (ROOT / "vistruct" / "__init__.py").read_text())
    told = run(vistruct, "--version", cwd=folder).strip()
    if version is None or told != f"vistruct {version[1]}" or version[1] not in wheel.name:
        raise SystemExit(f"{told} is in {wheel.name}")
    where = "from vistruct.samples import trees; print(trees().test)"
    scene = Path(run(python, "-c", where, cwd=folder).strip())
    if not scene.is_relative_to(folder / "env"):
        raise SystemExit(f"{scene} is not the installed one")
    if "nothing stops training" not in run(vistruct, "check", scene, cwd=folder):
        raise SystemExit("the shipped scene is not fit for training")
    run(vistruct, "train", "segment", "--tiny", "--set", "workers=0", "--out", "tiny", cwd=folder)
    for name in ("report.html", "model/model.json", "result.json"):
        if not (folder / "tiny" / name).is_file():
            raise SystemExit(f"the installed vistruct trained, and there is no {name}")
    print(f"installed and used: {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dist", type=Path, default=ROOT / "dist")
    dist = parser.parse_args().dist.resolve()
    wheel = built(dist)
    with tempfile.TemporaryDirectory() as folder:
        used(wheel, Path(folder).resolve())


if __name__ == "__main__":
    main()
