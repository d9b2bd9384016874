"""Proof: what running two models on the same weights showed, as data, text, JSON and a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bridge_core.messages import count, folded, listed
from bridge_core.proof.causes import Cause
from bridge_core.proof.running.common_axes import error_text
from bridge_core.proof.running.module_pairs import ModuleError
from bridge_core.proof.running.outputs import Outputs
from bridge_core.proof.running.setting_differences import SettingDifference

__all__ = ["FirstDifference", "Hidden", "ModelName", "Proof"]


@dataclass(frozen=True)
class ModelName:
    """What one of the two models is, for people.

    Args:
        framework: Name of its framework.
        type: Name of its class.
    """

    framework: str
    type: str

    def to_json(self) -> dict[str, str]:
        """Return it as plain data."""
        return {"framework": self.framework, "type": self.type}


@dataclass(frozen=True)
class FirstDifference:
    """The innermost module whose inputs are equal on both sides and whose outputs are not.

    Args:
        source: Path of the source's module; empty for the model itself.
        target: Path of the target's.
        source_type: Qualified name of its class.
        target_type: Of the target's.
        input_error: Error of its inputs; None if they cannot be compared.
        output_error: Error of its outputs.
        before: Paths of the module inside it before which the mistake is, one for each side; None if no
            module inside it has other inputs.
        equal_before: How many pairs of modules before it have equal outputs.
        inside: How many pairs of modules are directly inside it.
    """

    source: str
    target: str
    source_type: str
    target_type: str
    input_error: float | None
    output_error: float | None
    before: tuple[str, str] | None = None
    equal_before: int = 0
    inside: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "source": self.source,
            "target": self.target,
            "source_type": self.source_type,
            "target_type": self.target_type,
            "input_error": self.input_error,
            "output_error": self.output_error,
            "before": list(self.before) if self.before else None,
            "equal_before": self.equal_before,
        }


@dataclass(frozen=True, eq=False)
class Hidden:
    """A difference that is smaller than the rounding of the models, with its confirmed cause.

    Args:
        error: Error of the outputs in float64.
        first: The first module that differs in float64.
        causes: What explains it, best first.
    """

    error: float
    first: FirstDifference
    causes: tuple[Cause, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "error_in_float64": self.error,
            "first_difference": self.first.to_json(),
            "causes": [cause.to_json() for cause in self.causes],
        }


@dataclass(frozen=True, eq=False)
class Proof:
    """What a proof showed.

    Errors are the largest absolute difference divided by the largest absolute value of the source.

    Args:
        equal: Whether all outputs are equal within the control; without a run, whether no setting differs.
        source: The source's model.
        target: The target's model.
        ran: Whether the models were run.
        outputs: The outputs, compared; None if the models were not run.
        control: The error that rounding explains: what computing in float64 and in another order changes in
            the source's outputs, plus the same of the target.
        controls: The two summands, of the source and of the target.
        error_in_float64: The error where both compute in float64; None if that is not offered.
        first: The first module that differs; None if none does, or it was not found.
        causes: What explains it, best first.
        modules: The errors of all modules that belong together, in the order of the source.
        limit: The error up to which arrays of modules are equal.
        settings: Settings that differ.
        unread: Settings that could not be read or compared, a phrase each.
        problems: What else makes outputs unequal, a sentence each: NaN, for example.
        blind: What the inputs cannot show, a sentence each.
        notes: What else a reader should know, a sentence each.
        hidden: What differs in float64 where the outputs are equal up to rounding; None if nothing does, or
            no cause of it is known.
    """

    equal: bool
    source: ModelName
    target: ModelName
    ran: bool = True
    outputs: Outputs | None = None
    control: float = 0.0
    controls: tuple[float, float] = (0.0, 0.0)
    error_in_float64: float | None = None
    first: FirstDifference | None = None
    causes: tuple[Cause, ...] = ()
    modules: tuple[ModuleError, ...] = ()
    limit: float = 0.0
    settings: tuple[SettingDifference, ...] = ()
    unread: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    blind: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    hidden: Hidden | None = None

    @property
    def error(self) -> float | None:
        """The largest error of the outputs; None if the models were not run."""
        return self.outputs.error if self.outputs is not None else None

    @property
    def next_step(self) -> str:
        """What to do now, one sentence."""
        causes = [cause for cause in self.causes if cause.target != "unknown"]
        if not self.ran:
            return _NEXT_SETTINGS if self.settings else _NEXT_WITHOUT_RUN
        if self.equal and self.hidden is not None:
            return f"{self.hidden.causes[0].mend} Rounding hides this difference in these values, not in all."
        if self.equal:
            return _NEXT_EQUAL_BUT if self.settings else _NEXT_EQUAL
        if causes:
            return f"{causes[0].mend} Then run this again."
        if self.problems:
            return self.problems[0] + " Mend that first, then run this again."
        first = self.first
        if first is None:
            return "Compare the code of the two models; no module could be named."
        where = f"{first.source or 'the source'} and {first.target or 'the target'}"
        if first.before is not None:
            where += f", up to where they call {first.before[0]} (target: {first.before[1]})"
        return f"Compare the code of {where}; then run this again."

    def to_json(self) -> dict[str, Any]:
        """Return the proof as plain data; errors may be infinite or NaN."""
        outputs = self.outputs
        return {
            "equal": self.equal,
            "next_step": self.next_step,
            "ran": self.ran,
            "source": self.source.to_json(),
            "target": self.target.to_json(),
            "error": self.error,
            "control": self.control if self.ran else None,
            "controls": {"source": self.controls[0], "target": self.controls[1]} if self.ran else None,
            "error_in_float64": self.error_in_float64,
            "outputs": [pair.to_json() for pair in outputs.pairs] if outputs else [],
            "only_source": list(outputs.only_source) if outputs else [],
            "only_target": list(outputs.only_target) if outputs else [],
            "problems": list(self.problems),
            "first_difference": self.first.to_json() if self.first is not None else None,
            "causes": [cause.to_json() for cause in self.causes],
            "hidden": self.hidden.to_json() if self.hidden is not None else None,
            "settings": [difference.to_json() for difference in self.settings],
            "unread": list(self.unread),
            "modules": [module.to_json() for module in self.modules],
            "blind_spots": list(self.blind),
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """Return the proof as lines of text."""
        return [*self._verdict(), *self._difference(), *self._settings(), *self._remarks()]

    def html(self) -> str:
        """Return the proof as one page of HTML that needs nothing else."""
        from bridge_core.proof.running.html_page import page

        return page(self)

    def _repr_html_(self) -> str:
        """Return the proof for a notebook: the verdict, and its other lines; `html` has the picture."""
        from bridge_core.html import fragment, section, verdict_line

        first, *verdict = self._verdict()
        word, tone = ("equal", "good") if self.equal else ("different", "bad")
        _, _, text = first.partition(": ")
        difference = self._difference()
        return fragment(
            verdict_line(word, tone, text or first),
            section("What was measured", verdict, opened=True),
            section("Where and why", difference, tone="bad", opened=True),
            section("Settings", self._settings(), tone="warn"),
            section("Notes", self._remarks()),
        )

    def _verdict(self) -> list[str]:
        models = (
            f"{self.source.type} ({self.source.framework}) and {self.target.type} ({self.target.framework})"
        )
        if not self.ran:
            differing = count(len(self.settings), "setting")
            head = "no setting that can be read differs" if self.equal else f"different: {differing}"
            return [f"{head}: {models}, not run", f"next: {self.next_step}"]
        lines = [
            f"{'equal' if self.equal else 'different'}: the outputs of {models}",
            f"next: {self.next_step}",
            f"largest error {error_text(self.error)}; rounding explains {error_text(self.control)} "
            f"(source {error_text(self.controls[0])}, target {error_text(self.controls[1])})",
        ]
        if self.error_in_float64 is not None:
            lines.append(f"in float64 {error_text(self.error_in_float64)}")
        if self.outputs is not None:
            lines += _output_lines(self.outputs)
        return [*lines, *self.problems]

    def _difference(self) -> list[str]:
        lines = [] if self.first is None else ["first module that differs:", *_place_lines(self.first)]
        lines += _cause_lines(self.causes)
        if self.first is not None and not self.causes:
            lines.append("no known cause explains it")
            lines += [f"  its settings:{line[1:]}" for line in map(_setting_line, self._settings_there())]
        if self.first is not None:
            lines.append("only the first difference is named; others may follow it")
        if self.hidden is not None:
            lines += [
                f"hidden by rounding in these values: in float64 the outputs differ by "
                f"{error_text(self.hidden.error)}, first in:",
                *_place_lines(self.hidden.first),
                *_cause_lines(self.hidden.causes),
            ]
        return lines

    def _settings_there(self) -> list[SettingDifference]:
        """Return the settings that differ in the first module that differs, and below it."""
        if self.first is None or not self.first.source:
            return []
        return [one for one in self.settings if f"{one.source}.".startswith(f"{self.first.source}.")]

    def _settings(self) -> list[str]:
        lines: list[str] = []
        if self.settings:
            lines.append("settings that differ:" if not self.ran or not self.equal else _UNSEEN)
            lines += _first(folded(map(_setting_line, self.settings)))
        if self.unread and (not self.equal or not self.ran):
            lines.append("settings that were not compared:")
            lines += _first(folded(f"  {text}" for text in self.unread))
        return lines

    def _remarks(self) -> list[str]:
        return [f"note: {text}" for text in (*self.blind, *self.notes)]


_MOST = 24
_NEXT_EQUAL = "Nothing to mend. 'ckptbridge convert' with the same rules or recipe gives these weights."
_NEXT_EQUAL_BUT = (
    "Look at the settings below that differ: these outputs do not show what they change, and training may. "
    "'ckptbridge convert' with the same rules or recipe gives these weights."
)
_NEXT_SETTINGS = (
    "Make these settings equal, or see what they change by running the models (without run=False, --no-run)."
)
_NEXT_WITHOUT_RUN = "Run the models (without run=False, --no-run): much that differs is in no setting."
_UNSEEN = "settings that differ, not visible in these outputs:"


def _output_lines(outputs: Outputs) -> list[str]:
    """Return lines about outputs: several ones, other axes, and those that one side has only."""
    lines: list[str] = []
    for pair in outputs.pairs:
        one, other = pair.source or "(one array)", pair.target or "(one array)"
        names = one if pair.source == pair.target else f"{one} and {other}"
        axes = f" ({pair.how})" if pair.how else ""
        if len(outputs.pairs) > 1 or axes:
            lines.append(f"  output {names} {list(pair.shape)}: {error_text(pair.error)}{axes}")
    for side, only in (("source", outputs.only_source), ("target", outputs.only_target)):
        if only:
            lines.append(f"  only the {side} returns {listed(name or '(one array)' for name in only)}")
    return lines


def _place_lines(first: FirstDifference) -> list[str]:
    """Return lines about where two models part."""
    errors = error_text(first.input_error), error_text(first.output_error)
    lines = [
        f"  source: {first.source or '(the model itself)'}  {first.source_type}",
        f"  target: {first.target or '(the model itself)'}  {first.target_type}",
        f"  error of its inputs {errors[0]}, of its outputs {errors[1]}"
        + (": they have other sizes, or are not finite" if errors[1] == "inf" else ""),
    ]
    if first.before is not None:
        lines.append(f"  in what it computes before {first.before[0]} (target: {first.before[1]})")
    elif first.inside:
        lines.append("  in what it computes after the modules inside it, whose outputs are equal")
    agree = "agrees" if first.equal_before == 1 else "agree"
    return [*lines, f"  {count(first.equal_before, 'pair')} of modules before it {agree}"]


def _cause_lines(causes: Sequence[Cause]) -> list[str]:
    """Return lines about causes, the best first."""
    lines: list[str] = []
    for cause in causes:
        errors = error_text(cause.error_without), error_text(cause.error_with)
        lines += [
            f"cause: {cause.text} [{cause.code}]",
            f"  error {errors[0]} without the change, {errors[1]} with it",
            f"  {cause.mend}",
        ]
    return lines


def _setting_line(difference: SettingDifference) -> str:
    where = difference.source or "the model"
    if difference.target != difference.source:
        where += f" (target: {difference.target or 'the model'})"
    note = f"; {difference.note}" if difference.note else ""
    return f"  {where}: {difference.name} {difference.source_value}, target {difference.target_value}{note}"


def _first(texts: Sequence[str]) -> list[str]:
    more = [f"  and {len(texts) - _MOST} more"] if len(texts) > _MOST else []
    return [*texts[:_MOST], *more]
