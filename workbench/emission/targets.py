"""What ``workbench emit`` can write: one small interface, and one line for each target.

A target is an object (or a module) with ``write(run, output, **options)``.  It writes all or
nothing (of T4 files, which know nothing of each other, each by itself), and answers with the files
that it wrote, or with a record of its own that has ``lines()`` for people and ``to_dict()`` for
machines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiles.intake import nearest, shown

if TYPE_CHECKING:
    from tuning import Run
    from workbench.emission.emitted import Emitted, Writer

__all__ = ["DEFAULT", "TARGETS", "Target", "target"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A target; its code is loaded when it is used."""

    name: str
    description: str  #: one line
    home: str  #: a module with ``write``, or ``module:object``
    options: tuple[str, ...] = ()  #: keywords that ``write`` takes, as `emit` spells them

    def write(self, run: "Run", output: Path, **options: Any) -> "Emitted":
        """Write what ships of a run; options that are ``None`` were not given.

        Raises:
            ValueError: an option that the target does not take, or the target's own refusal.
        """
        given = {name: value for name, value in options.items() if value is not None}
        for name in given:
            if name not in self.options:
                spelt = [f"--{one.replace('_', '-')}" for one in self.options]
                raise ValueError(
                    f"--target {self.name} takes no --{name.replace('_', '-')}: leave it out"
                    + (f" (it takes {', '.join(spelt)})" if spelt else "")
                )
        from workbench.emission.emitted import EmittedFiles  # listing targets needs none of it

        module, _, attribute = self.home.partition(":")
        home: Any = import_module(module)
        writer: Writer = getattr(home, attribute) if attribute else home
        done = writer.write(run, output, **given)
        if isinstance(done, Sequence):
            return EmittedFiles(target=self.name, files=tuple(done))
        return done


_LIST = (
    Target(
        name="wheel",
        description="a pip-installable package with its evidence, and its wheel",
        home="workbench.emission.package",
        options=("name", "rows_loss"),
    ),
    Target(
        name="hf-kernels",
        description="a Hugging Face kernel: source layout of edition 5, and build/torch-cuda",
        home="workbench.emission.hub_kernel",
        options=("name", "repo_id", "rows_loss"),
    ),
    Target(
        name="kernel-tuner-t4",
        description="TuningSchema T4 results for other tuners, a file a study",
        home="workbench.emission.t4_files",
        options=("problem", "kernel"),
    ),
    *(
        Target(
            name=name,
            description=f"tuned files that {engine} loads for its own kernel of {products}",
            home=f"workbench.deploy.config_targets:{name.upper().replace('-', '_')}",
            options=("device", "triton", "rows_loss"),
        )
        for name, engine, products in (
            ("vllm-linear", "vLLM", "block-scaled linear layers"),
            ("vllm-moe", "vLLM", "a mixture's experts"),
            ("sglang-linear", "SGLang", "block-scaled linear layers"),
            ("sglang-moe", "SGLang", "a mixture's experts"),
        )
    ),
    # One more target is one more line here; its options are keywords of `workbench.emit`.
)

#: Targets by name, in the order in which they are listed.
TARGETS: dict[str, Target] = {one.name: one for one in _LIST}
DEFAULT = "wheel"


def target(name: str) -> Target:
    """The target of that name.

    Raises:
        ValueError: there is none; the message suggests one.
    """
    if name not in TARGETS:
        raise ValueError(
            f"unknown target {shown(name)}: {nearest(name, TARGETS)}choose from "
            f"{', '.join(TARGETS)}"
        )
    return TARGETS[name]
