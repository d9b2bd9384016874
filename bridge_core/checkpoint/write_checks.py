"""What is checked of a state before anything of it is written."""

from __future__ import annotations

from collections.abc import Collection

from bridge_core.checkpoint.format_choice import chosen_format
from bridge_core.checkpoint.write_options import Destined, WriteOptions, is_folder
from bridge_core.errors import DestinationExists, UnsupportedFeature, UsageError
from bridge_core.formats import FolderFormat, Format
from bridge_core.io import Location, is_plain_name
from bridge_core.messages import listed
from bridge_core.plugins import Registry, held_layers
from bridge_core.state import DTYPES, FlatState, check_given, held_ties, is_floating, join_key

__all__ = ["checked_state", "refuse_other_checkpoint"]


def checked_state(
    state: FlatState, destination: Destined, options: WriteOptions, registry: Registry
) -> tuple[FlatState, Format | FolderFormat]:
    """Return what of a state is written, and the format.

    Args:
        state: The state.
        destination: Where it is written; only its name is used, and whether it is a folder.
        options: The options of writing.
        registry: The plugins.

    Raises:
        UnsupportedFeature: The format cannot hold a dtype.
        UsageError: A key or a sidecar file's name is not valid, or an option does not apply to the format.
    """
    if options.duplicate_tied:
        state = state.replace(metadata=state.metadata.with_(ties={}))
    state = _with_held_metadata(state, registry)
    used = chosen_format(destination, options, registry, layout=state.layout)
    _refuse_contents(state, used, registry)
    if not isinstance(used, FolderFormat):
        _refuse_places(options, used)
        if options.sidecar_files:
            _refuse_names(options, registry)
    return state, used


def _with_held_metadata(state: FlatState, registry: Registry) -> FlatState:
    """Return the state without the metadata that contradicts its tensors, since no reader would accept it."""
    metadata = state.metadata
    check_given(metadata)
    if not (metadata.ties or metadata.layers or metadata.empty or metadata.tree_form):
        return state
    tree_form = metadata.tree_form
    if tree_form.get(state.layout or "") == "variables" and any(len(key) < 2 for key in state):
        tree_form = {name: form for name, form in tree_form.items() if name != state.layout}
    held = metadata.with_(
        ties=held_ties(state),
        layers=held_layers(state, registry),
        empty=tuple(node for node in metadata.empty if node not in state),
        tree_form=tree_form,
    )
    return state.replace(metadata=held)


def _refuse_places(options: WriteOptions, used: Format) -> None:
    """Refuse a step and an item where the format has neither."""
    for value, argument in ((options.step, "to_step= (--to-step)"), (options.item, "to_item= (--to-item)")):
        if value is not None:
            raise UsageError(
                f"{argument} does not apply to the format {used.name}, which has no steps and items.",
                hint='Remove it, or pass a format whose checkpoints are folders, such as format="orbax" '
                "(--format orbax).",
            )


def _refuse_contents(state: FlatState, used: Format | FolderFormat, registry: Registry) -> None:
    """Refuse the keys and dtypes that no file of the format can hold, before anything is written."""
    for key in state:
        if not key or not all(isinstance(part, str) for part in key):
            raise UsageError(
                f"expected a key, a tuple of one or more strings, got {key!r}.",
                hint='Write a key as a tuple, such as ("layers", "0", "weight").',
            )
    dtypes = used.capabilities.dtypes
    wrong = [key for key, spec in state.specs().items() if spec.dtype.name not in dtypes]
    if wrong:
        names = sorted({state.spec(key).dtype.name for key in wrong})
        keys = listed(map(join_key, wrong))
        have = "tensor has" if len(wrong) == 1 else "tensors have"
        raise UnsupportedFeature(
            f"the format {used.name} cannot hold {', '.join(names)}, which {len(wrong)} {have}: {keys}.",
            hint=_way_to_hold(names, used, registry),
        )


def _way_to_hold(names: Collection[str], used: Format | FolderFormat, registry: Registry) -> str:
    """Return how to write tensors of dtypes that a format cannot hold."""
    able = [other.name for other in registry.formats.values() if other.capabilities.dtypes >= {*names}]
    other = able[0] if able else None
    if (
        all(is_floating(DTYPES[name]) for name in names if name in DTYPES)
        and "float32" in used.capabilities.dtypes
    ):
        more = f", or pass another format, such as {other}" if other else ""
        return f'Cast them, dtype="float32" (--dtype float32){more}.'
    return (
        f'Pass another format, such as format="{other}" (--format {other}).' if other else "Leave them out."
    )


def _refuse_names(options: WriteOptions, registry: Registry) -> None:
    from bridge_core.checkpoint.weight_files import is_weights_name

    weights = is_weights_name(registry.formats.values())
    for name in options.sidecar_files:
        if not is_plain_name(name) or weights(name):
            raise UsageError(
                f"{name!r} cannot be the name of a sidecar file: expected a file name without folders that "
                "weights do not usually have.",
                hint="Give the sidecar file another name, such as 'config.json'.",
            )


def refuse_other_checkpoint(folder: Location, options: WriteOptions, registry: Registry) -> None:
    """Refuse to add files of weights to a folder checkpoint: they would be read in its place."""
    from bridge_core.checkpoint.folder_checkpoint import own_checkpoint

    if is_folder(folder) and (other := own_checkpoint(folder, registry)):
        way = f'pass format="{other.name}" (--format {other.name})' if options.format is None else ""
        raise DestinationExists(
            f"the destination is a checkpoint of the format {other.name}, and files of weights in it would "
            "be read in its place.",
            path=folder,
            hint="Give the name of a file or of a new folder" + (f", or {way}." if way else "."),
        )
