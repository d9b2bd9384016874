"""Weights of small language models as transformers names them, and in MaxText's tree, by hand."""

from dataclasses import dataclass, replace

import numpy as np

__all__ = ["Model", "gemma2", "gemma3", "maxtext_tree", "transformers_weights"]


@dataclass(frozen=True)
class Model:
    """A model of one family.

    Args:
        family: The first part of the recipe's name.
        padded: Rows of MaxText's embedding.
        scalar: What the query's scale is the root of.
        dense: How many layers have no experts.
        tied: Whether the head is the embedding.
    """

    family: str
    vocabulary: int = 21
    padded: int = 21
    width: int = 10
    hidden: int = 14
    layers: int = 3
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 4
    scalar: int = 4
    experts: int = 5
    dense: int = 0
    tied: bool = False

    @property
    def config(self):
        """Its entries that recipes ask for."""
        types = {
            "llama31": "llama",
            "qwen3-moe": "qwen3_moe",
            "gemma3": "gemma3_text",
            "gpt-oss": "gpt_oss",
            "deepseek3": "deepseek_v3",
            "deepseek2": "deepseek_v2",
        }
        return {
            "model_type": types.get(self.family, self.family),
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "head_dim": self.head_dim,
            "query_pre_attn_scalar": self.scalar,
            "first_k_dense_replace": self.dense,
        }

    @property
    def is_gemma(self):
        return self.family.startswith("gemma")

    @property
    def is_latent(self):
        return self.family.startswith("deepseek")


gemma2 = Model("gemma2", padded=24, width=9, layers=4, scalar=16, tied=True)
gemma3 = Model("gemma3", vocabulary=23, padded=21, width=9, layers=15, tied=True)

