"""Which distributions provide the kinds of a state, for the metadata and for refusals."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from bridge_core.plugins.registry import Registry
from bridge_core.state import LayerInfo

__all__ = ["missing_provider", "providers_of"]

_DISTRIBUTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
"""A name that a package index accepts (PEP 508); what a file records may be anything."""


def providers_of(
    layers: Iterable[LayerInfo], recorded: Mapping[str, str], registry: Registry
) -> dict[str, str]:
    """Return the distributions that provide the kinds of layers.

    The kinds are those that layers have or may have; ckptbridge's own distribution is left out.

    Args:
        layers: What is known of each layer.
        recorded: What the source's metadata records, for kinds that no installed plugin provides.
        registry: Where kinds are found.
    """
    names: set[str] = set()
    for info in layers:
        names.update(info.candidates)
        if info.kind is not None:
            names.add(info.kind)
    transforms = {name: registry.transforms[name].kind for name in names if name in registry.transforms}
    providers = {}
    for kind in sorted({transforms.get(name, name) for name in names}):
        plugin = registry.foreign_plugin("kinds", kind)
        if plugin is not None and _DISTRIBUTION.fullmatch(plugin.distribution):
            providers[kind] = plugin.distribution
        elif kind in recorded and kind not in registry.kinds:
            providers[kind] = recorded[kind]
        elif "." in kind:  # a transform that no plugin provides: which kind it was of is not known
            providers.update({k: name for k, name in recorded.items() if k not in registry.kinds})
    return providers


def missing_provider(name: str, recorded: Mapping[str, str], registry: Registry) -> str:
    """Return why a kind or transform that metadata names is not known, and what to do.

    Args:
        name: The kind or the transform.
        recorded: Kind -> the distribution that provided it when the weights were written; it comes from the
            file, so that it is shown only where it can be the name of a distribution.
        registry: Where kinds and transforms are found.
    """
    conflict = registry.conflict_of("kinds", name) or registry.conflict_of("transforms", name)
    if conflict is not None:
        return f"no plugin is used for {name!r}, which the metadata names: {str(conflict).rstrip('.')}"
    unknown = f"no installed plugin provides {name!r}, which the metadata names"
    distributions = set(recorded.values())
    known = recorded.get(name) or (distributions.pop() if len(distributions) == 1 else "")
    if not _DISTRIBUTION.fullmatch(known):
        return f"{unknown}; install the plugin that was installed when the weights were written"
    normalised = _normalised(known)
    for failure in registry.failures:
        if _normalised(failure.distribution) == normalised:
            return f"{unknown}: it comes from {failure.origin}, which was left out: {failure.reason}"
    for plugin in registry.disabled:
        if _normalised(plugin.distribution) == normalised:
            return (
                f"{unknown}: it comes from {known}, which is disabled; do not disable it "
                "(--disable-plugin, CKPTBRIDGE_DISABLE_PLUGINS)"
            )
    for plugin in registry.plugins:
        if _normalised(plugin.distribution) == normalised:
            version = f"{plugin.distribution} {plugin.version}".rstrip()
            return (
                f"{unknown}: it came from {known}, and the installed {version} does not provide it; install "
                "the version that was installed when the weights were written"
            )
    return f"{unknown}: it comes from {known}, which is not installed (pip install {known})"


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
