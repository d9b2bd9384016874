"""Writing the beginning of a plugin: a distribution made from templates, which are plugins themselves.

The templates in ``plugin_templates`` provide something called "acme-box". Its name as
distributions, modules, classes and constants have it is all that is replaced.
"""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from bridge_core.errors import DestinationExists, PluginConflict, UsageError
from bridge_core.io import replacing_folder
from bridge_core.messages import shown
from bridge_core.plugins import Registry

__all__ = ["NewPlugin", "files_of", "write_plugin"]

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 40
_PREFIX = "ckptbridge-"
_OWN = ("hdf5", "orbax", "recipes", "remote", "transformers")
"""Plugins of ckptbridge itself, which need not be installed."""
_OWN_SCHEMES = ("file", "hf", "s3", "gs", "http", "https")
"""Schemes of URLs that ckptbridge or its plugins read."""
_WORDS = ("all", "auto", "none")
"""What options take in place of a name: ``--recipe none``."""
_SUFFIX = ".template"
"""What the names of templates end with, so that no tool takes them for modules or tests."""


@dataclass(frozen=True)
class NewPlugin:
    """The names of a new plugin.

    Args:
        name: Lower-case words joined by hyphens: ``"gated-linear"``.
        into: The folder in which its own folder is made.
    """

    name: str
    into: Path

    @property
    def distribution(self) -> str:
        """Name of the distribution, and of its folder."""
        return _PREFIX + self.name

    @property
    def package(self) -> str:
        """Name of the package."""
        return self.distribution.replace("-", "_")

    @property
    def folder(self) -> Path:
        """The folder of the distribution."""
        return self.into / self.distribution

    def with_names(self, text: str) -> str:
        """Return the text of a template with the plugin's names.

        >>> NewPlugin("gated-linear", Path()).with_names("acme-box acme_box AcmeBox ACME_BOX .acmebox")
        'gated-linear gated_linear GatedLinear GATED_LINEAR .gatedlinear'
        """
        words = self.name.split("-")
        names = {
            "acme-box": self.name,
            "acme_box": "_".join(words),
            "acmebox": "".join(words),
            "AcmeBox": "".join(map(str.capitalize, words)),
            "ACME_BOX": "_".join(words).upper(),
            "ACMEBOX": "".join(words).upper(),
        }
        return re.sub("|".join(names), lambda match: names[match[0]], text)


def write_plugin(kind: str, name: str, into: Path, registry: Registry) -> tuple[NewPlugin, list[str]]:
    """Write a plugin's distribution, completely or not at all.

    Args:
        kind: ``"layer"``, ``"format"``, ``"framework"``, ``"recipe"``, ``"library"`` or ``"filesystem"``.
        name: Its name; lower-case words joined by hyphens.
        into: The folder in which ``ckptbridge-NAME`` is made.
        registry: What is installed.

    Returns:
        The plugin, and the names of its files.

    Raises:
        UsageError: The name is not valid, or ``into`` is not a folder.
        PluginConflict: Something else has the name already.
        DestinationExists: The folder exists.
        SystemFailure: The system refuses to write.
    """
    plugin = NewPlugin(_checked(name), into)
    _refuse_taken(kind, plugin, registry)
    if not into.is_dir():
        raise UsageError(
            f"cannot make a plugin in {str(into)!r}: expected a folder.", hint="Create the folder first."
        )
    if plugin.folder.exists() or plugin.folder.is_symlink():
        raise DestinationExists(
            "the folder of the new plugin exists; nothing was written.",
            path=plugin.folder,
            hint="Choose another name, or another folder with --into.",
        )
    files = dict(files_of(kind, plugin))
    with replacing_folder(plugin.folder, overwrite=False) as temporary:
        for file, text in files.items():
            path = temporary / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
    return plugin, list(files)


def files_of(kind: str, plugin: NewPlugin) -> Iterator[tuple[str, str]]:
    """Yield name and text of each file of a plugin, sorted by name."""
    templates = resources.files(__package__) / "plugin_templates"
    files = {
        name: template for part in ("common", kind) for name, template in _templates(templates / part, "")
    }
    for name in sorted(files):
        yield plugin.with_names(name), plugin.with_names(files[name].read_text(encoding="utf-8"))


def _templates(folder: Traversable, path: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _templates(entry, f"{path}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            yield path + entry.name.removesuffix(_SUFFIX), entry


def _checked(name: str) -> str:
    if _NAME.fullmatch(name) and 2 <= len(name) <= _LONGEST and not name.startswith(_PREFIX):
        return name
    plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    near = re.sub(r"[^a-z0-9]+", "-", plain).removeprefix(_PREFIX).strip("-")[:_LONGEST].strip("-")
    hint = f"Pass {near}." if _NAME.fullmatch(near) and len(near) > 1 else "Pass a name such as gated-linear."
    raise UsageError(
        f"expected lower-case words of letters and digits, joined by hyphens, of 2 to {_LONGEST} characters "
        f"as the name, without {_PREFIX!r}; got {shown(name)}.",
        hint=hint,
    )


def _refuse_taken(kind: str, plugin: NewPlugin, registry: Registry) -> None:
    """Refuse a name that something in the registry, a distribution or a module has."""
    name, identifier = plugin.name, plugin.name.replace("-", "_")
    own = {
        "format": {*registry.formats, *registry.folder_formats},
        "framework": {*registry.frameworks, "neutral"},
        "layer": {*registry.kinds, "parameter", "undecided"},
        "recipe": {*registry.recipes},
        "library": {*registry.libraries},
        "filesystem": {*registry.filesystems, *_OWN_SCHEMES, *_schemes(registry)},
    }[kind]
    if name in _WORDS:
        raise UsageError(f"{name!r} has a meaning of its own in options.", hint="Choose another name.")
    if name in own or identifier in own:
        what = {"layer": "layer kind", "filesystem": "file system"}.get(kind, kind)
        raise PluginConflict(f"a {what} of the name {name!r} exists.", hint="Choose another name.")
    extension = plugin.with_names(".acmebox")
    same = [one.name for one in registry.formats.values() if extension in one.extensions]
    if kind == "format" and same:
        raise PluginConflict(
            f"the format {same[0]!r} has the extension {extension!r}, as the new format {name!r} would.",
            hint="Choose another name.",
        )
    installed = {text for one in registry.failures for text in (one.name, one.distribution)}
    for one in (*registry.plugins, *registry.disabled):
        installed |= {one.name, one.distribution}
    taken = name in _OWN or name in installed or plugin.distribution in installed
    if taken or importlib.util.find_spec(plugin.package) is not None:
        raise PluginConflict(
            f"a plugin of the name {name!r}, or its distribution {plugin.distribution!r}, exists.",
            hint="Choose another name.",
        )


def _schemes(registry: Registry) -> set[str]:
    return {scheme for system in registry.filesystems.values() for scheme in system.schemes}
