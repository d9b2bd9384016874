"""The entries of docs/errors.md: of each error its cause, an example that raises it, and the way out."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent

__all__ = ["CODES_OF_ENDS", "ENDS", "ENTRIES", "PRELUDE", "WARNINGS", "Entry"]


@dataclass(frozen=True)
class Entry:
    """One error or warning.

    Args:
        name: The class; for what is not a class, a word in brackets.
        cause: When it is raised.
        way_out: What to do.
        example: Python that raises it, after `PRELUDE`; empty if none can be given.
        remark: What to know of the example, or why there is none.
        separate: Whether the example needs a Python of its own.
    """

    name: str
    cause: str
    way_out: str
    example: str = ""
    remark: str = ""
    separate: bool = False

    def __post_init__(self):
        """Let examples be written with the indentation of this file."""
        object.__setattr__(self, "example", dedent(self.example).strip("\n"))


PRELUDE = """import numpy as np
import bridge_core

weights = {"fc.weight": np.ones((3, 4), "float32"), "fc.bias": np.zeros(3, "float32")}
bridge_core.save_state(bridge_core.FlatState(weights, layout="torch"), "model.safetensors")"""

SERVER = """
        from bridge_core.io import RemoteEntry


        class Server:
            name, schemes = "store", ("store",)

            def pinned(self, url):
                return url

            def entry(self, url):
                return RemoteEntry("run")  # a folder

            def entries(self, url):
                return None

            def read(self, url, start, nbytes, entry):
                raise NotImplementedError

