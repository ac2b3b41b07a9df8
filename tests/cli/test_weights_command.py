"""`vistruct weights`: a list, one in full, and nothing fetched that nobody asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vistruct.cli.main import main


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISTRUCT_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as left:
        main(["weights", *words])
    assert left.value.code == code
    told = capsys.readouterr()
    return told.out, told.err


def test_all_names_are_listed_with_their_licences(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "weights" / "mtp-b" / "anything.pth"
    file.parent.mkdir(parents=True)
    file.touch()
    out, err = said(capsys)
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "CC-BY-NC-4.0, not commercial" in rows["mae-b"]
    assert rows["mtp-b"].split()[-1] == "yes"
    assert rows["mtp-l"].rstrip().endswith("by hand")
    assert "timm:NAME" in err
    listed = json.loads(said(capsys, "--json")[0])
    assert {one["name"] for one in listed} >= {"dinov2-s", "vitp-rs", "internvl2.5-1b", "sam-h"}
    assert next(one["here"] for one in listed if one["name"] == "mtp-b") == str(file)


def test_one_name_tells_where_its_file_goes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = " ".join(said(capsys, "vitp-rs")[0].split())
    assert "not for commercial use" in out
    assert "ViTP_ViT_L_300M_rs.safetensors" in out
    assert "vistruct weights vitp-rs --fetch" in out
    assert not (tmp_path / "weights").exists()


def test_a_typo_and_a_fetch_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'vitp-rs'?" in said(capsys, "vitp_rs", code=2)[1]
    assert "--fetch needs a name" in said(capsys, "--fetch", code=2)[1]
    assert "is not on the hub" in said(capsys, "mtp-b", "--fetch", code=2)[1]