NORMS = {
    "input_layernorm": "pre_self_attention_layer_norm",
    "post_attention_layernorm": "post_self_attention_layer_norm",
}
GEMMA_NORMS = {
    "input_layernorm": "pre_self_attention_norm",
    "post_attention_layernorm": "post_self_attention_norm",
    "pre_feedforward_layernorm": "pre_ffw_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
MLP = {"gate_proj": "wi_0", "up_proj": "wi_1", "down_proj": "wo"}
MIXTRAL = {"w1": "wi_0", "w3": "wi_1", "w2": "wo"}
RANK, QUERY_RANK, VALUES, ROPE = 7, 8, 5, 2


def transformers_weights(model):
    """Return random weights, named as transformers names them."""
    rng = np.random.default_rng(len(model.family) + model.layers)
    m = model
    d, f, n, kv = m.width, m.hidden, m.heads * m.head_dim, m.kv_heads * m.head_dim
    shapes = {"model.embed_tokens.weight": (m.vocabulary, d), "model.norm.weight": (d,)}
    if not m.tied:
        shapes["lm_head.weight"] = (m.vocabulary, d)
    gates = {"gate_proj": (f, d), "up_proj": (f, d), "down_proj": (d, f)}
    for i in range(m.layers):
        at = f"model.layers.{i}."
        own = {"self_attn.o_proj.weight": (d, m.heads * VALUES if m.is_latent else n)}
        if m.is_latent:
            if m.family == "deepseek3":
                own |= {
                    "self_attn.q_a_proj.weight": (QUERY_RANK, d),
                    "self_attn.q_a_layernorm.weight": (QUERY_RANK,),
                    "self_attn.q_b_proj.weight": (n, QUERY_RANK),
                }
            else:
                own["self_attn.q_proj.weight"] = (n, d)
            own |= {
                "self_attn.kv_a_proj_with_mqa.weight": (RANK + ROPE, d),
                "self_attn.kv_a_layernorm.weight": (RANK,),
                "self_attn.kv_b_proj.weight": (m.heads * (m.head_dim - ROPE + VALUES), RANK),
            }
        else:
            own |= {f"self_attn.{x}_proj.weight": (n if x == "q" else kv, d) for x in "qkv"}
        if m.family in ("qwen2", "gpt-oss"):
            own |= {f"self_attn.{x}_proj.bias": (n if x == "q" else kv,) for x in "qkv"}
        if m.family in ("qwen3", "qwen3-moe", "gemma3"):
            own |= {f"self_attn.{x}_norm.weight": (m.head_dim,) for x in "qk"}
        norms = GEMMA_NORMS if m.family in ("gemma2", "gemma3") else NORMS
        own |= {f"{norm}.weight": (d,) for norm in norms}
        if m.family == "mixtral":
            own["block_sparse_moe.gate.weight"] = (m.experts, d)
            for e in range(m.experts):
                own |= {
                    f"block_sparse_moe.experts.{e}.{w}.weight": (d, f) if w == "w2" else (f, d)
                    for w in MIXTRAL
                }
        elif m.family == "gpt-oss":
            own |= {
                "self_attn.o_proj.bias": (d,),
                "self_attn.sinks": (m.heads,),
                "mlp.router.weight": (m.experts, d),
                "mlp.router.bias": (m.experts,),
                "mlp.experts.gate_up_proj": (m.experts, d, 2 * f),
                "mlp.experts.gate_up_proj_bias": (m.experts, 2 * f),
                "mlp.experts.down_proj": (m.experts, f, d),
                "mlp.experts.down_proj_bias": (m.experts, d),
            }
        elif m.family == "qwen3-moe" or i >= m.dense > 0:
            own["mlp.gate.weight"] = (m.experts, d)
            for e in range(m.experts):
                own |= {f"mlp.experts.{e}.{w}.weight": shape for w, shape in gates.items()}
            if m.family == "deepseek3":
                own["mlp.gate.e_score_correction_bias"] = (m.experts,)
            if m.is_latent:
                shared = {"gate_proj": (f + 3, d), "up_proj": (f + 3, d), "down_proj": (d, f + 3)}
                own |= {f"mlp.shared_experts.{w}.weight": shape for w, shape in shared.items()}
        else:
            own |= {f"mlp.{w}.weight": shape for w, shape in gates.items()}
        shapes |= {at + name: shape for name, shape in own.items()}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def heads_apart(weight, size):
    """Split the rows of a kernel into heads: ``(heads size) in -> in heads size``."""
    rows, columns = weight.shape
    return weight.reshape(rows // size, size, columns).transpose(2, 0, 1)


def neighbours(kernel):
    """Let the halves of each head alternate, as Llama 3.1's rope in MaxText has them."""
    first, second = np.split(kernel, 2, axis=-1)
    return np.stack([first, second], axis=-1).reshape(kernel.shape)


def layer_leaves(model, weights, i):
    """Return the tree of one layer, without the parts that lead to it."""
    m = model
    w = {
        name.removeprefix(f"model.layers.{i}."): value
        for name, value in weights.items()
        if name.startswith(f"model.layers.{i}.")
    }
    attention = "GptOssAttention" if m.family == "gpt-oss" else "self_attention"
    tree, a = {}, lambda leaf: f"{attention}/{leaf}"
    if m.is_latent:
        if m.family == "deepseek3":
            tree[a("wq_a/kernel")] = w["self_attn.q_a_proj.weight"].T
            tree[a("wq_b/kernel")] = heads_apart(w["self_attn.q_b_proj.weight"], m.head_dim)
            tree[a("q_norm/scale")] = w["self_attn.q_a_layernorm.weight"]
        else:
            tree[a("query/kernel")] = heads_apart(w["self_attn.q_proj.weight"], m.head_dim)
        tree[a("wkv_a/kernel")] = w["self_attn.kv_a_proj_with_mqa.weight"].T
        tree[a("wkv_b/kernel")] = heads_apart(w["self_attn.kv_b_proj.weight"], m.head_dim - ROPE + VALUES)
        tree[a("kv_norm/scale")] = w["self_attn.kv_a_layernorm.weight"]
    else:
        for old, new in (("q", "query"), ("k", "key"), ("v", "value")):
            kernel = heads_apart(w[f"self_attn.{old}_proj.weight"], m.head_dim)
            if m.family == "llama31" and old != "v":
                kernel = neighbours(kernel)
            if old == "q" and m.family in ("llama", "llama31", "mixtral", "gemma", "gemma2"):
                kernel = kernel * np.float32(1 / np.sqrt(m.scalar))
            tree[a(f"{new}/kernel")] = kernel
            if f"self_attn.{old}_proj.bias" in w:
                tree[a(f"{new}/bias")] = w[f"self_attn.{old}_proj.bias"].reshape(-1, m.head_dim)
            if f"self_attn.{old}_norm.weight" in w:
                tree[a(f"{new}_norm/scale")] = w[f"self_attn.{old}_norm.weight"] + np.float32(m.is_gemma)
    tree[a("out/kernel")] = w["self_attn.o_proj.weight"].T.reshape(m.heads, -1, m.width)
    norms = GEMMA_NORMS if m.is_gemma else NORMS
    if m.family == "gemma":
        norms = {"input_layernorm": "pre_self_attention_norm", "post_attention_layernorm": "pre_ffw_norm"}
    tree |= {f"{new}/scale": w[f"{old}.weight"] + np.float32(m.is_gemma) for old, new in norms.items()}
    experts = range(m.experts)
    if m.family == "mixtral":
        tree["MoeBlock_0/gate/kernel"] = w["block_sparse_moe.gate.weight"].T
        for old, new in MIXTRAL.items():
            stack = [w[f"block_sparse_moe.experts.{e}.{old}.weight"].T for e in experts]
            tree[f"MoeBlock_0/{new}"] = np.stack(stack)
    elif m.family == "gpt-oss":
        tree[a("out/bias")], tree[a("sinks")] = w["self_attn.o_proj.bias"], w["self_attn.sinks"]
        tree["GptOssMlp/gate/kernel"], tree["GptOssMlp/gate/bias"] = (
            w["mlp.router.weight"].T,
            w["mlp.router.bias"],
        )
        for n in (0, 1):
            tree[f"GptOssMlp/wi_{n}"] = w["mlp.experts.gate_up_proj"][..., n::2]
            tree[f"GptOssMlp/wi_{n}_bias"] = w["mlp.experts.gate_up_proj_bias"][..., n::2]
        tree["GptOssMlp/wo"] = w["mlp.experts.down_proj"]
        tree["GptOssMlp/wo_bias"] = w["mlp.experts.down_proj_bias"]
    elif "mlp.gate.weight" in w:
        block = "DeepSeekMoeBlock_0/MoeBlock_0" if m.is_latent else "moe_block"
        tree[f"{block}/gate/kernel"] = w["mlp.gate.weight"].T
        for old, new in MLP.items():
            tree[f"{block}/{new}"] = np.stack([w[f"mlp.experts.{e}.{old}.weight"].T for e in experts])
        if m.is_latent:
            if m.family == "deepseek3":
                tree[f"{block}/gate/bias"] = w["mlp.gate.e_score_correction_bias"]
            for old, new in MLP.items():
                tree[f"DeepSeekMoeBlock_0/shared_experts/{new}/kernel"] = w[
                    f"mlp.shared_experts.{old}.weight"
                ].T
    else:
        tree |= {f"mlp/{new}/kernel": w[f"mlp.{old}.weight"].T for old, new in MLP.items()}
    return tree


def grouped(model, scanned):
    """Return where layers are: the part of the path, and the layers stacked there, or one number."""
    m, every = model, list(range(model.layers))
    if m.is_latent:
        kinds = {"dense_layers": every[: m.dense], "moe_layers": every[m.dense :]}
        if scanned:
            return kinds
        return {f"{kind}_{n}": i for kind, numbers in kinds.items() for n, i in enumerate(numbers)}
    if not scanned:
        return {f"layers_{i}": i for i in every}
    if m.family == "gpt-oss":
        return {f"layers/layers_{p}": every[p::2] for p in (0, 1)}
    if m.family == "gemma3":
        whole = m.layers // 6 * 6
        blocks = {f"layers/layers_{p}": every[p:whole:6] for p in range(6)}
        return blocks | {f"layers_remainder/layers_{r}": whole + r for r in range(m.layers - whole)}
    return {"layers": every}


def maxtext_tree(model, weights, *, scanned):
    """Return the weights of `transformers_weights` as MaxText's converter stores them.

    Layers are stacked on the second axis.
    """
    m = model
    table = weights["model.embed_tokens.weight"][: m.padded]
    root = {}
    if m.is_gemma:
        more = np.zeros((m.padded - len(table), m.width), np.float32)
        constant = np.sqrt(np.float32(m.width))  # of 9 and 10: 3, and a number that rounds
        table = np.concatenate([table, more]) * constant
    root["token_embedder/embedding"] = table
    root["decoder/decoder_norm/scale"] = weights["model.norm.weight"] + np.float32(m.is_gemma)
    if not m.tied:
        root["decoder/logits_dense/kernel"] = weights["lm_head.weight"].T
    layers = [layer_leaves(m, weights, i) for i in range(m.layers)]
    if m.family == "gemma2":
        pairs = [
            {
                f"{path.replace('/', f'_{kind}/', 1)}": value
                for kind, leaves in zip(("local", "global"), pair, strict=True)
                for path, value in leaves.items()
            }
            for pair in zip(layers[::2], layers[1::2], strict=True)
        ]
        layers, m = pairs, replace(m, layers=len(pairs))
    for path, numbers in grouped(m, scanned).items():
        if isinstance(numbers, int):
            root |= {f"decoder/{path}/{leaf}": value for leaf, value in layers[numbers].items()}
            continue
        for leaf in layers[numbers[0]]:
            root[f"decoder/{path}/{leaf}"] = np.stack([layers[i][leaf] for i in numbers], axis=1)
    return {f"params/params/{name}": np.ascontiguousarray(value) for name, value in root.items()}
