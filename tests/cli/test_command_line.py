"""The command line from outside: quick help, three-line errors, json for programs, exit codes."""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from vistruct import __version__
from vistruct.cli import main as main_module
from vistruct.cli.inspect import gather
from vistruct.cli.main import VERBS, main
from vistruct.errors import UserError
from vistruct.files.tensor_header import read_header
from vistruct.recipes import detect
from vistruct.samples import trees


def run_main(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, in this process."""
    with pytest.raises(SystemExit) as caught:
        main(args)
    out, err = capsys.readouterr()
    code = caught.value.code
    return (code if isinstance(code, int) else 0), out, err


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom vistruct.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'transformers', 'pydantic', 'yaml', 'matplotlib', 'PIL'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 2.0  # of processor time, 0.4 on an idle machine; a clock would measure the other processes
    assert "HEAVY []" in done.stdout
    assert all(verb in done.stdout for verb in VERBS)


def test_importing_vistruct_imports_no_torch() -> None:
    code = "import sys, vistruct; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(capsys, "--version") == (0, f"vistruct {__version__}\n", "")


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_explains_itself(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, _ = run_main(capsys, verb, "--help")
    assert code == 0
    assert "Usage: vistruct " + verb in out


MISTAKES = [
    (["trian", "detect"], "no command 'trian'", "vistruct trian detect", "did you mean 'train'?"),
    (["train", "detct"], "no recipe 'detct'", "vistruct train detct", "did you mean 'detect'?"),
    (["train", "detect", "--stpes", "3"], "no option '--stpes'", "--stpes", "did you mean '--steps'?"),
    (["train", "detect", "--dry-rnu"], "no option '--dry-rnu'", "--dry-rnu", "did you mean '--dry-run'?"),
    (["recipes", "--jsn"], "no option '--jsn'", "vistruct recipes", "did you mean '--json'?"),
    (["train", "--steps", "3"], "no recipe given", "vistruct train --steps 3", "vistruct recipes"),
    (["train"], "no recipe given", "vistruct train", "vistruct recipes"),
    (["train", "-c", "nope.yaml"], "no such file", "nope.yaml", "run.yaml"),
    (["check", "nowhere"], "no such file or folder", "nowhere", "check the path"),
    (["check"], "Missing argument", "vistruct check", "vistruct check --help"),
    (["show", "nowhere"], "no such file or folder", "nowhere", "path"),
    (["inspect", "nowhere"], "no such file or directory", "nowhere", "run directory"),
    (["predict", "run", "nowhere.png"], "no such image or folder", "nowhere.png", "path"),
    (["demo", "--quick", "--full"], "--quick and --full exclude each other", "vistruct demo", "one of them"),
    (["instruct", "x.json", "--out", "y", "--crop-size", "9-3"], "'9-3' is not a size", "instruct", "448-896"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "what", "where", "fix"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_a_mistake_is_three_lines_and_exit_code_two(
    capsys: pytest.CaptureFixture[str], args: list[str], what: str, where: str, fix: str
) -> None:
    code, out, err = run_main(capsys, *args)
    assert code == 2
    assert out == ""
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "where", "try"]
    assert what in lines[0]
    assert where in lines[1]
    assert fix in lines[2]


def test_an_unknown_key_in_a_run_file_names_the_closest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    run.write_text(json.dumps({**detect.tiny().model_dump(mode="json"), "bacth": 2}))
    code, _, err = run_main(capsys, "train", "-c", str(run))
    assert code == 2
    assert err.splitlines()[0] == "error: unknown key 'bacth'"
    assert str(run) in err.splitlines()[1]
    assert "did you mean 'batch'?" in err.splitlines()[2]
    values = detect.tiny().model_dump(mode="json")
    values["data"]["augment"]["hflp"] = True  # of a part of any kind: which fields it has is on a page
    run.write_text(json.dumps(values))
    code, _, err = run_main(capsys, "train", "-c", str(run))
    assert code == 2
    assert err.splitlines()[0] == "error: unknown key 'data.augment.hflp'"
    assert "docs/reference.md" in err.splitlines()[2]


def test_an_option_beside_a_saved_run_is_refused_and_set_offered(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_main(capsys, "train", "-c", "run.yaml", "--steps", "3")
    assert code == 2
    assert "--set steps=VALUE" in err


def test_debug_shows_the_traceback_wherever_it_stands() -> None:
    with pytest.raises(UserError, match="no recipe 'detct'"):
        main(["train", "detct", "--debug"])
    with pytest.raises(UserError, match="no recipe 'detct'"):
        main(["--debug", "train", "detct"])


def test_a_fault_of_the_program_is_not_called_a_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object, **_kwargs: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(main_module, "app", broken)
    with pytest.raises(KeyError, match="a bug"):
        main(["doctor"])


def test_a_full_disk_is_three_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device", "/somewhere/file")

    monkeypatch.setattr(main_module, "app", full)
    code, _, err = run_main(capsys, "doctor")
    assert code == 2
    assert "No space left" in err.splitlines()[0]
    assert "/somewhere/file" in err.splitlines()[1]


def test_ctrl_c_is_one_line_and_exit_code_130(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom vistruct.cli import doctor, main\n"
        "def wait():\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "doctor.examine = wait\nmain.main(['doctor'])\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    os.kill(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=20)
    assert child.returncode == 130
    assert err.splitlines() == ["stopped by Ctrl-C"]


@pytest.mark.parametrize("args", [["recipes"], ["check", str(trees().test)], ["doctor"]], ids=lambda a: a[0])
def test_json_is_json_and_nothing_else(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    _, out, _ = run_main(capsys, *args, "--json")
    value = json.loads(out)
    if args[0] == "check":
        assert value["ok"] is True
        assert value["classes"] == {"tree": 279}
    elif args[0] == "doctor":
        assert value["fp32_gflops"] > 0
        assert value["packages"]["torch"]
    else:
        assert {"detect", "vitp.pretrain"} <= {entry["name"] for entry in value}
        assert all(entry["summary"] for entry in value)


def test_check_ends_with_one_where_training_would_stop(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    image = {"id": 1, "file_name": "gone.jpg", "width": 4, "height": 4}
    file.write_text(json.dumps({"images": [image], "annotations": [], "categories": [{"id": 1, "name": "x"}]}))
    code, out, _ = run_main(capsys, "check", str(file))
    assert code == 1
    assert "gone.jpg" in out


def test_show_draws_the_tiles_of_a_data_set_and_says_where(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from PIL import Image

    target = tmp_path / "deep" / "show.png"
    code, out, _ = run_main(capsys, "show", str(trees().test), "--tile", "400", "--count", "4", "--out", str(target))
    assert code == 0
    assert out.splitlines()[-1] == str(target)
    assert Image.open(target).width == 3 * 480 + 4 * 12


def test_inspect_reads_a_safetensors_file_as_the_library_does(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {"a.weight": torch.zeros(3, 4), "scalar": torch.tensor(1.0), "empty": torch.zeros(0, 2)}
    file = tmp_path / "x.safetensors"
    save_file(tensors, file, {"licence": "free"})
    facts = gather(file)
    assert facts["parameters"] == 13
    assert {t["name"]: tuple(t["shape"]) for t in facts["tensors"]} == {k: tuple(v.shape) for k, v in tensors.items()}
    assert facts["metadata"] == {"licence": "free"}


@pytest.mark.parametrize(
    "content",
    [b"", b"12", struct.pack("<Q", 2**62), struct.pack("<Q", 9) + b"{broken!}", struct.pack("<Q", 2) + b"[]",
     struct.pack("<Q", 58) + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}    ' + b"1234",
     struct.pack("<Q", 56) + b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}} ' + b"1234",
     struct.pack("<Q", 75) + b'{"a":{"dtype":"F32","shape":[%d],"data_offsets":[0,4]}} ' % (10**20) + b"1234"],
    ids=["empty", "short", "absurd", "not-json", "a-list", "cut-short", "fewer-than-none", "more-than-can-be"],
)  # fmt: skip
def test_a_damaged_safetensors_file_is_told(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_header(file)


def test_inspect_of_an_unfinished_run_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("recipe: detect\nsteps: 3\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "lo')
    code, out, _ = run_main(capsys, "inspect", str(tmp_path), "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["state"].startswith("unfinished")
    assert facts["metrics"] == {"step": 1, "loss": 2.5}
