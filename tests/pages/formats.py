"""Makes docs/formats.md from the file formats of the registry."""

from __future__ import annotations

from dataclasses import dataclass

from bridge_core.state import DTYPES
from pages.installed import distribution_of, provided

__all__ = ["FACTS", "page"]

HEAD = """# Formats

What ckptbridge and its plugins read and write. A file is recognised by its first bytes, not by its name; the
extension of the destination chooses what is written, or `format=` (`--format`). This page is made from what each format
declares, and the [contract tests](plugins/write-a-format.md) of a format prove what it declares. `ckptbridge plugins`
lists what is installed on your machine.

```python
import bridge_core

registry = bridge_core.default_registry()
print(registry.format("safetensors").capabilities.sliceable)
```

```text
True
```

## At a glance

"""

AFTER_GLANCE = """
**A lazy read** takes only names, shapes and dtypes from the file, so that a file of 100 GB opens at once. **A part** is a
region of a tensor, such as the first ten rows. **Blocks** are what a tensor is written in: the memory does not grow with
the tensor. **Metadata** is what the file remembers besides values, so that the way back is exact: the layout, tied
tensors, [auxiliary tensors](glossary.md).

**Ties.** Two names of one tensor, as of an embedding and an output layer. A file may hold the values *once under one
name*, and the metadata has the other; *once under both names*; or *twice*. Reading gives both names in each case.

Every format writes a temporary file, which replaces the destination only after it was read back and compared. A large
result can be a folder of shards with an index (`max_shard_size="5GB"`, `--max-shard-size 5GB`), as the table shows.

## Dtypes

Stored bit for bit, or refused before a byte is written.

"""

ROWS = {
    "files": lambda name, one: (
        f"`{'`, `'.join(one.extensions)}`" + (" folders" if is_of_folders(one) else "")
    ),
    "comes with": lambda name, one: f"`{distribution_of('formats', name)}`",
    "lazy read": lambda name, one: yes(one.capabilities.lazy),
    "reads a part of a tensor": lambda name, one: yes(one.capabilities.sliceable),
    "writes in blocks": lambda name, one: yes(one.capabilities.streaming_write),
    "metadata": lambda name, one: yes(one.capabilities.metadata),
    "dots in names": lambda name, one: "preserved" if one.capabilities.nested else "separate parts",
    "layout, if none is recorded": lambda name, one: one.layout or "asked for",
    "ties": lambda name, one: TIES[names_of(one).ties] if names_of(one) else "twice",
    "name in a folder": lambda name, one: f"`{names_of(one).single}`" if names_of(one) else "-",
    "folders of shards": lambda name, one: yes(names_of(one) is not None),
    "needs a local path": lambda name, one: yes(one.capabilities.needs_path),
}
TIES = {"dropped": "once, under one name", "shared": "once, under both names", "copied": "twice"}


@dataclass(frozen=True)
class Facts:
    """What a format does not declare.

    Args:
        about: What the files are.
        left_out: What is not read, and what becomes of it.
        hostile: What is done about a file that somebody made to do harm.
        damage: Which damage is noticed.
    """

    about: str
    left_out: str
    hostile: str
    damage: str


