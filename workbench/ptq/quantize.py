"""Quantises a trained model by a recipe and a scheme."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from tiles.formats import ScaleRule, TensorFormat
from tiles.intake import shown
from tiles.recipes import Recipe
from workbench.arguments import items_of
from workbench.nn.backend import Backend
from workbench.ptq.attention import take_attention_apart
from workbench.ptq.calibrate import Batch, calibrate, check_batches, measure, recalibrate_batchnorm
from workbench.ptq.formats import ptq_recipe, weight_only
from workbench.ptq.gptq import check_gptq
from workbench.ptq.interceptor import Interceptor
from workbench.ptq.kernel_path import KernelPath
from workbench.ptq.operator import Phase, Session
from workbench.ptq.options import Asked, digest_of_batches
from workbench.ptq.quantized import Quantized, quantized_of
from workbench.ptq.replace import (
    check_keep,
    kept_by_name,
    quantized_layers,
    replace_layers,
    restore,
)
from workbench.ptq.scheme import Kind, Rule, Scheme, scheme_of
from workbench.ptq.search import Scores, Trial, check_reference, number_of, search

__all__ = ["copied_model", "prepared", "quantize"]


def quantize(
    model: nn.Module,
    recipe: str | Recipe,
    *,
    calibration: object = None,
    scheme: str | Scheme = "standard",
    score: Callable[[nn.Module], float] | None = None,
    criterion: float = 0.01,
    keep: str | Sequence[str] = (),
    backend: Backend | None = None,
    progress: Callable[[Trial], None] = lambda trial: None,
) -> Quantized:
    """Quantise a trained model; the model that is given stays as it is.

    Args:
        model: on any device.
        recipe: a name of ``tiles.recipes``, or a ``Recipe``: the formats.
        calibration: batches of the model's inputs, each a tensor, a tuple of positional arguments
            or a mapping of arguments by name; recipes of weights alone do without, but for GPTQ.
        scheme: ``standard``, ``extended`` or a ``Scheme``: operators, and how scales are found.
        score: of a model, higher is better.  With it operators fall back to high precision until
            the criterion holds; without it all stay quantised.
        criterion: largest relative loss of the score.
        keep: pattern, or patterns, of names of layers and operators that stay in high precision.
        backend: multiplies linear layers on every device; default: kernels on CUDA devices, and
            elsewhere the values of codes.
        progress: told of every score.
    Returns:
        The quantised model, its operators with their formats, and what was kept with reasons.
    Raises:
        ValueError: recipe, scheme, calibration or criterion do not fit, the model cannot be called
            with a batch, a weight or an input of calibration is not finite, a score is no number, a
            pattern of ``keep`` matches nothing, or nothing in the model can be quantised.
        TypeError: ``model`` is no module, or another argument of the wrong type.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"quantize takes a torch module, not {type(model).__name__}")
    if isinstance(criterion, bool) or not isinstance(criterion, int | float):
        raise TypeError(f"criterion {shown(criterion)}: a relative loss, a number such as 0.01")
    if not 0 <= criterion < 1:
        raise ValueError(f"criterion {criterion:g}: a relative loss from 0 to below 1, as 0.01")
    chosen, how = ptq_recipe(recipe), scheme_of(scheme)
    patterns = tuple(items_of("keep", keep, str, "patterns of names"))
    chosen = _with_rule(chosen, how)
    if how.gptq:
        check_gptq(chosen.weight)
    batches = check_batches(calibration)
    if not batches and (how.gptq or how.smooth is not None or not weight_only(chosen)):
        raise ValueError(
            f"{chosen.name} under the {how} scheme needs calibration: give at least one batch (a "
            "direct cast finds the model's products by it)"
        )
    copied = copied_model(model)
    asked = Asked(
        keep=patterns,
        criterion=None if score is None else criterion,
        calibration_batches=len(batches),
        calibration_digest=digest_of_batches(batches),
        backend="" if backend is None else backend.name,
    )
    reference = None
    if score is not None:
        reference = number_of(score, copied)
        check_reference(reference)
    made, session, path, interceptor = prepared(copied, chosen, how, patterns, backend)
    calibrate(made, session, batches)
    _keep_asked(session, patterns)
    _keep_first_last(made, session)
    quantized = [o for o in session.operators.values() if not o.kept]
    if not quantized:
        raise ValueError(
            f"nothing in {type(model).__name__} can follow {chosen.name} ({how}): {_why(session)}"
        )
    if batches:
        measure(made, session, batches)
    norms = _Norms(made, session, batches if how.recalibrate_batchnorm else [])
    session.phase = Phase.RUN
    scores: Scores | None = None
    if score is None or reference is None:
        norms.renew()
    else:
        scores = search(
            made,
            quantized,
            score,
            reference,
            criterion,
            changed=norms.renew,
            renewing=norms.renew_from_now_on if norms.before else None,
            progress=progress,
        )
    made = restore(made)
    interceptor.attach(made)
    return quantized_of(made, session, path, asked, scores=scores, measured=bool(batches))


