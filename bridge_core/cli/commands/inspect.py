"""``ckptbridge inspect``: shows what a file contains, from its header only."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from bridge_core.cli.branches import (
    axes_of_weights,
    branches_json,
    branches_lines,
    branches_of_state,
)
from bridge_core.cli.completion import a_file, a_format
from bridge_core.cli.folder_contents import contents_json, contents_lines
from bridge_core.cli.options import (
    entry_option,
    examples,
    json_option,
    layout_option,
    links_option,
    step_option,
    takes_registry,
)
from bridge_core.cli.report import in_natural_order, inspect_lines, tensor_names
from bridge_core.cli.terminal import aside, print_json, say

if TYPE_CHECKING:
    from bridge_core.conversion import RecognisedRecipe
    from bridge_core.formats import FolderContents, FolderFormat, Format
    from bridge_core.io import Location
    from bridge_core.plugins import Registry
    from bridge_core.resolve import TreeNames
    from bridge_core.state import FlatState, Key

__all__ = ["inspect"]


@click.command(
    epilog=examples(
        "ckptbridge inspect model.safetensors",
        "ckptbridge inspect folder-of-shards/ --json",
        "ckptbridge inspect weights.bin --format torch",
        "ckptbridge inspect checkpoint.pt --entry model_ema",
        "ckptbridge inspect checkpoints/ --step 1000",
    ),
)
@click.argument("src", shell_complete=a_file)
@json_option
@layout_option
@links_option
@entry_option
@step_option
@click.option(
    "--format",
    "format_name",
    metavar="FORMAT",
    shell_complete=a_format,
    help="Format of SRC, if several recognise it by its content.",
)
@takes_registry
def inspect(
    src: str,
    as_json: bool,
    layout: str | None,
    follow_links: bool,
    entry: str | None,
    step: int | None,
    format_name: str | None,
    registry: Registry | None,
) -> None:
    """Show the tensors of SRC: names, dtypes, shapes and axes, and the file's metadata.

    SRC is a file, the index of a sharded set, or a folder, or the URL of one. No tensor is read. The names of
    axes are shown for layers that the file's metadata, or the names and shapes in it, show; and the recipes
    that fit.
    """
    from bridge_core.checkpoint import location_of, open_state
    from bridge_core.conversion import recognised_recipes
    from bridge_core.plugins import default_registry
    from bridge_core.resolve import tree_names

    with aside():
        registry = default_registry() if registry is None else registry
        state = open_state(
            src,
            format=format_name,
            layout=layout,
            follow_links=follow_links,
            entry=entry,
            step=step,
            registry=registry,
        )
    with state:
        known = state.metadata.provenance
        path, used = location_of(state), registry.any_format(known["format"])
        assert path is not None, "the state was opened"
        with aside():
            contents = _contents(path, used, step, registry, follow_links=follow_links)
            files = _files(path, used, state, registry)
            branches = branches_of_state(state, registry)
            axes = axes_of_weights(state, registry)
            names = tree_names(state, registry)
            recipes = recognised_recipes(state, registry)
        if as_json:
            document = _document(used, state, files, axes, names)
            known_as = {"recipes": [_recipe_json(one) for one in recipes]} if recipes else {}
            print_json({**document, **known_as, **contents_json(contents), **branches_json(branches)})
        else:
            lines = inspect_lines(str(path), used.name, state, files, axes, names)
            say(*lines, *branches_lines(branches), *contents_lines(contents), *map(_recipe_line, recipes))


def _recipe_line(found: RecognisedRecipe) -> str:
    return f"recipe: {found.recipe.name}, from {found.side.name} to {found.other.name}"


def _recipe_json(found: RecognisedRecipe) -> dict[str, str]:
    return {"name": found.recipe.name, "from": found.side.name, "to": found.other.name}


def _contents(
    path: Location, used: Format | FolderFormat, step: int | None, registry: Registry, *, follow_links: bool
) -> FolderContents | None:
    """Return the steps and items of a folder checkpoint; None for files."""
    from bridge_core.checkpoint import contents_of
    from bridge_core.formats import FolderFormat

    if not isinstance(used, FolderFormat):
        return None
    return contents_of(path, registry, used, step=step, follow_links=follow_links)


def _files(
    path: Location, used: Format | FolderFormat, state: FlatState, registry: Registry
) -> Mapping[Key, str]:
    """Return the name of the file that holds each tensor; a tied key is where its canonical key is."""
    from bridge_core.checkpoint import is_set_of_shards
    from bridge_core.formats import FolderFormat, read_shard_index
    from bridge_core.io import open_location
    from bridge_core.state import Ties, join_key

    if isinstance(used, FolderFormat):
        return dict.fromkeys(state, path.name)
    with open_location(path) as file:
        if not is_set_of_shards(file, registry):
            return dict.fromkeys(state, path.name)
        shards = read_shard_index(file).weight_map
    usual = used.names.separator if used.names else "."
    separator = state.metadata.provenance.get("separator", usual)
    files: dict[Key, str] = {}
    entry = state.metadata.provenance.get("entry")
    above = () if entry is None else tuple(entry.split("."))
    ties = Ties(state.metadata.ties)
    for key in state:
        for holder in (key, ties.root(key)):
            for escape in (False, True):
                shard = shards.get(join_key((*above, *holder), separator, escape=escape))
                if shard is not None:
                    files.setdefault(key, shard)
    return files


def _document(
    used: Format | FolderFormat,
    state: FlatState,
    files: Mapping[Key, str],
    axes: Mapping[Key, tuple[str, ...]] = MappingProxyType({}),
    names: TreeNames | None = None,
) -> dict[str, Any]:
    from bridge_core.state import join_key

    known = state.metadata
    return {
        "format": used.name,
        "layout": state.layout,
        "total_bytes": state.nbytes,
        "notes": list(known.notes),
        **({"names": names.to_json()} if names else {}),
        "metadata": {
            "layers": {
                join_key(path): {
                    "kind": info.kind,
                    "evidence": info.evidence,
                    "leaves": list(info.leaves),
                    "candidates": list(info.candidates),
                    "forms": dict(info.transforms),
                }
                for path, info in known.layers.items()
            },
            "ties": {join_key(key): join_key(other) for key, other in known.ties.items()},
            "collections": {join_key(key): name for key, name in known.collections.items()},
            "residuals": {
                join_key(key): {"dtype": tensor.dtype, "shape": list(tensor.shape)}
                for key, tensor in known.auxiliary_tensors.items()
            },
            "empty": [join_key(path) for path in known.empty],
            "pending": {
                join_key(key): {"rule": rule.label, "layouts": list(rule.layouts)}
                for rule in known.rules or ()
                for key in rule.pending
                if key in state
            },
            "forms": dict(known.tree_form),
            **({"separators": dict(known.separators)} if known.separators else {}),
            **({"boxes": {join_key(key): box for key, box in known.boxes.items()}} if known.boxes else {}),
            "extra": dict(known.extra),
            "provenance": dict(known.provenance),
        },
        "tensors": {
            name: {
                "dtype": state.spec(key).dtype.name,
                "shape": list(state.spec(key).shape),
                "bytes": state.spec(key).nbytes,
                "file": files.get(key),
                **({"axes": list(axes[key])} if key in axes else {}),
            }
            for key, name in tensor_names(in_natural_order(state)).items()
        },
    }
