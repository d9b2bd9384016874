"""``ckptbridge explain``: shows what a plan does with a tensor, and why."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from bridge_core.cli.completion import a_file
from bridge_core.cli.options import examples, takes_registry, target_options
from bridge_core.cli.terminal import aside, say
from bridge_core.errors import RuleError, UnknownKey, UsageError
from bridge_core.messages import fold_names
from bridge_core.ops import Op, chain_specs
from bridge_core.plan import Plan, Step
from bridge_core.state import Key, TensorSpec, join_key

if TYPE_CHECKING:
    from bridge_core.plugins import Registry

__all__ = ["explain", "explanations"]

_EVIDENCE = {
    "rule": "a rule decides it",
    "module": "the type of the live module shows it",
    "template": "the names and shapes of the target's template allow only this layer",
    "metadata": "the file's metadata records it",
    "structure": "the names and shapes in the source prove it",
    "guess": "no evidence proves it; it is guessed from names, as --accept-guesses allows",
}
"""The order of evidence, the strongest first."""

_OTHER_REASONS = {
    "name": "the tensor belongs to no layer; it is copied unchanged",
    "residual": "one layout has no place for it; the metadata stores it, to restore it on the way back",
    "zero": "the target has this tensor and the source does not; zeros do not change what the layer computes",
    "unclaimed": "no evidence shows what it is; it is copied unchanged, as a plain parameter of its module",
    "undecided": "no evidence decides it yet; the neutral layout stores its native axes and what it may be",
}
_WAYS_OUT = "--like FILE, --model PKG.MOD:FACTORY, --rules FILE, or --accept-guesses"


@click.command(
    epilog=examples(
        "ckptbridge explain model.safetensors encoder.layer.0.attention.self.query.weight --to flax",
        "ckptbridge explain model.safetensors '**.embeddings.*.weight' --to flax --accept-guesses",
    ),
)
@click.argument("src", shell_complete=a_file)
@click.argument("key")
@target_options
@takes_registry
def explain(src: str, key: str, **asked: Any) -> None:
    """Show what happens to KEY, and which evidence decided it.

    KEY is the name of a source or target tensor, as inspect prints it or as the file has it, or a pattern:
    * matches one part of a name, ** any number of parts.
    """
    from bridge_core.conversion import plan_conversion

    with aside():
        plan = plan_conversion(src, check=False, **asked)
        blocks = explanations(plan, key, asked.get("registry"))
    for number, block in enumerate(blocks):
        say(*([""] if number else []), *block)


def explanations(plan: Plan, wanted: str, registry: Registry | None = None) -> list[list[str]]:
    """Return a block of lines for each step or problem of the tensors with a name or of a pattern.

    Blocks that differ only in their numbers are folded into one.

    Args:
        plan: The plan, with its problems.
        wanted: The name, as `inspect` prints it or as a file has it, or a pattern.
        registry: The plugins; None for all that are installed.

    Raises:
        UnknownKey: No tensor of the plan has this name.
        UsageError: No tensor matches this pattern, or it is not valid.
    """
    for branch in plan.branches:
        if f"{wanted}.".startswith(f"{branch.name}."):
            return [[_row("source", wanted), _row("left out", branch.reason)]]
    entry = plan.metadata.provenance.get("entry")
    try:
        keys = _find(plan, wanted, registry)
    except UnknownKey:
        if not entry or not wanted.startswith(f"{entry}."):
            raise
        keys = _find(plan, wanted.removeprefix(f"{entry}."), registry)  # the name in the file
    blocks = ["\n".join(block) for block in _blocks(plan, keys)]
    folded = []
    for text, count in fold_names(blocks) if len(blocks) > 1 else [(text, 1) for text in blocks]:
        lines = text.split("\n")
        folded.append([*lines, f"count    {count}"] if count > 1 else lines)
    return folded


def _find(plan: Plan, wanted: str, registry: Registry | None) -> set[Key]:
    from bridge_core.plugins import given_registry
    from bridge_core.resolve import keys_named, spellings_in_plan

    known = dict.fromkeys(
        (
            *plan.specs,
            *(key for step in plan.steps for key in step.targets),
            *plan.ties,
            *plan.missing,
            *plan.allowed_missing,
        )
    )
    is_pattern = "*" in wanted or "{" in wanted
    try:
        matching_keys = keys_named(wanted, known, spellings_in_plan(plan, given_registry(registry)))
    except RuleError as err:
        raise UsageError(f"{wanted!r} is not a pattern: {err.message}", hint=err.hint) from err
    if not matching_keys:
        names = list(dict.fromkeys(map(join_key, known)))
        near = difflib.get_close_matches(wanted.replace("/", "."), names, n=5, cutoff=0.6)
        hint = f"Did you mean {' or '.join(near)}?" if near else "'ckptbridge plan' lists all names."
        path = plan.metadata.provenance.get("path")
        if is_pattern:
            if "*" in wanted:
                hint = f"* matches one part of a name, and ** any number of parts. {hint}"
            raise UsageError(
                f"no tensor of the source or the target matches {wanted!r}.", path=path, hint=hint
            )
        raise UnknownKey("neither the source nor the target has this key.", path=path, key=wanted, hint=hint)
    return matching_keys


def _blocks(plan: Plan, keys: set[Key]) -> Iterator[list[str]]:
    for step in plan.steps:
        if keys.intersection((*step.sources, *step.targets)):
            yield _step_block(plan, step)
    for dropped in plan.dropped:
        if dropped.key in keys and not dropped.kept:
            yield [_source(plan, dropped.key), _row("dropped", dropped.reason)]
    for key, other in plan.ties.items():
        if key in keys:
            yield [_row("target", join_key(key)), _row("tied", f"shares the tensor of {join_key(other)}")]
    for key, options in plan.ambiguous.items():
        if key in keys:
            yield [
                _source(plan, key),
                _row("kind", f"not decided: {' or '.join(options)}"),
                _row("decide", _WAYS_OUT),
            ]
    for key, why in {**plan.unsupported, **plan.unexplained}.items():
        if key in keys:
            row = _source(plan, key) if key in plan.specs else _row("target", join_key(key))
            yield [row, _row("refused", why)]
    for mismatch in plan.mismatched:
        if mismatch.source in keys or mismatch.target in keys:
            yield [
                _row("source", f"{join_key(mismatch.source)}  {mismatch.found}"),
                _row("target", f"{join_key(mismatch.target)}  {mismatch.expected}"),
                _row("problem", "the shapes differ"),
            ]
    yield from _lone(plan.unexpected, keys, "source", "problem", "the target has no place for it")
    yield from _lone(plan.missing, keys, "target", "problem", "no source tensor fills it")
    yield from _lone(
        plan.allowed_missing, keys, "target", "left out", "no source tensor fills it, which is allowed"
    )


def _lone(unpaired: Iterable[Key], keys: set[Key], side: str, what: str, why: str) -> Iterator[list[str]]:
    for key in unpaired:
        if key in keys:
            yield [_row(side, join_key(key)), _row(what, why)]


def _step_block(plan: Plan, step: Step) -> list[str]:
    specs = tuple(plan.specs[key] for key in step.sources)
    results = chain_specs(specs, step.ops)
    lines = [_source(plan, key) for key in step.sources] or [_row("source", "(none)")]
    lines += [_row("target", f"{join_key(k)}  {s}") for k, s in zip(step.targets, results, strict=False)]
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
        results = op.spec(specs)
        before = ", ".join(map(str, specs)) or "nothing"
        yield f"{op}: {before} -> {', '.join(map(str, results)) or 'nothing'}"
        specs = results


def _source(plan: Plan, key: Key) -> str:
    return _row("source", f"{join_key(key)}  {plan.specs[key]}" if key in plan.specs else join_key(key))


def _row(label: str, text: str) -> str:
    return f"{label:<8} {text}"
