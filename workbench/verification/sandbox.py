"""A throw-away virtual environment that sees this interpreter's libraries and one more package."""

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tiles.kernels.closure import DEPENDENCIES

__all__ = ["Sandbox", "make_sandbox"]

INSTALL_TIMEOUT_S = 300
#: Makes torch, triton, numpy and cupy visible; the new environment's own folder comes first.
PTH = "libraries-of-the-running-interpreter.pth"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A virtual environment with the package installed."""

    python: Path
    site: Path  #: its own site-packages: holds the package alone
    how: str  #: how the package was installed


def _library_folders() -> list[str]:
    """Where the running interpreter finds libraries, and above all what packages depend on."""
    names = ("site-packages", "dist-packages")
    folders = [entry for entry in sys.path if Path(entry).name in names and Path(entry).is_dir()]
    for dependency in sorted(DEPENDENCIES):
        spec = importlib.util.find_spec(dependency)
        if spec is not None and spec.origin is not None:
            folder = str(Path(spec.origin).parent.parent)
            if folder not in folders:
                folders.append(folder)
    return folders


def make_sandbox(folder: Path, package: Path, name: str) -> Sandbox:
    """Create an environment below ``folder`` and install a package into it, offline.

    Args:
        folder: that does not exist yet.
        package: a wheel, or the folder of a module, which is copied.
        name: under which such a module is imported.

    Raises:
        ValueError: pip refused the wheel; the message has pip's last line.
    """
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    scheme = sysconfig.get_paths(
        "venv" if "venv" in sysconfig.get_scheme_names() else "posix_prefix",
        vars={"base": str(folder), "platbase": str(folder)},
    )
    site = Path(scheme["purelib"])
    python = Path(scheme["scripts"]) / "python"
    if package.is_dir():
        shutil.copytree(package, site / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        how = "copied: a kernel of this kind is not installed"
    elif importlib.util.find_spec("pip") is None:
        # A wheel of Python files alone is installed once it is unpacked.
        with zipfile.ZipFile(package) as archive:
            archive.extractall(site)
        how = f"unpacked, because {sys.executable} has no pip"
    else:
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        command += ["--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check"]
        done = subprocess.run(
            [*command, str(package.resolve())],
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise ValueError(f"pip could not install {package}: {lines[-1]}")
        how = "installed by pip"
    (site / PTH).write_text("\n".join(_library_folders()) + "\n", encoding="utf-8")
    return Sandbox(python=python, site=site, how=how)
