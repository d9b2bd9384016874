"""pi0, pi0.5 and pi0-FAST in torch, of transformers' PaliGemma and Gemma, with the names of openpi's port."""

import torch
import transformers
from torch import nn
from transformers.models.gemma import modeling_gemma

from support.flax_pi0 import may_see

__all__ = ["TorchPi0", "paligemma", "TorchPi0Fast"]


def gemma_config(sizes, expert):
    return transformers.GemmaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.widths[expert],
        intermediate_size=sizes.hidden[expert],
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=1,
        head_dim=sizes.head_dim,
        hidden_activation="gelu_pytorch_tanh",
        attn_implementation="eager",
    )


def paligemma(sizes):
    vision = transformers.SiglipVisionConfig(
        hidden_size=sizes.image_width,
        intermediate_size=sizes.image_hidden,
        num_hidden_layers=sizes.image_layers,
        num_attention_heads=sizes.image_heads,
        image_size=sizes.image,
        patch_size=sizes.patch,
        projection_dim=sizes.widths[0],
        vision_use_head=False,
    )
    config = transformers.PaliGemmaConfig(
        vision_config=vision.to_dict(),
        text_config=gemma_config(sizes, 0).to_dict(),
        image_token_index=sizes.vocabulary - 1,
        vocab_size=sizes.vocabulary,
        projection_dim=sizes.widths[0],
        attn_implementation="eager",
    )
    return transformers.PaliGemmaForConditionalGeneration(config)


class AdaptiveNorm(nn.Module):
    """Scale, shift and gate come from a condition."""

    def __init__(self, width):
        super().__init__()
        self.dense = nn.Linear(width, 3 * width)

    def forward(self, x, condition):
        y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        scale, shift, gate = self.dense(condition)[:, None].chunk(3, -1)
        return y * (1 + scale) + shift, gate


def normed(norm, x, condition):
    return norm(x, condition) if isinstance(norm, AdaptiveNorm) else (norm(x), 1)


