"""A Hugging Face kernel that was edited after its emission, opened to be verified."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hub_kernels import emitted

import workbench
from workbench.emission.evidence import digests
from workbench.emission.hub_kernel import EmittedKernel
from workbench.verification.hub_kernel import open_hub_kernel


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> EmittedKernel:
    return emitted(tmp_path_factory.mktemp("hub") / "kernel")


@pytest.fixture
def folder(made: EmittedKernel, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(made.folder, tmp_path / "kernel"))


@pytest.mark.parametrize(
    "name",
    [
        "build/torch-cuda/_gemm.py",
        "build/torch-cuda/metadata.json",
        "torch-ext/tile_gemm/configs/triton_gemm-e4m3-row-bf16/default.json",
    ],
)
def test_an_edited_file_is_refused_by_name(name: str, folder: Path) -> None:
    open_hub_kernel(folder)
    with (folder / name).open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match=f"{name} is not what EVIDENCE.json recorded"):
        workbench.verify(folder)


def _reseal(folder: Path) -> None:
    """New digests in the evidence: what a careless forger would do."""
    path = folder / "EVIDENCE.json"
    evidence = json.loads(path.read_text())
    evidence["files"] = digests(folder)
    path.write_text(json.dumps(evidence))


def test_the_metadata_tells_an_edit_that_the_evidence_hides(folder: Path) -> None:
    path = folder / "build/torch-cuda/_gemm.py"
    path.write_text(path.read_text() + "\n")
    _reseal(folder)
    with pytest.raises(ValueError, match=r"_gemm\.py is not what metadata\.json recorded"):
        open_hub_kernel(folder)


def test_a_build_that_its_sources_do_not_give(folder: Path) -> None:
    path = folder / "torch-ext/tile_gemm/_gemm.py"
    path.write_text(path.read_text() + "\n")
    _reseal(folder)
    with pytest.raises(ValueError, match="was not built from"):
        open_hub_kernel(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "_other_cuda_0000000"}, "is not that of its files"),
        ({"digest": None}, "lacks name, id or SHA-256 digests"),
        ({"digest": {"algorithm": "md5", "files": {}}}, "lacks name, id or SHA-256 digests"),
    ],
)
def test_metadata_that_cannot_be(change: dict[str, Any], message: str, folder: Path) -> None:
    path = folder / "build/torch-cuda/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    _reseal(folder)
    with pytest.raises(ValueError, match=message):
        open_hub_kernel(folder)


def test_extra_files_and_links_are_refused(folder: Path) -> None:
    extra = folder / "build/torch-cuda/extra.py"
    extra.write_text("")
    with pytest.raises(ValueError, match=r"extra\.py is not in EVIDENCE\.json"):
        open_hub_kernel(folder)
    extra.unlink()
    extra.symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="is a link, a package holds plain files"):
        open_hub_kernel(folder)


def test_a_folder_without_evidence_is_none_of_ours(folder: Path) -> None:
    (folder / "EVIDENCE.json").unlink()
    with pytest.raises(ValueError, match=r"holds no EVIDENCE\.json"):
        workbench.verify(folder)
