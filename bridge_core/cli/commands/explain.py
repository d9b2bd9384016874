"""``ckptbridge explain``: one tensor's way through a plan, in words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

import click

from bridge_core.cli.options import examples, takes_registry, target_options
from bridge_core.cli.terminal import aside, say
from bridge_core.errors import RuleError, UsageError
from bridge_core.messages import fold_names
from bridge_core.ops import Op, chain_specs
from bridge_core.plan import Plan, Step
from bridge_core.rules import Pattern
from bridge_core.state import Key, TensorSpec, join_key

__all__ = ["explain", "explanations"]

_EVIDENCE = {
    "rule": "a rule says so",
    "module": "the live module's type says so",
    "template": "the names and shapes of the target's template leave no other reading",
    "metadata": "the file's own metadata says so",
    "structure": "the names and shapes in the source prove it by themselves",
    "guess": "nothing proves it; it was guessed from names, as --accept-guesses allows",
}
"""The order of evidence, the strongest first."""

_OTHER_REASONS = {
    "name": "no layer is involved; the tensor goes as it is",
    "residual": "one side has no place for it; the metadata keeps it, to be restored on the way back",
    "zero": "the target's form has this tensor and the source does not; zeros leave the layer as it is",
    "unclaimed": "nothing says what it is; it is copied unchanged, as a plain parameter of its module",
    "undecided": "no evidence settles it yet; the neutral form keeps its axes and its candidates",
}
_WAYS_OUT = "--like FILE, --model PKG.MOD:FACTORY, --rules FILE, or --accept-guesses"


@click.command(
    epilog=examples(
        "ckptbridge explain model.safetensors encoder.layer.0.attention.self.query.weight --to flax",
        "ckptbridge explain model.safetensors '**.embeddings.*.weight' --to flax --accept-guesses",
    ),
)
@click.argument("src")
@click.argument("key")
@target_options
@takes_registry
def explain(src: str, key: str, **asked: Any) -> None:
    """Show what happens to KEY and which evidence decided it.

    KEY is the name of a source or target tensor, or a pattern: * stands for one part of a name, ** for
    any number of parts.
    """
    from bridge_core.conversion import plan_conversion

    with aside():
        made = plan_conversion(src, check=False, **asked)
    for number, block in enumerate(explanations(made, key)):
        say(*([""] if number else []), *block)


def explanations(plan: Plan, wanted: str) -> list[list[str]]:
    """Return a block of lines for each thing that happens to the tensors of a name or a pattern.

    Blocks that differ in their numbers alone are folded into one.

    Raises:
        UsageError: Nothing in the plan has this name or fits this pattern.
    """
    keys = _find(plan, wanted)
    blocks = ["\n".join(block) for block in _blocks(plan, keys)]
    folded = []
    for text, count in fold_names(blocks) if len(blocks) > 1 else [(text, 1) for text in blocks]:
        lines = text.split("\n")
        folded.append([*lines, f"count    {count}"] if count > 1 else lines)
    return folded


def _find(plan: Plan, wanted: str) -> set[Key]:
    known = dict.fromkeys(
        (
            *plan.specs,
            *(key for step in plan.steps for key in step.targets),
            *plan.ties,
            *plan.missing,
            *plan.allowed_missing,
        )
    )
    found = {key for key in known if wanted in (join_key(key), join_key(key, escape=True))}
    if not found and ("*" in wanted or "{" in wanted):
        try:
            pattern = Pattern.parse(wanted)
        except RuleError as err:
            raise UsageError(f"{wanted!r} is no pattern: {err}") from err
        found = {key for key in known if pattern.match(key) is not None}
    if not found:
        names = list(dict.fromkeys(map(join_key, known)))
        near = difflib.get_close_matches(wanted, names, n=5, cutoff=0.6)
        hint = f"Did you mean {' or '.join(near)}?" if near else "'ckptbridge plan' lists them all."
        raise UsageError(f"no tensor of the source or the target is named {wanted!r}.", hint=hint)
    return found


def _blocks(plan: Plan, keys: set[Key]) -> Iterator[list[str]]:
    for step in plan.steps:
        if keys.intersection((*step.sources, *step.targets)):
            yield _step_block(plan, step)
    for dropped in plan.dropped:
        if dropped.key in keys and not dropped.kept:
            yield [_source(plan, dropped.key), _row("dropped", dropped.reason)]
    for key, keeper in plan.ties.items():
        if key in keys:
            yield [_row("target", join_key(key)), _row("tied", f"shares the tensor of {join_key(keeper)}")]
    for key, options in plan.ambiguous.items():
        if key in keys:
            yield [
                _source(plan, key),
                _row("kind", f"not settled: {' or '.join(options)}"),
                _row("settle", _WAYS_OUT),
            ]
    for key, why in {**plan.unsupported, **plan.unexplained}.items():
        if key in keys:
            found = _source(plan, key) if key in plan.specs else _row("target", join_key(key))
            yield [found, _row("refused", why)]
    for mismatch in plan.mismatched:
        if mismatch.source in keys or mismatch.target in keys:
            yield [
                _row("source", f"{join_key(mismatch.source)}  {mismatch.found}"),
                _row("target", f"{join_key(mismatch.target)}  {mismatch.expected}"),
                _row("problem", "the shapes do not fit"),
            ]
    yield from _lone(plan.unexpected, keys, "source", "problem", "the target has no place for it")
    yield from _lone(plan.missing, keys, "target", "problem", "nothing in the source fills it")
    yield from _lone(plan.allowed_missing, keys, "target", "left out", "nothing fills it, which was allowed")


def _lone(found: Iterable[Key], keys: set[Key], side: str, what: str, why: str) -> Iterator[list[str]]:
    for key in found:
        if key in keys:
            yield [_row(side, join_key(key)), _row(what, why)]


def _step_block(plan: Plan, step: Step) -> list[str]:
    specs = tuple(plan.specs[key] for key in step.sources)
    made = chain_specs(specs, step.ops)
    lines = [_source(plan, key) for key in step.sources] or [_row("source", "(none)")]
    lines += [_row("target", f"{join_key(k)}  {s}") for k, s in zip(step.targets, made, strict=False)]
    if not step.targets:
        lines.append(_row("target", "(metadata)"))
    lines.append(_row("kind", step.kind))
    lines.append(_row("why", _reason(step.evidence)))
    if step.rule:
        lines.append(_row("rule", step.rule))
    options = _candidates(plan, step)
    if options:
        lines.append(_row("options", " or ".join(options)))
    lines += [_row("op", text) for text in _op_lines(specs, step.ops)] or [_row("op", "none")]
    lines.append(_row("exact", "yes" if step.exact else "no, values are lost"))
    return lines


def _reason(evidence: str) -> str:
    if evidence in _EVIDENCE:
        rank = list(_EVIDENCE).index(evidence) + 1
        return f"{evidence}: {_EVIDENCE[evidence]} (evidence {rank} of {len(_EVIDENCE)}, the strongest first)"
    return f"{evidence}: {_OTHER_REASONS[evidence]}" if evidence in _OTHER_REASONS else evidence


def _candidates(plan: Plan, step: Step) -> tuple[str, ...]:
    if step.kind != "undecided":
        return ()
    layers = (plan.metadata.layers.get(plan.metadata.owner(key)[0]) for key in step.targets)
    return next((info.candidates for info in layers if info is not None), ())


def _op_lines(specs: tuple[TensorSpec, ...], ops: tuple[Op, ...]) -> Iterator[str]:
    for op in ops:
        made = op.spec(specs)
        before = ", ".join(map(str, specs)) or "nothing"
        yield f"{op}: {before} -> {', '.join(map(str, made)) or 'nothing'}"
        specs = made


def _source(plan: Plan, key: Key) -> str:
    return _row("source", f"{join_key(key)}  {plan.specs[key]}" if key in plan.specs else join_key(key))


def _row(label: str, text: str) -> str:
    return f"{label:<8} {text}"
