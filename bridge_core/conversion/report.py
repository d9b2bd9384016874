"""The report of a conversion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge_core.checkpoint import Saved
from bridge_core.io import Location
from bridge_core.messages import count, folded, size_text
from bridge_core.plan import Dropped, Plan, PlanWarning
from bridge_core.public import renamed
from bridge_core.state import Key, Selection, join_key
from bridge_core.transfer import overflow_message

__all__ = ["Report"]


@renamed(beside="sidecar_files")
@dataclass(frozen=True)
class Report:
    """What a conversion did.

    Args:
        files: Where the files of weights are, the index last.
        sidecar_files: Where the files are, such as a config, that were copied next to the weights.
        format: Name of the format of the files.
        source_layout: Layout of the source.
        target_layout: Layout of the target.
        tensors: Number of tensors that were written.
        total_bytes: Bytes of these tensors; tied ones count once.
        evidence: Kind of evidence -> number of target tensors that it decided.
        guessed: Target tensors whose kind was guessed.
        filled: Target tensors made from constants, because the source has none.
        dropped: Source tensors that were left out, each with its reason.
        left_out: Names, reasons and bytes of the source tensors whose values the target does not have.
        unfilled: Target tensors of the template that were allowed to stay unfilled.
        unclaimed: Source tensors that were copied unchanged although no evidence shows what they are.
        notes: What else a reader should know.
        exact: Whether the source can be restored bit for bit.
        verified: Whether everything was read back and compared.
        warnings: What may be right and give other outputs, and casts with values outside the range of their
            dtype; the notes contain each message as well.
        layout_reason: Why the source was read in its layout; empty if that is not known.
        selection: The part of the source that was converted; None for all.
    """

    files: tuple[Location, ...]
    sidecar_files: tuple[Location, ...]
    format: str
    source_layout: str
    target_layout: str
    tensors: int
    total_bytes: int
    evidence: Mapping[str, int]
    guessed: tuple[Key, ...]
    filled: tuple[Key, ...]
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]
    exact: bool
    verified: bool
    left_out: tuple[Mapping[str, Any], ...] = ()
    unfilled: tuple[Key, ...] = ()
    unclaimed: tuple[Key, ...] = ()
    warnings: tuple[PlanWarning, ...] = ()
    layout_reason: str = ""
    selection: Selection | None = None

    @classmethod
    def of(cls, plan: Plan, saved: Saved, sidecar_files: tuple[Location, ...], *, verified: bool) -> Report:
        """Return the report of a plan that was run and saved."""
        tied = plan.metadata.ties
        overflow = _overflow(saved)
        return cls(
            files=saved.files,
            sidecar_files=sidecar_files,
            format=saved.format,
            source_layout=plan.source_layout,
            target_layout=plan.target_layout,
            tensors=sum(len(step.targets) for step in plan.steps) + len(plan.ties),
            total_bytes=sum(spec.nbytes for key, spec in plan.target_specs().items() if key not in tied),
            evidence=plan.evidence,
            guessed=tuple(key for step in plan.steps if step.evidence == "guess" for key in step.targets),
            filled=tuple(key for step in plan.steps if not step.sources for key in step.targets),
            dropped=plan.dropped,
            left_out=tuple(plan.left_out_json()),
            unfilled=plan.allowed_missing,
            unclaimed=plan.unclaimed,
            notes=(*plan.notes, *(warning.message for warning in overflow)),
            exact=plan.exact,
            verified=verified,
            warnings=(*plan.warnings, *overflow),
            layout_reason=plan.layout_reason,
            selection=plan.selection,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "files": [str(path) for path in self.files],
            "beside": [str(path) for path in self.sidecar_files],
            "format": self.format,
            "source_layout": self.source_layout,
            "target_layout": self.target_layout,
            **({"layout_reason": self.layout_reason} if self.layout_reason else {}),
            "tensors": self.tensors,
            "total_bytes": self.total_bytes,
            "evidence": dict(self.evidence),
            "guessed": [join_key(key) for key in self.guessed],
            "filled": [join_key(key) for key in self.filled],
            "dropped": [{"key": join_key(d.key), "reason": d.reason} for d in self.dropped],
            "left_out": [dict(entry) for entry in self.left_out],
            **({"only": self.selection.to_json()} if self.selection else {}),
            "allowed_missing": [join_key(key) for key in self.unfilled],
            "unclaimed": [join_key(key) for key in self.unclaimed],
            "notes": list(self.notes),
            "warnings": [warning.to_json() for warning in self.warnings],
            "exact": self.exact,
            "verified": self.verified,
        }

    def _repr_html_(self) -> str:
        """Return the report for a notebook, what was lost or guessed first."""
        from bridge_core.html import fragment, section, verdict_line

        word, tone = ("exact", "good") if self.exact else ("not exact", "warn")
        text = (
            f"{self.source_layout} to {self.target_layout}: {count(self.tensors, 'tensor')}, "
            f"{size_text(self.total_bytes)}, {'verified' if self.verified else 'not verified'}"
        )
        evidence = [f"{name}: {number}" for name, number in self.evidence.items()]
        warned = {warning.message for warning in self.warnings}
        return fragment(
            verdict_line(word, tone, text),
            section("Warnings", [warning.message for warning in self.warnings], tone="warn", opened=True),
            section("Guessed", folded(map(join_key, self.guessed)), tone="warn", opened=True),
            section("Left out", [f"{one['name']}: {one['reason']}" for one in self.left_out], tone="warn"),
            section("Left unfilled", folded(map(join_key, self.unfilled)), tone="warn"),
            section("Unclaimed, copied unchanged", folded(map(join_key, self.unclaimed)), tone="warn"),
            section("Filled with constants", folded(map(join_key, self.filled))),
            section(
                f"Files ({self.format})", list(map(str, (*self.files, *self.sidecar_files))), opened=True
            ),
            section("Evidence", evidence),
            section("Notes", [note for note in self.notes if note not in warned]),
        )


def _overflow(saved: Saved) -> tuple[PlanWarning, ...]:
    """Return the warning about values outside the range of the dtype they were cast to, if there are any."""
    if not saved.overflows:
        return ()
    message = overflow_message(saved.overflows)
    return (PlanWarning("overflow", message, tuple(saved.overflows)),)