def copied_model(model: nn.Module) -> nn.Module:
    """A copy in eval mode.

    Raises:
        ValueError: the model is quantised already, a tensor of it lies on the meta device, or it
            cannot be copied.
    """
    if quantized_layers(model):
        raise ValueError("the model is quantised already: quantise the one that it was made of")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise ValueError(f"{name} lies on the meta device and holds nothing: load it first")
    try:
        return copy.deepcopy(model).eval()
    except (RuntimeError, TypeError) as error:  # of tensors that were computed, of locks and files
        text = " ".join(str(error).split())
        raise ValueError(
            f"{type(model).__name__} cannot be copied ({text}): build it anew and load its weights"
        ) from error


def prepared(
    model: nn.Module, recipe: Recipe, scheme: Scheme, keep: tuple[str, ...], backend: Backend | None
) -> tuple[nn.Module, Session, KernelPath, Interceptor]:
    """A model with its layers replaced, in place, and its functions watched; not calibrated.

    Raises:
        ValueError: a weight is not finite.
    """
    session = Session(recipe=recipe, scheme=scheme, launches=backend is not None)
    path = KernelPath(backend)
    if not scheme.kinds.isdisjoint((Kind.LINEAR, Kind.MATMUL)):
        session.unknown |= take_attention_apart(model)
    made = replace_layers(model, session, keep, path)
    interceptor = Interceptor(session)
    interceptor.attach(made)
    return made, session, path, interceptor


def _with_rule(recipe: Recipe, scheme: Scheme) -> Recipe:
    """The recipe with the scheme's rule for scales of weights."""
    scaling = recipe.weight.scaling
    if scheme.weight_rule is not Rule.MSE or scaling is None:
        return recipe
    if scaling.rule is not ScaleRule.ABSMAX:
        return recipe  # a format's own rule, as E8M0 scales have it, stays
    weight = replace(recipe.weight, scaling=replace(scaling, rule=ScaleRule.MSE))
    return replace(recipe, weight=TensorFormat.parse(str(weight)))


def _keep_asked(session: Session, keep: tuple[str, ...]) -> None:
    check_keep(keep, [*session.operators, *session.unknown])
    for operator in session.operators.values():
        operator.kept = operator.kept or kept_by_name(operator.name, keep)


def _keep_first_last(model: nn.Module, session: Session) -> None:
    """Keep the first convolution and the last linear layer, by the order of their first calls."""
    ordered = [session.operators[name] for name in session.order]
    convolutions = [o for o in ordered if o.kind is Kind.CONV]
    wanted = session.scheme.keep_first_last
    if wanted is None:
        wanted = bool(convolutions)
    if not wanted or weight_only(session.recipe):
        return
    linear = [o for o in ordered if o.kind is Kind.LINEAR]
    for operator, reason in (
        (next(iter(convolutions or linear), None), "the first one"),
        (next(reversed(linear), None), "the last linear layer"),
    ):
        if operator is not None and not operator.kept:
            operator.kept = f"{reason}, which the scheme leaves in high precision"


def _why(session: Session) -> str:
    reasons = {o.name: o.kept for o in session.operators.values()} | session.unknown
    first = next(iter(reasons.items()), None)
    if first is None:
        return "it calls no operator that a scheme has"
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return f"{first[0] or 'the model itself'}: {first[1]}{more}"


class _Norms:
    """Statistics of batch normalisation, renewed on what the model computes as it now is."""

    def __init__(self, model: nn.Module, session: Session, batches: list[Batch]) -> None:
        self.model, self.session, self.batches = model, session, batches
        self.renewing = True
        self.before = {
            name: buffer.clone()
            for name, buffer in model.named_buffers()
            if batches and name.rpartition(".")[2].startswith(("running_", "num_batches"))
        }

    def renew_from_now_on(self, renewing: bool) -> None:
        """Whether statistics are renewed, or stay as they were trained."""
        self.renewing = renewing

    def renew(self) -> None:
        """Recalibrate, or put the statistics back where nothing is quantised."""
        if self.renewing and any(not o.kept for o in self.session.operators.values()):
            recalibrate_batchnorm(self.model, self.session, self.batches)
            return
        buffers = dict(self.model.named_buffers())
        with torch.no_grad():
            for name, value in self.before.items():
                buffers[name].copy_(value)
