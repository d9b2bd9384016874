"""Plugins that do everything wrong, laid out as installed distributions."""

import sys
from contextlib import contextmanager

from bridge_core import default_registry

FORMAT = '''
import sys
from bridge_core import Capabilities, FlatState, hookimpl

class Strange:
    """A format of another distribution."""

    name = "{name}"
    extensions = ("{extension}",)
    layout = "neutral"
    names = None
    capabilities = Capabilities(
        lazy=True, sliceable=True, streaming_write=True, dtypes=frozenset({{"float32"}}), metadata=False
    )

    def sniff(self, file):
        {sniff}

    def open(self, file):
        {open}

    def write(self, state, target):
        {write}

@hookimpl
def bridge_formats():
    return [Strange()]
'''


def format_source(
    name, *, extension=None, sniff="return False", open="raise RuntimeError('not mine')", write="sys.exit(0)"
):
    """Return the source of a plugin with one format."""
    extension = extension or f".{name}"
    return FORMAT.format(name=name, extension=extension, sniff=sniff, open=open, write=write)


def hook_source(hook, *body):
    """Return the source of a plugin whose only hook has this body."""
    lines = "\n".join(f"    {line}" for line in body)
    return f"import sys\nfrom bridge_core import *\n\n@hookimpl\ndef {hook}():\n{lines}\n"


WRONG_TRANSFORM = """
from bridge_core import LayerKind, LayerTransform, Leaf, hookimpl

@hookimpl
def bridge_layer_kinds():
    return [LayerKind("scaled", {"kernel": "in out", "gain": "out"})]

@hookimpl
def bridge_layer_transforms():
    leaves = (Leaf("weight", "kernel", "out inn"), Leaf("gain", "gain", "out"))
    return [LayerTransform("torch.scaled", kind="scaled", leaves=leaves, modules=("strange.Scaled",))]
"""

FRAMEWORK = '''
import sys
from bridge_core import hookimpl

class Strange:
    """A framework whose every answer fails."""

    name = "strange"
    collections = {}
    default_format = "npz"

    def owns(self, names):
        raise LookupError("names")

    def accepts(self, value):
        sys.exit(0)

    def state(self, value):
        raise LookupError("state")

    def build(self, state, like):
        raise LookupError("build")

@hookimpl
def bridge_frameworks():
    return [Strange()]
'''

LIBRARY = '''
import sys
from bridge_core import hookimpl

class Strange:
    """A library that ends the program."""

    name = "strange"

    def guide(self, checkpoint):
        sys.exit("no licence")

@hookimpl
def bridge_libraries():
    return [Strange()]
'''

FILE_SYSTEM = '''
import sys
from bridge_core import hookimpl

class Strange:
    """A file system that ends the program, and repeats the URL."""

    name = "strange"
    schemes = ("strange",)

    def pinned(self, url):
        return url

    def entry(self, url):
        sys.exit(f"no licence for {url}")

    entries = entry

    def read(self, url, start, nbytes, entry):
        raise KeyError(url)

@hookimpl
def bridge_filesystems():
    return [Strange()]
'''

BROKEN = {
    "broken-import": "print('printed while it was imported')\nraise ImportError('no cuda here')",
    "broken-exit": "import sys\nsys.exit(0)",
    "broken-exit-text": "import sys\nsys.exit('no licence')",
    "broken-base": "class Odd(BaseException):\n    pass\nraise Odd('odd')",
    "broken-hook": hook_source("bridge_formats", "print('printed by a hook')", "sys.exit(0)"),
    "broken-list": hook_source("bridge_layer_kinds", "return 3"),
    "broken-values": hook_source("bridge_frameworks", "return ['not a framework']"),
    "broken-sniff": format_source("sniffs", sniff="print('sniffing'); raise ValueError(file.name)"),
    "broken-greedy": format_source("greedy", sniff="return True"),
    "broken-twin-a": format_source("twin"),
    "broken-twin-b": format_source("twin"),
    "broken-own-name": format_source("safetensors", sniff="return True"),
    "broken-transform": WRONG_TRANSFORM,
    "broken-framework": FRAMEWORK,
    "broken-library": LIBRARY,
    "broken-filesystem": FILE_SYSTEM,
}
"""Distribution -> the source of its only module."""


def install(site, sources, version="2.5"):
    """Lay plugins out as installed distributions; return the folder to put on Python's path.

    Args:
        site: The folder; it is made.
        sources: Distribution -> source of its module.
        version: The version of all.
    """
    site.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        module = name.replace("-", "_")
        (site / f"{module}.py").write_text(source)
        folder = site / f"{module}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (folder / "entry_points.txt").write_text(f"[ckptbridge]\n{module}_plugin = {module}\n")
    return site


@contextmanager
def installed(*sites):
    """Let what stands in some folders be installed in this process, and `default_registry` be made anew."""
    path, before = list(sys.path), set(sys.modules)
    sys.path += map(str, sites)
    default_registry.cache_clear()
    try:
        yield
    finally:
        sys.path[:] = path
        default_registry.cache_clear()
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None) or ""
            if any(origin.startswith(str(site)) for site in sites):
                del sys.modules[name]
