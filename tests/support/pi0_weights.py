"""Random weights of tiny pi0 models: openpi's JAX tree, and the torch names of them, made name by name."""

import numpy as np

__all__ = ["flax_weights", "torch_weights"]

ATTENTION = "MultiHeadDotProductAttention_0"


def shapes_of(s):
    """Return the shapes of openpi's JAX tree."""
    shapes = {"PaliGemma/llm/embedder/input_embedding": (s.vocabulary, s.widths[0])}
    for n, (width, hidden) in enumerate(zip(s.widths, s.hidden, strict=True)):
        end, layers = f"_{n}" if n else "", "PaliGemma/llm/layers"
        shapes |= {
            f"{layers}/attn/q_einsum{end}/w": (s.layers, s.heads, width, s.head_dim),
            f"{layers}/attn/kv_einsum{end}/w": (s.layers, 2, 1, width, s.head_dim),
            f"{layers}/attn/attn_vec_einsum{end}/w": (s.layers, s.heads, s.head_dim, width),
            f"{layers}/mlp{end}/gating_einsum": (s.layers, 2, width, hidden),
            f"{layers}/mlp{end}/linear": (s.layers, hidden, width),
        }
        for norm, stack in (
            (f"{layers}/pre_attention_norm{end}", (s.layers,)),
            (f"{layers}/pre_ffw_norm{end}", (s.layers,)),
            (f"PaliGemma/llm/final_norm{end}", ()),
        ):
            if n and s.adaptive:
                shapes[f"{norm}/Dense_0/kernel"] = (*stack, width, 3 * width)
                shapes[f"{norm}/Dense_0/bias"] = (*stack, 3 * width)
            else:
                shapes[f"{norm}/scale"] = (*stack, width)
    width, heads = s.image_width, (s.image_heads, s.image_width // s.image_heads)
    block = "PaliGemma/img/Transformer/encoderblock"
    shapes |= {
        "PaliGemma/img/embedding/kernel": (s.patch, s.patch, 3, width),
        "PaliGemma/img/embedding/bias": (width,),
        "PaliGemma/img/pos_embedding": (1, (s.image // s.patch) ** 2, width),
        "PaliGemma/img/Transformer/encoder_norm/scale": (width,),
        "PaliGemma/img/Transformer/encoder_norm/bias": (width,),
        "PaliGemma/img/head/kernel": (width, s.widths[0]),
        "PaliGemma/img/head/bias": (s.widths[0],),
        f"{block}/MlpBlock_0/Dense_0/kernel": (s.image_layers, width, s.image_hidden),
        f"{block}/MlpBlock_0/Dense_0/bias": (s.image_layers, s.image_hidden),
        f"{block}/MlpBlock_0/Dense_1/kernel": (s.image_layers, s.image_hidden, width),
        f"{block}/MlpBlock_0/Dense_1/bias": (s.image_layers, width),
        f"{block}/{ATTENTION}/out/kernel": (s.image_layers, *heads, width),
        f"{block}/{ATTENTION}/out/bias": (s.image_layers, width),
    }
    for name in ("query", "key", "value"):
        shapes[f"{block}/{ATTENTION}/{name}/kernel"] = (s.image_layers, width, *heads)
        shapes[f"{block}/{ATTENTION}/{name}/bias"] = (s.image_layers, *heads)
    for name in ("LayerNorm_0", "LayerNorm_1"):
        shapes[f"{block}/{name}/scale"] = shapes[f"{block}/{name}/bias"] = (s.image_layers, width)
    if len(s.widths) == 2:
        width = s.widths[1]
        dense = {"action_in_proj": (s.actions, width), "action_out_proj": (width, s.actions)}
        if s.adaptive:
            dense |= {"time_mlp_in": (width, width), "time_mlp_out": (width, width)}
        else:
            dense |= {"state_proj": (s.actions, width), "action_time_mlp_in": (2 * width, width)}
            dense |= {"action_time_mlp_out": (width, width)}
        for name, shape in dense.items():
            shapes |= {f"{name}/kernel": shape, f"{name}/bias": shape[1:]}
    return shapes


def flax_weights(sizes, seed=0):
    """Return random weights under the names of openpi's JAX tree."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) * 0.2).astype(np.float32) for name, shape in shapes_of(sizes).items()
    }


def torch_weights(tree, paligemma, expert=None, root="", head=None):
    """Return the same weights under torch's names; tied tensors under the embedding's only.

    Args:
        tree: Weights under JAX's names.
        paligemma: What the names of PaliGemma's parts begin with: vision tower, projector, language model.
        expert: Likewise, of the action expert.
        root: Likewise, of the projections of states, actions and time.
        head: Name of the action expert's head, which openpi's JAX does not have.
    """
    vision, projector, language = paligemma
    made = {f"{language}.embed_tokens.weight": tree["PaliGemma/llm/embedder/input_embedding"]}
    for end, model in (("", language), ("_1", expert)):
        if model is None:
            continue
        layers = "PaliGemma/llm/layers"
        q, kv = (tree[f"{layers}/attn/{x}_einsum{end}/w"] for x in ("q", "kv"))
        for i in range(len(q)):
            out = tree[f"{layers}/attn/attn_vec_einsum{end}/w"][i]
            gates = tree[f"{layers}/mlp{end}/gating_einsum"][i]
            weights = {
                "self_attn.q_proj": np.concatenate([head_.T for head_ in q[i]]),
                "self_attn.k_proj": kv[i, 0, 0].T,
                "self_attn.v_proj": kv[i, 1, 0].T,
                "self_attn.o_proj": np.concatenate([head_.T for head_ in out], 1),
                "mlp.gate_proj": gates[0].T,
                "mlp.up_proj": gates[1].T,
                "mlp.down_proj": tree[f"{layers}/mlp{end}/linear"][i].T,
            }
            made |= {f"{model}.layers.{i}.{name}.weight": value for name, value in weights.items()}
            norms = {"input_layernorm": "pre_attention_norm", "post_attention_layernorm": "pre_ffw_norm"}
            for name, own in norms.items():
                made |= norm(tree, f"{layers}/{own}{end}", f"{model}.layers.{i}.{name}", i)
        made |= norm(tree, f"PaliGemma/llm/final_norm{end}", f"{model}.norm", ...)
    made |= vision_weights(tree, vision)
    dense = {"PaliGemma/img/head": f"{projector}.linear"}
    dense |= {
        name[:-7]: root + name[:-7] for name in tree if name.count("/") == 1 and name.endswith("kernel")
    }
    for own, name in dense.items():
        made |= {f"{name}.weight": tree[f"{own}/kernel"].T, f"{name}.bias": tree[f"{own}/bias"]}
    if head is not None:
        width = tree["PaliGemma/llm/layers/mlp_1/linear"].shape[-1]
        made[head] = np.zeros((len(made[f"{language}.embed_tokens.weight"]), width), np.float32)
    return {name: np.ascontiguousarray(value) for name, value in made.items()}


def norm(tree, own, name, i):
    if f"{own}/scale" in tree:
        return {f"{name}.weight": tree[f"{own}/scale"][i]}
    kernel, bias = tree[f"{own}/Dense_0/kernel"][i], tree[f"{own}/Dense_0/bias"][i]
    return {f"{name}.dense.weight": kernel.T, f"{name}.dense.bias": bias}


def vision_weights(tree, vision):
    image, block = "PaliGemma/img", "PaliGemma/img/Transformer/encoderblock"
    made = {
        f"{vision}.embeddings.patch_embedding.weight": tree[f"{image}/embedding/kernel"].transpose(
            3, 2, 0, 1
        ),
        f"{vision}.embeddings.patch_embedding.bias": tree[f"{image}/embedding/bias"],
        f"{vision}.embeddings.position_embedding.weight": tree[f"{image}/pos_embedding"][0],
        f"{vision}.post_layernorm.weight": tree[f"{image}/Transformer/encoder_norm/scale"],
        f"{vision}.post_layernorm.bias": tree[f"{image}/Transformer/encoder_norm/bias"],
    }
    for i in range(len(tree[f"{block}/LayerNorm_0/scale"])):
        layer = f"{vision}.encoder.layers.{i}"
        for n in (0, 1):
            kernel, bias = (tree[f"{block}/MlpBlock_0/Dense_{n}/{leaf}"][i] for leaf in ("kernel", "bias"))
            made |= {f"{layer}.mlp.fc{n + 1}.weight": kernel.T, f"{layer}.mlp.fc{n + 1}.bias": bias}
            scale, bias = (tree[f"{block}/LayerNorm_{n}/{leaf}"][i] for leaf in ("scale", "bias"))
            made |= {f"{layer}.layer_norm{n + 1}.weight": scale, f"{layer}.layer_norm{n + 1}.bias": bias}
        for name, own in {"q_proj": "query", "k_proj": "key", "v_proj": "value"}.items():
            kernel, bias = (tree[f"{block}/{ATTENTION}/{own}/{leaf}"][i] for leaf in ("kernel", "bias"))
            made[f"{layer}.self_attn.{name}.weight"] = kernel.reshape(len(kernel), -1).T
            made[f"{layer}.self_attn.{name}.bias"] = bias.reshape(-1)
        out = tree[f"{block}/{ATTENTION}/out/kernel"][i]
        made[f"{layer}.self_attn.out_proj.weight"] = out.reshape(-1, out.shape[-1]).T
        made[f"{layer}.self_attn.out_proj.bias"] = tree[f"{block}/{ATTENTION}/out/bias"][i]
    return made
