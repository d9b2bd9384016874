"""Refuses a source that is only a part of a model, before anything is planned."""

from __future__ import annotations

from bridge_core.checkpoint import Part, location_of, part_of
from bridge_core.conversion.options import ConversionOptions
from bridge_core.conversion.whole_layers import settings_beside
from bridge_core.errors import BadInputError, ShardError, UnsupportedFeature
from bridge_core.state import FlatState

__all__ = ["require_whole"]


def require_whole(state: FlatState, options: ConversionOptions) -> None:
    """Check that a file, or what an index names, is a complete model; a state that is refused is closed.

    A shard holds complete tensors, so it is converted if the caller allows missing ones. A file with slices
    of tensors is not; an adapter is converted if it stays in its framework.

    Raises:
        ShardError: The file is a part of a model, or the index names files that do not exist.
        UnsupportedFeature: The file is an adapter.
    """
    where = location_of(state)
    assert where is not None, "the state was opened"
    absent = state.metadata.provenance.get("part")
    part = _few_shards(absent) if absent is not None else part_of(where)
    if part is None or _is_allowed(part, state, options):
        return
    kind: type[BadInputError] = ShardError
    what, way_on = part.what, part.way_on
    if part.tensors == "changes":
        from bridge_core.plan import adapter_details

        kind = UnsupportedFeature
        details = adapter_details(settings_beside(state, "adapter_config.json"))
        what += f" ({details})" if details else ""
    elif part.tensors == "some":
        way_on += (
            " To convert it by itself, allow the other tensors to be missing: allow_missing=True "
            "(--allow-missing '**')."
        )
    state.close()
    raise kind(f"the {'index' if absent is not None else 'file'} {what}.", path=where, hint=way_on)


def _is_allowed(part: Part, state: FlatState, options: ConversionOptions) -> bool:
    if part.tensors == "changes":
        return options.to == state.layout
    return part.tensors == "some" and bool(options.permissions.allow_missing)


def _few_shards(absent: str) -> Part:
    return Part(f"names {absent}", "Download the index again, and the shards that are missing.", "some")