FACTS = {
    "safetensors": Facts(
        about="Flat names, a JSON header, then the values. Without metadata a file is byte for byte that of "
        "the safetensors library.",
        left_out="`F6_E2M3` and `F6_E3M2` are refused.",
        hostile="The header has at most 100 MB. Names that occur twice, ranges that overlap, leave a hole or "
        "end after the file, and more than 64 axes are refused before a value is read.",
        damage="There is no checksum: a flipped bit in a value is not noticed. "
        "[`ckptbridge verify`](command-line.md#ckptbridge-verify) compares a file with its source.",
    ),
    "npz": Facts(
        about="A zip archive of `.npy` members, as `numpy.savez` writes it. A compressed member is unpacked at "
        "its first use; members that ckptbridge writes are not compressed, and can be mapped.",
        left_out="Arrays of objects, which are pickles, are refused. So is an archive with other files in it.",
        hostile="What compressed members may grow to is limited, and compared with the file's size before "
        "anything is unpacked. Members that overlap and names that occur twice are refused.",
        damage="Each member has a CRC-32, which is compared when all of it is read.",
    ),
    "torch": Facts(
        about="Files of `torch.save`: zip archives and the older form in, zip archives out. torch is not "
        "imported. The state dict is the root, or the first entry with a usual name (`entry=`, `--entry` for "
        "another one).",
        left_out="All else in the file, such as an optimizer's state, is left out and named in the notes. "
        "TorchScript and files of torch 0.1 are refused.",
        hostile="**The file is a pickle, which can contain code.** Its instructions are read by an "
        "interpreter of ckptbridge's own, which knows the constructors of tensors and plain containers; "
        "any other name is a placeholder that is never imported or called. A placeholder where a tensor is "
        "expected is an [`UnsafeFile`](errors.md#ckb-304-unsafefile).",
        damage="Each record of a zip archive has a CRC-32, which is compared when all of a tensor is read. "
        "Some writers store no checksums; that is a warning. The older form has none.",
    ),
    "msgpack": Facts(
        about="Nested dictionaries, as `flax.serialization.to_bytes` writes them, and `checkpoint_N` files of "
        "Flax. Flax is not imported. Flax restores what ckptbridge wrote.",
        left_out="None, strings and byte strings hold no weights: the notes name them. Of a train state the "
        "weights are read.",
        hostile="Lengths, nesting, the number of entries and of axes are limited, and compared with the "
        "file's size before anything is allocated. No extension type makes anything but an array.",
        damage="There is no checksum: a flipped bit in a value is not noticed.",
    ),
    "hdf5": Facts(
        about="One contiguous dataset for each tensor, which any HDF5 program reads. Only files that "
        "ckptbridge wrote are read; Keras' layouts are refused "
        "([more](../plugins/ckptbridge-hdf5/README.md)).",
        left_out="-",
        hostile="libhdf5 never parses a file that is read: a guard before it gives the place of everything. A "
        "file without a valid guard is examined in a process of its own, with limits on time and memory, only "
        "to say why it is refused. External links, external storage and virtual datasets are refused.",
        damage="Every byte is under a SHA-256, which is compared for each part that is read.",
    ),
    "orbax": Facts(
        about="Checkpoint folders of JAX programs, with steps and items; zarr 2 and 3, with and without "
        "OCDBT. Neither JAX nor Orbax is imported ([more](../plugins/ckptbridge-orbax/README.md)).",
        left_out="Strings and None are named in the notes. Steps whose writing did not finish are listed, "
        "and not read.",
        hostile="tensorstore trusts what a folder declares, so names, links, codecs, dtypes and sizes are "
        "checked before it opens anything, and specifications in the folder are not used. A fault in its "
        "decoders is not guarded against.",
        damage="The index of a database and small values have checksums; large chunks have none unless "
        "the writer asked for them. A chunk that is missing is an error, not zeros.",
    ),
}


def page():
    """Return the page."""
    formats = provided("formats", "folder_formats")
    parts = [HEAD, table(["", *(f"[{name}](#{name})" for name in formats)], glance(formats)), AFTER_GLANCE]
    dtypes = [
        [f"`{dtype}`", *("yes" if dtype in one.capabilities.dtypes else "" for one in formats.values())]
        for dtype in DTYPES
    ]
    parts.append(table(["", *formats], dtypes))
    for name in formats:
        facts = FACTS[name]
        parts.append(f"\n## {name}\n\n{facts.about}\n\n")
        parts += [f"- **Left out**: {facts.left_out}\n"] if facts.left_out != "-" else []
        parts.append(f"- **Hostile files**: {facts.hostile}\n- **Damage**: {facts.damage}\n")
    parts.append(
        "\nWhat holds for every format: [Security](security.md). A format of your own: "
        "[Write a format](plugins/write-a-format.md).\n"
    )
    return "".join(parts)


def glance(formats):
    """Return a row for each property, with a cell for each format."""
    return [[title, *(cell(name, one) for name, one in formats.items())] for title, cell in ROWS.items()]


def table(head, rows):
    """Return a Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|".join(["", *("---" for _ in head), ""])]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def is_of_folders(one):
    return hasattr(one, "sniff_folder")


def names_of(one):
    """Return the usual names of a format; None for a format of folders, and for one that has none."""
    return getattr(one, "names", None)


def yes(value):
    return "yes" if value else "no"