class Experts(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.paligemma = paligemma(sizes)
        self.gemma_expert = transformers.GemmaForCausalLM(gemma_config(sizes, 1))
        self.gemma_expert.model.embed_tokens = None
        if sizes.adaptive:
            model = self.gemma_expert.model
            model.norm = AdaptiveNorm(sizes.widths[1])
            for layer in model.layers:
                layer.input_layernorm = AdaptiveNorm(sizes.widths[1])
                layer.post_attention_layernorm = AdaptiveNorm(sizes.widths[1])

    def forward(self, xs, places, seen, condition):
        models, conditions = (self.paligemma.model.language_model, self.gemma_expert.model), (None, condition)
        turns = models[0].rotary_emb(xs[0], places)
        hidden = torch.where(seen[:, None], 0.0, -1e30)
        for layers in zip(models[0].layers, models[1].layers, strict=True):
            xs = self.layer(layers, xs, turns, hidden, conditions)
        return [normed(m.norm, x, c)[0] for m, x, c in zip(models, xs, conditions, strict=True)]

    @staticmethod
    def layer(layers, xs, turns, hidden, conditions):
        ys, gates = zip(
            *(normed(at.input_layernorm, x, c) for at, x, c in zip(layers, xs, conditions, strict=True)),
            strict=True,
        )
        first = layers[0].self_attn

        def joined(name):
            parts = [getattr(at.self_attn, name)(y) for at, y in zip(layers, ys, strict=True)]
            return torch.cat(parts, 1).unflatten(-1, (-1, first.head_dim)).transpose(1, 2)

        q, k = modeling_gemma.apply_rotary_pos_emb(joined("q_proj"), joined("k_proj"), *turns)
        mixed, _ = modeling_gemma.eager_attention_forward(
            first, q, k, joined("v_proj"), hidden, first.scaling
        )
        parts = mixed.flatten(2).split([x.shape[1] for x in xs], 1)
        done = []
        for at, x, part, gate, c in zip(layers, xs, parts, gates, conditions, strict=True):
            x = x + at.self_attn.o_proj(part) * gate
            y, gate = normed(at.post_attention_layernorm, x, c)
            done.append(x + at.mlp(y) * gate)
        return done


def time_embedding(time, width):
    period = 4e-3 * 1e3 ** torch.linspace(0, 1, width // 2, dtype=torch.float64)
    angles = time.double()[:, None] / period * 2 * torch.pi
    return torch.cat([angles.sin(), angles.cos()], -1).float()


def tokens_of(model, images, tokens):
    """Return the tokens of images ``(batch, height, width, 3)`` and text."""
    seen = [
        model.multi_modal_projector(model.vision_tower(i.permute(0, 3, 1, 2)).last_hidden_state)
        for i in images
    ]
    text = model.language_model.embed_tokens(tokens)
    return torch.cat([*seen, text * text.shape[-1] ** 0.5], 1)


class TorchPi0(nn.Module):
    """Takes images, tokens, which tokens are valid, state, noisy actions and time; returns the velocity."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes, width = sizes, sizes.widths[1]
        self.paligemma_with_expert = Experts(sizes)
        self.action_in_proj = nn.Linear(sizes.actions, width)
        self.action_out_proj = nn.Linear(width, sizes.actions)
        if sizes.adaptive:
            self.time_mlp_in, self.time_mlp_out = nn.Linear(width, width), nn.Linear(width, width)
        else:
            self.state_proj = nn.Linear(sizes.actions, width)
            self.action_time_mlp_in = nn.Linear(2 * width, width)
            self.action_time_mlp_out = nn.Linear(width, width)

    def forward(self, images, tokens, valid, state, actions, time):
        s, silu = self.sizes, nn.functional.silu
        before = tokens_of(self.paligemma_with_expert.paligemma.model, images, tokens)
        y, clock, condition, starts = (
            self.action_in_proj(actions),
            time_embedding(time, s.widths[1]),
            None,
            [1],
        )
        if s.adaptive:
            condition = silu(self.time_mlp_out(silu(self.time_mlp_in(clock))))
        else:
            y = torch.cat([y, clock[:, None].expand_as(y)], -1)
            y = self.action_time_mlp_out(silu(self.action_time_mlp_in(y)))
            y, starts = torch.cat([self.state_proj(state)[:, None], y], 1), [1, 1]
        ones = torch.ones(len(y), before.shape[1] + y.shape[1], dtype=torch.bool)
        start = before.shape[1] - tokens.shape[1]
        valid = torch.cat([ones[:, :start], valid, ones[:, before.shape[1] :]], 1)
        seen = may_see(valid.numpy(), [0] * before.shape[1] + starts + [0] * (s.horizon - 1))
        places = valid.cumsum(1) - 1
        _, y = self.paligemma_with_expert([before, y], places, torch.from_numpy(seen), condition)
        return self.action_out_proj(y[:, -s.horizon :])


class TorchPi0Fast(nn.Module):
    """Takes images and tokens, of which those from ``prefix`` on see only what is before; returns logits."""

    def __init__(self, sizes, prefix):
        super().__init__()
        self.prefix, self.model = prefix, paligemma(sizes)

    def forward(self, images, tokens):
        x = tokens_of(self.model.model, images, tokens)
        batch, count = x.shape[:2]
        starts = torch.arange(count) >= count - tokens.shape[1] + self.prefix
        seen = torch.from_numpy(may_see(torch.ones(batch, count, dtype=torch.bool).numpy(), starts.numpy()))
        mask = torch.where(seen[:, None], 0.0, -1e30)
        language = self.model.model.language_model
        x = language(inputs_embeds=x / x.shape[-1] ** 0.5, attention_mask=mask, use_cache=False)
        return self.model.lm_head(x.last_hidden_state[:, -tokens.shape[1] :])
