"""The interface of a model library's adapter, which knows the library's checkpoint folders.

A library (Hugging Face's transformers, say) writes sidecar files that describe the model of the weights. Its
adapter turns these into what a caller would otherwise have to give: a live model, a template, rules.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from bridge_core.errors import PluginError
from bridge_core.io import Location, is_plain_name
from bridge_core.public import renamed
from bridge_core.state import FlatState

if TYPE_CHECKING:
    from bridge_core.rules import Rule

__all__ = ["Checkpoint", "Guidance", "Library"]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as a library sees it.

    Args:
        folder: The folder of the weights and their sidecar files. At a URL it is a `RemotePath`, which has
            the methods of a `pathlib.Path` that read, and no name that a library could open.
        state: The weights, opened: keys and specs are known, and reading a tensor is possible.
        to: The layout to convert them to: a framework's name, or ``"neutral"``.
        model: Name of the model class that the caller asks for; None to go by the folder.
        dtype: Name of the dtype that the weights are cast to, if the caller asks for one.
        selected: What is converted of the state, where the caller chose a part: some of its tensors, and of
            some only the first entries. None for all.
    """

    folder: Location
    state: FlatState
    to: str
    model: str | None = None
    dtype: str | None = None
    selected: FlatState | None = None


@renamed(beside="sidecar_files", changed="sidecar_contents", stem="base_name", untied="duplicate_tied")
@dataclass(frozen=True)
class Guidance:
    """What a library knows of a checkpoint and its target.

    What the caller gives takes precedence.

    Args:
        model: A live model of the source's framework, abstract is enough: evidence of layer types.
        like: The target's template.
        rules: Rules, e.g. for names that differ between the frameworks.
        sidecar_files: Names of files in the folder that belong to the model, such as its config and
            tokenizer. They are copied into a destination that is a folder.
        sidecar_contents: Name of a sidecar file -> what the copy holds instead, where the conversion changes
            its meaning, e.g. the dtype in a config.
        base_name: First part of the usual file names in a folder, e.g. ``diffusion_pytorch_model``; None for
            the format's own.
        max_shard_size: Bytes above which a folder's weights are sharded, where the caller sets no limit.
        duplicate_tied: Whether each of several tied tensors is written in full, for libraries that read
            them separately.
        notes: What a reader of the report should know.
        describes_selection: Whether the sidecar files, with their new contents, and the model and template
            are those of the part that the caller chose (`Checkpoint.selected`). If not, they are taken for
            those of everything, and no sidecar file is copied next to a part.
        recipe: The name of an installed recipe whose rules go before ``rules``; None for none.

    Raises:
        PluginError: A field is of another type, or a sidecar file is not named by a plain file name.
    """

    model: Any = None
    like: Any = None
    rules: tuple[Rule, ...] = ()
    sidecar_files: tuple[str, ...] = ()
    sidecar_contents: Mapping[str, bytes] = field(default_factory=dict)
    base_name: str | None = None
    max_shard_size: int | None = None
    duplicate_tied: bool = False
    notes: tuple[str, ...] = ()
    describes_selection: bool = False
    recipe: str | None = None

    def __post_init__(self) -> None:
        """Refuse fields of other types, so that a plugin's mistake is not reported as one of the caller's."""
        size = self.max_shard_size
        for name in ("rules", "sidecar_files", "notes"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        for name, good, expected in (
            ("rules", self.rules == () or _are_rules(self.rules), "a tuple of rules"),
            ("sidecar_files", _tuple_of(self.sidecar_files, str), "a tuple of file names"),
            (
                "sidecar_contents",
                _contents(self.sidecar_contents, self.sidecar_files),
                "contents of files in `sidecar_files`",
            ),
            ("max_shard_size", size is None or (type(size) is int and size > 0), "bytes above zero, or None"),
            ("duplicate_tied", isinstance(self.duplicate_tied, bool), "True or False"),
            ("describes_selection", isinstance(self.describes_selection, bool), "True or False"),
            ("notes", _tuple_of(self.notes, str), "a tuple of texts"),
            ("recipe", self.recipe is None or isinstance(self.recipe, str), "a name, or None"),
        ):
            if not good:
                raise PluginError(
                    f"guidance: expected {name} to be {expected}, got {name}={getattr(self, name)!r}."
                )
        for name in self.sidecar_files:
            if not is_plain_name(name):
                raise PluginError(f"guidance: expected plain file names in sidecar_files, got {name!r}.")


def _are_rules(value: object) -> bool:
    from bridge_core.rules import Rule

    return _tuple_of(value, Rule)


def _contents(value: object, names: Collection[str]) -> bool:
    return isinstance(value, Mapping) and all(
        name in names and isinstance(content, bytes) for name, content in value.items()
    )


def _tuple_of(value: object, kind: type) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, kind) for item in value)


@runtime_checkable
class Library(Protocol):
    """An adapter of a model library."""

    name: str

    def guide(self, checkpoint: Checkpoint) -> Guidance | None:
        """Return what is known of a checkpoint, or None for one that is not this library's.

        Only files of the folder itself may be read, through its methods, and only small ones such as a config
        of one at a URL. An adapter uses no network of its own, and runs no code from the checkpoint.

        Args:
            checkpoint: The folder, its state, and the class that the caller names.

        Raises:
            UsageError: The library has no model class of the name that the caller asks for.
            BadInputError: A sidecar file is damaged.
        """
        ...
