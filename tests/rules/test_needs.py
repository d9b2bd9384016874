"""What real ports need, each in a small rule file: the target's bits by numpy alone, and the way back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.errors import refused

from bridge_core import PlanError, RuleError, convert, load_rules

numbers = np.random.default_rng(17)


def new(*shape, dtype=np.float32):
    return numbers.standard_normal(shape, np.float32).astype(dtype)


def layers(count, **shapes):
    """Return tensors ``layers.{i}.{name}`` with the dots of names written as two underscores."""
    return {
        f"layers.{i}.{name.replace('__', '.')}": new(*shape)
        for i in range(count)
        for name, shape in shapes.items()
    }


def of(tensors, name, numbers, change=lambda x: x, axis=0):
    return np.stack([change(tensors[name.format(i)]) for i in numbers], axis)


@dataclass
class Need:
    """One mapping.

    Args:
        rules: The rules, below the layouts.
        source: Tensors by name.
        make: Gives the target's tensors.
        config: The checkpoint's config.
        sizes: Sizes that are set from outside.
        options: Options of the conversion there.
        like_back: Whether the way back needs the source as its template.
        back: Whether it brings the source back bit for bit.
        layouts: The layouts of the rules.
    """

    rules: str
    source: dict[str, np.ndarray]
    make: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
    config: dict[str, Any] | None = None
    sizes: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    like_back: bool = False
    back: bool = True
    layouts: tuple[str, str] = ("torch", "flax")


def heads(x, n):
    return x.reshape(n, -1, x.shape[-1]).transpose(0, 2, 1)


def two_experts(w):
    made = {}
    for start, end, n in (("model.large.", "", 4), ("model.small.", "_1", 2)):
        q, k, v = (f"{start}layers.{{}}.{x}_proj.weight" for x in "qkv")
        made[f"layers.q_einsum{end}.w"] = of(w, q, (0, 1), lambda x, n=n: heads(x, n))
        both = [of(w, name, (0, 1), lambda x: heads(x, 1)) for name in (k, v)]
        made[f"layers.kv_einsum{end}.w"] = np.stack(both, 1)
    return {f"{name}.value": x for name, x in made.items()}


def blocks_with_remainder(w):
    name = "layers.{}.norm.weight"
    made = {f"layers_{j}.scale": of(w, name, (j, j + 3), lambda x: x + 1, 1) for j in range(3)}
    made |= {f"rest_{r}.scale": w[name.format(6 + r)] + 1 for r in range(2)}
    padded = np.concatenate([w["embed.weight"] * np.float32(4), np.zeros((2, 16), np.float32)])
    return {**made, "embedder.embedding": padded}


def by_key_head(w):
    q, k, v = np.split(w["qkv.weight"], [6, 12])
    parts = [x.reshape(2, -1, 5) for x in (q, k, v, w["z.weight"])]
    return {"qkvz.kernel": np.concatenate(parts, 1).reshape(-1, 5).T}


def half_split_to_interleaved(w):
    name, width = "layers.{}.q.weight", 6
    turned = of(w, name, range(3)).reshape(3, 2, 2, 2, width).transpose(4, 0, 1, 3, 2)
    experts = np.stack([of(w, f"layers.{{}}.experts.{e}.weight", range(3), np.transpose) for e in range(2)])
    return {"query.kernel": turned.reshape(width, 3, 2, 4) * np.float32(0.5), "experts": experts}


STAGES = {f"layer{s}.{b}.conv.weight": new(4, 3) for s, n in ((1, 2), (2, 3)) for b in range(n)}
TO_HAIKU = {"weight": "scale", "bias": "offset"}
NEEDS = {
    "numbers that count from 1, and names by a table": Need(
        """
        [tables]
        x = { q_proj = "query", out_proj = "out" }
        [[rule]]
        source = "layers.{i:int}.{x}.weight"
        target = "block_{i:int}.{x}.kernel"
        rearrange = "o i -> i o"
        [[rule]]
        source = "layers.{i:int}.layer_norm{n:int}.weight"
        target = "block_{i:int}.LayerNorm_{m:int}.scale"
        where = "n = m + 1"
        """,
        layers(2, q_proj__weight=(4, 3), out_proj__weight=(4, 3), layer_norm1__weight=(4,)),
        lambda w: {
            **{f"block_{i}.query.kernel": w[f"layers.{i}.q_proj.weight"].T for i in range(2)},
            **{f"block_{i}.out.kernel": w[f"layers.{i}.out_proj.weight"].T for i in range(2)},
            **{f"block_{i}.LayerNorm_0.scale": w[f"layers.{i}.layer_norm1.weight"] for i in range(2)},
        },
    ),
    "one block of rules for two experts, below optional prefixes and boxes": Need(
        """
        [prefix]
        source = ["", "model"]
        [suffix]
        target = ["value", ""]
        [tables.expert]
        large = { name = "", heads = 4 }
        small = { name = "_1", heads = 2 }
        [[rule]]
        source = "{expert}.layers.{i:int}.q_proj.weight"
        target = "layers.q_einsum{expert}.w"
        rearrange = "(heads h) d -> i heads d h"
        [[rule]]
        source = ["{expert}.layers.{i:int}.k_proj.weight", "{expert}.layers.{i:int}.v_proj.weight"]
        target = "layers.kv_einsum{expert}.w"
        rearrange = "(kv h) d, (kv h) d -> i 2 kv d h"
        sizes = { kv = 1 }
        """,
        {
            f"model.{expert}.{name}": x
            for expert, q, k in (("large", (8, 6), (3, 6)), ("small", (4, 3), (2, 3)))
            for name, x in layers(2, q_proj__weight=q, k_proj__weight=k, v_proj__weight=k).items()
        },
        two_experts,
        like_back=True,
    ),
    "one number over stages of different lengths": Need(
        """
        [sizes]
        starts = [0, 2]
        [[rule]]
        source = "layer{s:int}.{b:int}.conv.weight"
        target = "Block_{n:int}.kernel"
        rearrange = "o i -> i o"
        where = "n = starts[s - 1] + b"
        """,
        STAGES,
        lambda w: {f"Block_{n}.kernel": x.T for n, x in enumerate(w.values())},
    ),
    "blocks with a remainder, one added, a padded vocabulary and its scale": Need(
        """
        [sizes]
        whole = "3*(config.layers // 3)"
        vocabulary = "config.vocabulary"
        padded = "?"
        [[rule]]
        source = "layers.{i:int}.norm.weight"
        target = "layers_{j:int}.scale"
        rearrange = ["d -> d block", "offset(1)"]
        where = ["i = block*3 + j", "i < whole"]
        [[rule]]
        source = "layers.{i:int}.norm.weight"
        target = "rest_{r:int}.scale"
        rearrange = "offset(1)"
        where = "i = whole + r"
        [[rule]]
        source = "embed.weight"
        target = "embedder.embedding"
        rearrange = ["v d -> v d", "scale(bfloat16(sqrt(d)))", "pad(v, vocabulary, padded)"]
        """,
        {
            **{name: np.round(x * 8) / 8 + 0 for name, x in layers(8, norm__weight=(5,)).items()},
            "embed.weight": new(6, 16),
        },
        blocks_with_remainder,
        config={"layers": 8, "vocabulary": 6},
        sizes={"padded": 8},
    ),
    "even and odd layers by the rows of a table": Need(
        """
        [tables]
        kind = { local = { odd = 0 }, global = { odd = 1 } }
        [[rule]]
        source = "layers.{i:int}.gate.weight"
        target = "mlp_{kind}.wi.kernel"
        rearrange = "o i_ -> i_ b o"
        where = "i = 2*b + odd"
        """,
        layers(4, gate__weight=(4, 3)),
        lambda w: {
            f"mlp_{kind}.wi.kernel": of(w, "layers.{}.gate.weight", range(odd, 4, 2), np.transpose, 1)
            for odd, kind in enumerate(("local", "global"))
        },
    ),
    "layers from the third on": Need(
        """
        [[rule]]
        source = "layers.{i:int}.w.weight"
        target = "moe_layers.w.kernel"
        rearrange = "out in -> n in out"
        where = "i = n + config.dense"
        """,
        {name: x for name, x in layers(5, w__weight=(4, 3)).items() if int(name[7]) >= 2},
        lambda w: {"moe_layers.w.kernel": of(w, "layers.{}.w.weight", (2, 3, 4), np.transpose)},
        config={"dense": 2},
    ),
    "a scale of the config, halves to pairs, layers and experts as two axes": Need(
        """
        [sizes]
        heads = "config.heads"
        head_dim = "config.hidden // heads"
        [[rule]]
        source = "layers.{i:int}.q.weight"
        target = "query.kernel"
        rearrange = ["(heads two half) d -> d i heads (half two)", "scale(head_dim ** -0.5)"]
        sizes = { two = 2 }
        [[rule]]
        source = "layers.{i:int}.experts.{e:int}.weight"
        target = "experts"
        rearrange = "out in -> e i in out"
        """,
        layers(3, q__weight=(8, 6), experts__0__weight=(5, 6), experts__1__weight=(5, 6)),
        half_split_to_interleaved,
        config={"heads": 2, "hidden": 8},
    ),
    "rows that are cut off": Need(
        """
        [[rule]]
        source = "embed.weight"
        target = "embedder.embedding"
        rearrange = ["v d -> v d", "cut(v, 4)"]
        when = { sizes = "v > 4" }
        """,
        {"embed.weight": new(6, 3)},
        lambda w: {"embedder.embedding": w["embed.weight"][:4]},
        like_back=True,
        back=False,
    ),
    "parts in another order, head by head": Need(
        """
        [[rule]]
        source = ["qkv.weight", "z.weight"]
        target = "qkvz.kernel"
        rearrange = "((h q) + (h k) + (h v)) d, (h z) d -> d (h (q + k + v + z))"
        sizes = { h = 2, q = "config.key_dim", k = "q", v = 4 }
        """,
        {"qkv.weight": new(20, 5), "z.weight": new(8, 5)},
        by_key_head,
        config={"key_dim": 3},
    ),
    "a head that is tied because it is not there": Need(
        """
        [[rule]]
        source = ["embed.weight", "lm_head.weight?"]
        target = ["embedder.embedding", "decoder.kernel"]
        rearrange = "v d, v d -> v d, d v"
        """,
        {"embed.weight": new(6, 3)},
        lambda w: {"embedder.embedding": w["embed.weight"], "decoder.kernel": w["embed.weight"].T},
    ),
    "a cast of a part": Need(
        """
        [[rule]]
        source = "{tower}.fc.weight"
        target = "{tower}.fc.kernel"
        rearrange = "out in -> in out"
        """,
        {"vision.fc.weight": new(4, 3), "text.fc.weight": new(4, 3)},
        lambda w: {
            "vision.fc.kernel": w["vision.fc.weight"].T,
            "text.fc.kernel": w["text.fc.weight"].T.astype(ml_dtypes.bfloat16),
        },
        options={"dtype": {"vision.**": "float32", "**": "bfloat16"}},
        back=False,
    ),
    "names of other libraries with slashes": Need(
        """
        [tables]
        leaf = { weight = "scale", bias = "offset" }
        stat = { running_mean = "mean_ema", running_var = "var_ema" }
        [[rule]]
        source = "layer{s:int}.bn{j:int}.{leaf}"
        target = "net/~/group_{g:int}/~/batchnorm_{k:int}/{leaf}"
        rearrange = "c -> 1 1 1 c"
        where = ["s = g + 1", "j = k + 1"]
        [[rule]]
        source = "layer{s:int}.bn{j:int}.{stat}"
        target = ["net/~/group_{g:int}/~/batchnorm_{k:int}/~/{stat}/average",
                  "net/~/group_{g:int}/~/batchnorm_{k:int}/~/{stat}/hidden"]
        rearrange = "c -> 1 1 1 c, 1 1 1 c"
        where = ["s = g + 1", "j = k + 1"]
        """,
        {f"layer1.bn2.{leaf}": new(4) for leaf in (*TO_HAIKU, "running_mean", "running_var")},
        lambda w: {
            **{
                f"net/~/group_0/~/batchnorm_1/{there}": w[f"layer1.bn2.{here}"].reshape(1, 1, 1, 4)
                for here, there in TO_HAIKU.items()
            },
            **{
                f"net/~/group_0/~/batchnorm_1/~/{x}_ema/{copy}": w[f"layer1.bn2.running_{x}"].reshape(
                    1, 1, 1, 4
                )
                for x in ("mean", "var")
                for copy in ("average", "hidden")
            },
        },
    ),
    "a file with slashes that comes back with slashes": Need(
        """
        [tables]
        dense = { "attention/self/query" = "attention.self.query", "output/dense" = "output.dense" }
        [[rule]]
        source = "bert/layer_{i:int}/{dense}/kernel"
        target = "bert.layer.{i:int}.{dense}.weight"
        rearrange = "in out -> out in"
        """,
        {
            f"bert/layer_{i}/{x}/kernel": new(4, 3)
            for i in range(2)
            for x in ("attention/self/query", "output/dense")
        },
        lambda w: {
            name.replace("layer_", "layer/").replace("kernel", "weight").replace("/", "."): x.T
            for name, x in w.items()
        },
        layouts=("flax", "torch"),
    ),
    "buffers of several names that are dropped by one rule": Need(
        """
        [[rule]]
        source = "{context_length|vocab_size}"
        drop = "the config has them"
        [[rule]]
        source = "text_projection"
        target = "projection.kernel"
        """,
        {"text_projection": new(4, 3), "context_length": new(1), "vocab_size": new(1)},
        lambda w: {"projection.kernel": w["text_projection"]},
        back=False,
    ),
}


def written(need, folder):
    """Write the files of a need; return the path of the source and the loaded rules."""
    source, target = need.layouts
    (folder / "r.toml").write_text(f'source = "{source}"\ntarget = "{target}"\n{need.rules}')
    if need.config is not None:
        (folder / "config.json").write_text(json.dumps(need.config))
    save_file(need.source, folder / "a.safetensors")
    return folder / "a.safetensors", load_rules(folder / "r.toml", sizes=need.sizes)


def assert_holds(path, wanted):
    made = load_file(path)
    assert made.keys() == wanted.keys()
    for name, array in wanted.items():
        assert (made[name].dtype, made[name].shape) == (array.dtype, array.shape), name
        assert made[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


@pytest.mark.parametrize("name", NEEDS)
def test_a_rule_file_says_it_and_the_way_back(name, tmp_path):
    need = NEEDS[name]
    source, rules = written(need, tmp_path)
    there, again = tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    report = convert(source, there, layout=need.layouts[0], to=need.layouts[1], rules=rules, **need.options)
    assert report.exact == need.back
    assert_holds(there, need.make(need.source))
    if need.back:
        like = source if need.like_back else None
        convert(there, again, layout=need.layouts[1], to=need.layouts[0], rules=rules, like=like)
        assert_holds(again, need.source)


def test_a_scale_that_rounds_needs_consent_and_names_its_rule(tmp_path):
    need = Need(
        """
        [[rule]]
        source = "q.weight"
        target = "q.kernel"
        rearrange = ["(n h) d -> d n h", "scale(h ** -0.5)"]
        sizes = { n = 2 }
        """,
        {"q.weight": new(16, 4, dtype=ml_dtypes.bfloat16)},
        lambda w: {},
    )
    source, rules = written(need, tmp_path)
    out = tmp_path / "b.safetensors"
    with refused(PlanError, "r.toml:4: ", "q.kernel", hint=("rounding", "--allow-inexact")):
        convert(source, out, to="flax", rules=rules)
    report = convert(source, out, to="flax", rules=rules, allow_inexact=True)
    assert not report.exact
    scaled = need.source["q.weight"].astype(np.float32) * np.float32(8**-0.5)
    assert_holds(out, {"q.kernel": scaled.reshape(2, 8, 4).transpose(2, 0, 1).astype(ml_dtypes.bfloat16)})


GUESSES = (  # what users write first, what the error names as the right spelling
    ("rename", 'source = "(model.)?layers.{i:int}.w"\nrename = "{i:int}.w"', "{text.|}"),
    ("rename", 'source = "layers.(\\\\d+).w"\nrename = "l.w"', "{i:int}"),
    ("stack", 'source = ["k", "v"]\ntarget = "kv"\nrearrange = "n d, n d -> two n d"', "such as 2."),
    ("regroup", 'source = "a"\ntarget = "b"\nrearrange = "((h q) (h k)) d -> d (h (q k))"', "write +"),
    ("list", 'source = "a.*"\nrename = "b.*"\nwhen.config.types = ["full"]', "config.types[i] =="),
    (
        "table",
        'source = "l.{i:int}.w"\ntarget = "{kind}.w"\nrearrange = "o i -> n o i"\nwhere = "i = 2*n"\n'
        'tables = { kind = { a = "b" } }',
        "odd = 0",
    ),
    ("tie", 'source = ["embed.w", "lm_head.w"]\ntarget = "e"\nrearrange = "v d, v d -> v d"', "lm_head.w?"),
    ("offset", 'source = "layers.{i:int}.w"\ntarget = "w"\nrearrange = "a b -> i a b"', '"i = n + 3"'),
    (
        "drop",
        'source = "**.steps"\ndrop = "counts"\n[[rule]]\nsource = "bn.*"\nrename = "norm.*"',
        "fallback = true",
    ),
    ("size", 'source = "bn.{x}"\ntarget = "norm.{x}"\nrearrange = "scale(2 * config.n)"', "--set"),
    (
        "unequal stages",
        'source = "s{s:int}.{b:int}.w"\nrename = "n_{n:int}.w"\nwhere = "n = 2*s + b"',
        "counts s, b",
    ),
    ("key", 'source = "a"\ntarget = "b"\nscale = 2', "rearrange = "),
    ("condition", 'source = "a"\ntarget = "b"\nexists = "c"', "when = "),
    ("map", 'source = "a"\ntarget = "b"\nmap = { x = { a = "b" } }', "tables = "),
    ("quotes", 'source = "embed.w"\ntarget = "e"\nrearrange = "scale(\'config.n\')"', "quotes"),
    ("arithmetic", 'source = "layers.{i:int}.w"\ntarget = "l.{i+1}.w"', "where = 'n = i + 1'"),
    ("two numbers", 'source = "layers.{i:int}.w"\ntarget = "l.{j:int}.w"', "where = "),
    (
        "list by index",
        'source = "layers.{i:int}.w"\ntarget = "l.{i:int}"\nwhen.config."types[i]" = "full"',
        "where = \"config.types[i] == 'full_attention'\"",
    ),
    (
        "counted from 1",
        'source = "s{s:int}.{b:int}.w"\nrename = "n_{n:int}.w"\nwhere = "n = [0, 3][s] + b"',
        "[s - 1]",
    ),
)


@pytest.mark.parametrize(("what", "rule", "named"), GUESSES)
def test_a_wrong_guess_is_answered_with_what_to_write(what, rule, named, tmp_path):
    names = ("embed.w", "layers.3.w", "layers.4.w", "bn.scale", "bn.steps", "s2.0.w", "s2.2.w")
    need = Need(f"[[rule]]\n{rule}\n", {name: new(2, 2) for name in names}, lambda w: {})

    def convert_there():
        source, rules = written(need, tmp_path)
        convert(source, tmp_path / "b.safetensors", layout="torch", to="flax", rules=rules)

    with refused(RuleError, "r.toml:", named):
        convert_there()