"""

ENTRIES = (
    Entry(
        "BridgeError",
        "The base of every error that is raised on purpose; only subclasses of it are raised.",
        "`except bridge_core.BridgeError` catches all of them.",
    ),
    Entry(
        "ConversionError",
        "The base of all refusals: going on could give wrong weights.",
        "See the class that was raised.",
    ),
    Entry(
        "PlanError",
        "A plan, or a chain of ops in it, contradicts itself. Conversions make no such plans; programs that make "
        "ops and steps of their own can.",
        "Compare what the op takes with the shape in the message.",
        """
        from bridge_core import ops

        ops.Permute((1, 0)).spec([bridge_core.TensorSpec((3,), np.dtype("float32"))])
        """,
    ),
    Entry(
        "RuleError",
        "A rule is wrong, matches nothing, or matches what another rule matches. A rule that matches nothing is "
        "most often a misspelt name.",
        "Correct the pattern; `optional=True` for a rule that may match nothing. `ckptbridge rules check` shows "
        "what each rule does.",
        """
        rule = bridge_core.Rule.rename("fcc.{leaf}", "head.{leaf}")
        bridge_core.convert("model.safetensors", "out.msgpack", to="flax", rules=[rule])
        """,
    ),
    Entry(
        "MismatchError",
        "Keys are missing or unexpected, or shapes differ. `missing`, `unexpected` and `mismatched` hold the names, and "
        "`proposed_rules` a rule file that would pair them, if one is known.",
        "Write the rules that rename ([port a model](port-a-model.md)), or allow what is on one side only: "
        "`allow_missing=`, `allow_unexpected=`, `allow_mismatched=`.",
        """
        like = {"other": {"kernel": np.ones((4, 3), "float32"), "bias": np.zeros(3, "float32")}}
        bridge_core.convert("model.safetensors", "out.msgpack", to="flax", like=like)
        """,
    ),
    Entry(
        "AmbiguousLayerError",
        "No evidence decides what kind some layers are: the names and shapes fit several. `candidates` holds the "
        "readings of each tensor.",
        "Give a template (`like=`), the model (`model=`) or a rule; [what decides](right-or-refused.md).",
        """
        bare = bridge_core.FlatState({"head.weight": np.ones((3, 4), "float32")}, layout="torch")
        bridge_core.save_state(bare, "head.safetensors")
        bridge_core.convert("head.safetensors", "head.msgpack", to="flax")
        """,
    ),
    Entry(
        "UnclaimedTensorError",
        "Tensors with the name of a layer's tensor that no evidence explains. Copied unchanged, their axes might be "
        "wrong. `reasons` holds the reason for each tensor.",
        'Give the model or a template, a rule `layer = "parameter"`, or `allow_unclaimed=` if you know that both '
        "sides store it alike.",
        """
        mixed = {**weights, "mixer.gate_weight": np.ones((4, 4), "float32")}
        bridge_core.save_state(bridge_core.FlatState(mixed, layout="torch"), "mixed.safetensors")
        bridge_core.convert("mixed.safetensors", "mixed.msgpack", to="flax")
        """,
    ),
    Entry(
        "UnsupportedLayerError",
        "The target framework has no form for a layer, or for a tensor of it. `reasons` holds the reason for each tensor.",
        "Build the target without this layer, or leave its tensors out by a rule with `drop`. In the neutral form "
        "they are preserved.",
        """
        layer = {
            "in_proj_weight": np.ones((24, 8), "float32"),
            "out_proj.weight": np.ones((8, 8), "float32"),
            "bias_k": np.ones((1, 1, 8), "float32"),
            "bias_v": np.ones((1, 1, 8), "float32"),
        }
        state = bridge_core.FlatState({f"attn.{name}": one for name, one in layer.items()}, layout="torch")
        bridge_core.save_state(state, "attention.safetensors")
        bridge_core.convert("attention.safetensors", "attention.msgpack", to="flax")
        """,
    ),
    Entry(
        "LossyCastError",
        "Values would change, and nobody asked for that. `ckptbridge_transformers.compat` raises it, as "
        "`LossyLoad`, for a torch model whose dtypes do not hold the weights. In a conversion a rule that would "
        "round is a `PlanError`, and `dtype=` asks for the cast.",
        "Convert with a dtype that holds the values.",
    ),
    Entry(
        "VerificationError",
        "What was written is not what was planned: the file was read back before it got its name, and differs. "
        "The destination is as it was.",
        "Convert again. If it happens again, the disk, the memory or the format's plugin is at fault.",
        """
        class Forgets(bridge_core.formats.NpzFormat):
            name, extensions = "forgets", (".forgets",)

            def sniff(self, file):
                return file.path.suffix == ".forgets"

            def write(self, state, target):
                super().write(state.select([("fc", "bias")]), target)


        class Plugin:
            @bridge_core.hookimpl
            def bridge_formats(self):
                return [Forgets()]


        registry = bridge_core.default_registry().extend(Plugin())
        bridge_core.convert("model.safetensors", "model.forgets", to="torch", format="forgets", registry=registry)
        """,
        remark="A format that forgets a tensor:",
    ),
    Entry(
        "DestinationExists",
        "The destination exists, or is the source.",
        "Another name, or `overwrite=True` (`--overwrite`). The old file is replaced only after the new one was checked.",
        """
        bridge_core.convert("model.safetensors", "again.msgpack", to="flax")
        bridge_core.convert("model.safetensors", "again.msgpack", to="flax")
        """,
    ),
    Entry(
        "DestinationIsFolder",
        "The destination is a folder, and one file is to be written.",
        "Give the name of a file. Weights are written into a folder as shards, with `max_shard_size=` "
        "(`--max-shard-size`) or without.",
        """
        import pathlib

        from bridge_core.io import replacing_file

        pathlib.Path("report.html").mkdir()
        with replacing_file(pathlib.Path("report.html"), overwrite=True) as file:
            file.write_text("<p>Done.</p>")
        """,
    ),
    Entry(
        "PluginError",
        "A plugin failed or broke its contract: a hook raises, or returns what it may not.",
        "`ckptbridge plugins` names the plugin and its distribution; `--disable-plugin NAME` goes on without it.",
        """
        class Plugin:
            @bridge_core.hookimpl
            def bridge_layer_kinds(self):
                return ["gated"]


        bridge_core.default_registry().extend(Plugin())
        """,
    ),
    Entry(
        "PluginConflict",
        "Two plugins provide the same name.",
        "Rename yours if ckptbridge has the name; of two other plugins disable one (`--disable-plugin NAME`).",
        """
        class Plugin:
            @bridge_core.hookimpl
            def bridge_layer_kinds(self):
                return [bridge_core.LayerKind("linear", {"kernel": "in out"})]


        bridge_core.default_registry().extend(Plugin())
        """,
    ),
    Entry(
        "RecipeRequired",
        "The tensors have the names of a code base whose models a [recipe](recipes.md) converts, and none was given. "
        "By names and shapes only, the result would be weights that no program reads.",
        '`recipe=NAME` (`--recipe NAME`), or `recipe="none"` to convert by names and shapes all the same.',
        """
        names = ("layers.0.attn.q_proj.w", "layers.0.input_layernorm.w")
        tunix = bridge_core.FlatState({name: np.ones(4, "float32") for name in names}, layout="flax")
        bridge_core.convert(tunix, "out.safetensors", to="torch")
        """,
        remark="Two names of a model of Tunix are enough to recognise it:",
    ),
    Entry(
        "UsageError",
        "The call is wrong: an unknown name, two options that exclude each other.",
        "The message names what is known, the nearest name first.",
        """
        bridge_core.convert("model.safetensors", "out.msgpack", to="flaks")
        """,
    ),
    Entry(
        "MissingDependency",
        "An optional package is needed and not installed.",
        "Install what the message names.",
        """
        import sys

        sys.modules["torch"] = None  # as if torch were not installed
        import bridge_torch

        neutral = bridge_core.as_state({"position": np.ones(2, "float32")}, layout="neutral")
        bridge_torch.from_neutral(neutral)
        """,
        separate=True,
    ),
    Entry(
        "NeedsLocalPath",
        "A file or folder is at a URL, and its format, or the call, needs one on this machine: HDF5 files and Orbax "
        "folders are opened by libraries that take paths only, and web servers do not list folders.",
        "Run the command that the message names, and give the path of what it downloads.",
        SERVER
        + """
        registry = bridge_core.default_registry().extend(Server())
        bridge_core.open_state("store://bucket/run", registry=registry)
        """,
        remark="With a file system that does not list folders:",
    ),
    Entry(
        "SourceNotFound",
        "The file or folder to read does not exist.",
        "Check the path; relative ones begin in the current folder.",
        """
        bridge_core.open_state("modell.safetensors")
        """,
    ),
    Entry(
        "UnknownKey",
        "A state holds no tensor of that name.",
        "The message has the nearest names; `list(state)` has all of them.",
        """
        with bridge_core.open_state("model.safetensors") as state:
            state["fc", "wieght"]
        """,
    ),
    Entry(
        "BadInputError",
        "The base of all faults of the input.",
        "See the class that was raised.",
    ),
    Entry(
        "MalformedFile",
        "The bytes break the rules of their format, or are of no known format.",
        "Get the file again; the message names what it looks like.",
        """
        with open("page.safetensors", "w") as file:
            file.write("<!DOCTYPE html><html><body>Sign in to download</body></html>")
        bridge_core.open_state("page.safetensors")
        """,
    ),
    Entry(
        "TruncatedFile",
        "The file is shorter than its own header declares.",
        "Copy or download the file again.",
        """
        with open("model.safetensors", "r+b") as file:
            file.truncate(150)
        bridge_core.open_state("model.safetensors")
        """,
    ),
    Entry(
        "IntegrityError",
        "A checksum differs, or the file changed while it was read.",
        "Get the file again, or run it again when nothing else writes to the file.",
        """
        bridge_core.save_state(weights, "model.npz")
        with open("model.npz", "r+b") as file:
            data = bytearray(file.read())
            data[data.index(np.float32(1).tobytes())] ^= 1  # one bit of one value
            file.seek(0)
            file.write(data)
        bridge_core.convert("model.npz", "out.msgpack", to="flax", layout="torch")
        """,
    ),
    Entry(
        "UnsafeFile",
        "The file asks for something that weights do not need: code, or files elsewhere. Nothing of it was run.",
        "Do not load it elsewhere unless you know who wrote it. Weights that somebody you trust saved with objects "
        "around them can be saved again without.",
        """
        import os
        import pickle


        class Attack:
            def __reduce__(self):
                return os.system, ("echo this is run by pickle.load",)


        with open("model.pt", "wb") as file:
            pickle.dump({"fc.weight": Attack()}, file, protocol=2)
        bridge_core.open_state("model.pt")
        """,
    ),
    Entry(
        "LimitExceeded",
        "The input declares more memory, depth or entries than weights need.",
        "The file is damaged or made to do harm. For a real one that is compressed: save it uncompressed.",
        """
        with open("huge.safetensors", "wb") as file:
            file.write((10**12).to_bytes(8, "little") + b'{"w": {"dtype": "F32"')
        bridge_core.open_state("huge.safetensors")
        """,
    ),
    Entry(
        "OutOfMemory",
        "The system gave no memory for what the input asks for.",
        "Lower `max_ram=` (`--max-ram`), or read parts: `state.read(key, region)`.",
        remark="No example: it needs a machine without memory.",
    ),
    Entry(
        "UnsupportedFeature",
        "A dtype, protocol or kind that is valid elsewhere and not supported, or that the format to write cannot store.",
        "Another format ([what each stores](formats.md#dtypes)), or a cast: `dtype=`.",
        """
        bridge_core.save_state({"w": np.ones(2, "complex128")}, "complex.safetensors")
        """,
    ),
    Entry(
        "KeyConflict",
        "Two tensors share one name, or a name is reserved.",
        "Rename one.",
        """
        same = {("block.0", "w"): np.ones(2), ("block", "0", "w"): np.zeros(2)}
        bridge_core.save_state(same, "same.safetensors")
        """,
    ),
    Entry(
        "ShardError",
        "An index and its shards disagree: a shard is missing, or does not hold what the index lists.",
        "Fetch the missing files into the folder of the index.",
        """
        import pathlib

        bridge_core.save_state(weights, "shards", format="safetensors", max_shard_size=50)
        next(iter(pathlib.Path("shards").glob("*-00001-of-*"))).unlink()
        bridge_core.open_state("shards")
        """,
    ),
    Entry(
        "SourceIsFolder",
        "A folder was given where one file is to be read, such as a rule file. Weights may be in a folder.",
        "Name the file.",
        """
        import pathlib

        pathlib.Path("rules").mkdir()
        bridge_core.load_rules("rules")
        """,
    ),
    Entry(
        "SystemFailure",
        "The machine failed: a full disk, a broken device. `errno` is the system's number. Nothing is left at the destination.",
        "Mend what the message names, and run it again.",
        """
        import unittest.mock

        with unittest.mock.patch("os.open", side_effect=OSError(5, "Input/output error")):
            bridge_core.open_state("model.safetensors")
        """,
        remark="As a system answers for a broken disk:",
    ),
    Entry(
        "AccessDenied",
        "A server does not permit reading or writing: no credentials, or not enough of them. The Hugging Face hub "
        "answers alike for a private model and for one that does not exist.",
        "Set what the message names: a token, or keys in the environment ([credentials](remote.md#credentials)).",
        SERVER
        + """
        class Private(Server):
            def entry(self, url):
                raise bridge_core.AccessDenied(
                    "the server does not permit reading it.", path=url, hint="Set STORE_TOKEN."
                )


        registry = bridge_core.default_registry().extend(Private())
        bridge_core.open_state("store://bucket/model.safetensors", registry=registry)
        """,
        remark="With a file system that answers as a server does for a private file:",
    ),
    Entry(
        "RemoteFailure",
        "A server cannot be reached, or its answer cannot be used: it is of another range, or of another length. "
        "`is_temporary` is True where the same request may succeed later; such a request was repeated with growing "
        "pauses before. `retry_after` is the number of seconds that the server asks to wait.",
        "Check the connection and the URL, and run it again; nothing is left at the destination.",
        SERVER
        + """
        class Broken(Server):
            def entry(self, url):
                raise bridge_core.RemoteFailure("the server sent the complete file for a range.", path=url)


        registry = bridge_core.default_registry().extend(Broken())
        bridge_core.open_state("store://bucket/model.safetensors", registry=registry)
        """,
        remark="With a file system that answers as a server without ranges does:",
    ),
    Entry(
        "PermissionDenied",
        "The system does not permit reading or writing.",
        "Change the permissions, or the folder.",
        """
        import unittest.mock

        with unittest.mock.patch("os.open", side_effect=PermissionError(13, "Permission denied")):
            bridge_core.open_state("model.safetensors")
        """,
        remark="As a system answers for a file of another user:",
    ),
)

ENDS = (
    Entry(
        "(interrupted)",
        "Ctrl-C, SIGTERM or a closed terminal ended the command. Nothing is left half written. In Python it is a "
        "`KeyboardInterrupt`.",
        "Run it again: it begins anew.",
    ),
    Entry(
        "(a mistake)",
        "A mistake in ckptbridge or in a plugin: an exception that nobody foresaw, with its traceback.",
        "Please report it, with the text above the message. Behind a plugin: `--disable-plugin NAME` shows whose it is.",
    ),
)
CODES_OF_ENDS = {"(interrupted)": ("CKB-130", 130, "KeyboardInterrupt"), "(a mistake)": ("CKB-499", 4, "")}

WARNINGS = (
    Entry(
        "ConversionWarning",
        "A conversion into live tensors has something that only its user can decide. Conversions into files have it "
        "in `report.warnings` instead.",
        "[Right weights, other outputs](right-weights-other-outputs.md) has each code: `flatten`, `norm_axes`, "
        "`overflow`, `quantised`, `adapter`, `scaled`.",
        """
        large = bridge_core.FlatState({"w": np.full(2, 1e30, "float32")}, layout="torch")
        rule = bridge_core.Rule.rearrange("w", "w", ["cast(float32, float16)"])
        plan = bridge_core.plan_conversion(large, to="torch", rules=[rule])
        bridge_core.load_values(plan.apply(large))
        """,
    ),
    Entry(
        "FileWarning",
        "A file was read, and something in it deserves a look.",
        "Read the message; nothing has to be done if it is as you expect.",
        """
        import pathlib

        bridge_core.save_state(weights, "shards", format="safetensors", max_shard_size=50)
        index = pathlib.Path("shards/model.safetensors.index.json")
        index.write_text(index.read_text().replace('"total_size": 60', '"total_size": 61'))
        bridge_core.open_state("shards").close()
        """,
    ),
    Entry(
        "PluginWarning",
        "A plugin failed and is left out; everything else works.",
        "`ckptbridge plugins` shows the cause. Update the plugin, or disable it.",
        """
        class Broken:
            name, collections, default_format = "broken", {}, "npz"

            def owns(self, names):
                raise LookupError("no such table")

            def accepts(self, value):
                return False

            def state(self, value): ...

            def build(self, state, like): ...


        class Plugin:
            @bridge_core.hookimpl
            def bridge_frameworks(self):
                return [Broken()]


        registry = bridge_core.default_registry().extend(Plugin())
        bridge_core.plan_conversion({"a.weight": np.ones(2)}, to="torch", registry=registry)
        """,
    ),
    Entry(
        "DeprecatedName",
        "A name that will go away was used.",
        "Use the name in the message.",
        """
        bridge_core.LayerKind("gated", {"kernel": "in out"}, residuals={})
        """,
    ),
)
