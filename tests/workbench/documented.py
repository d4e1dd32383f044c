"""Pages whose snippets are run, in the order they stand in, in one folder and one Python session.

What a fence says decides:

- ``console``: lines that begin with ``$ `` are commands, what follows is what they print, with
  ``...`` for what differs.  ``workbench`` runs in this process, so that a page takes a second, and
  what it prints goes into a file where the line ends in ``> FILE``;
  ``pip install -e .`` names the entry points of the folder's pyproject.toml on the path, which is
  what of it the workbench sees; anything else runs in a shell.
- ``pycon``: a Python session, with doctest's rules.
- any other language, where the first line is a comment of a file's name alone (``# my.yaml``),
  or where a name follows the language (``json config.json``): that file.

Fences of no language, and others, are not run.

``python tests/workbench/documented.py PAGE...`` writes the outputs of commands anew, those with
``...`` left alone.
"""

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Command", "Session", "commands", "renew", "run_page"]

EXAMPLES = Path(__file__).parents[2] / "examples"
_FENCE = re.compile(r"^```([a-z]*)(?: ([\w./-]+))?\n(.*?)^```$", re.M | re.S)
_FILE = re.compile(r"# ([\w./-]+\.\w+)\n")
_CHECKER = doctest.OutputChecker()


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command of a page and what stands below it."""

    line: str
    printed: str


def commands(text: str) -> list[Command]:
    """The commands of a ``console`` snippet."""
    parts = re.split(r"^\$ ", text, flags=re.M)
    assert not parts[0], f"a console snippet begins with a command: {parts[0][:60]!r}"
    return [
        Command(line=line, printed=printed)
        for line, _, printed in (part.partition("\n") for part in parts[1:])
    ]


@dataclass(slots=True)
class Session:
    """Where a page's snippets run: the working directory, and the names of its Python session."""

    names: dict[str, Any] = field(default_factory=dict)
    installed: list[str] = field(default_factory=list)  #: what was put on the path

    def run(self, line: str, told: str) -> str:
        """What a command prints, errors after the rest.

        Args:
            told: what stands below it; unless that tells of a failure, there must be none.
        """
        program, _, arguments = line.partition(" ")
        if line == "pip install -e .":
            self._install(Path.cwd())
            return ""
        if program != "workbench":
            done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, f"$ {line}\n{done.stdout}{done.stderr}"
            return done.stdout + done.stderr
        arguments, _, file = arguments.partition(" > ")
        code, printed, said = _workbench(arguments)
        if code == 0 and file:
            Path(file).write_text(printed, encoding="utf-8")
            return ""
        if code == 0:
            return printed  # what is said beside it is progress
        words = {1: ("FAILED", "findings"), 2: ("error: ",)}[code]
        assert any(word in told for word in words), f"$ {line}: exit code {code}\n{said}"
        return printed + said

    def _install(self, folder: Path) -> None:
        from tiles.kernels.registry import kernels

        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        (info / "METADATA").write_text(head)
        groups = (
            "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in points.items())])
            for group, points in project["entry-points"].items()
        )
        (info / "entry_points.txt").write_text("\n".join(groups) + "\n")
        sys.path.insert(0, str(folder))
        self.installed.append(str(folder))
        kernels.cache_clear()

    def close(self) -> None:
        """Take back what ``pip install`` did."""
        from tiles.kernels.registry import kernels

        modules = {path.stem for folder in self.installed for path in Path(folder).glob("*.py")}
        for folder in self.installed:
            sys.path.remove(folder)
        for name in modules & set(sys.modules):
            del sys.modules[name]
        if self.installed:
            kernels.cache_clear()


def _workbench(arguments: str) -> tuple[int, str, str]:
    """Exit code, output and what was said on stderr."""
    import shlex

    from workbench.cli import main

    before, out, said = sys.argv, _Utf8(), _Utf8()
    sys.argv = ["workbench", *shlex.split(arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            main()
        raise AssertionError("the command line ends by SystemExit")
    except SystemExit as stopped:
        code = stopped.code
    finally:
        sys.argv = before
    assert isinstance(code, int | None)
    return code or 0, out.getvalue(), said.getvalue()


class _Utf8(io.StringIO):
    """Text as it goes into a pipe."""

    encoding = "utf-8"


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    if not (folder / "examples").exists():
        (folder / "examples").symlink_to(EXAMPLES)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_page(page: Path, folder: Path) -> int:
    """Run a page's snippets in a folder; the number of commands and of Python examples.

    The repository's ``examples`` are there as they are where the commands are typed.

    Raises:
        AssertionError: something prints other than what stands there; the message shows both.
    """
    text = page.read_text(encoding="utf-8")
    session, ran = Session(), 0
    try:
        with _inside(folder):
            for found in _FENCE.finditer(text):
                kind, body = found[1], found[3]
                where = f"{page.name}:{text.count(chr(10), 0, found.start()) + 2}"
                if kind == "console":
                    for command in commands(body):
                        ran += 1
                        _compare(where, command, session.run(command.line, command.printed))
                elif kind == "pycon":
                    ran += _session(where, body, session)
                else:
                    _write(found)
    finally:
        session.close()
    return ran


def _write(found: re.Match[str]) -> None:
    """The file that a fence names, if it does."""
    commented = _FILE.match(found[3])
    name = found[2] or (commented[1] if found[1] and commented else None)
    if name:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(found[3])


def _plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


def _compare(where: str, command: Command, got: str) -> None:
    want, printed = _plain(command.printed), _plain(got)
    assert _CHECKER.check_output(want, printed, doctest.ELLIPSIS), (
        f"{where}: $ {command.line}\nstands there:\n{want}\nprinted:\n{printed}"
    )


def _session(where: str, body: str, session: Session) -> int:
    test = doctest.DocTestParser().get_doctest(body, {}, where, where, 0)
    test.globs = session.names  # a page is one session
    said = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test, out=said.write, clear_globs=False)
    assert runner.failures == 0, said.getvalue()
    return len(test.examples)


def renew(page: Path, folder: Path) -> None:
    """Write what commands print now below them, where no ``...`` stands for a part of it."""
    text = page.read_text(encoding="utf-8")
    session = Session()

    def fence(found: re.Match[str]) -> str:
        kind, body = found[1], found[3]
        if kind == "pycon":
            _session(page.name, body, session)
        elif kind != "console":
            _write(found)
        if kind != "console":
            return found[0]
        lines = ""
        for command in commands(body):
            got = session.run(command.line, command.printed)
            kept = command.printed if "..." in command.printed else _plain(got).lstrip("\n")
            lines += f"$ {command.line}\n{kept}"
        return f"```console\n{lines}```"

    with _inside(folder):
        page.write_text(_FENCE.sub(fence, text), encoding="utf-8")
    session.close()


if __name__ == "__main__":
    import tempfile

    for argument in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as scratch:
            renew(Path(argument).resolve(), Path(scratch))
