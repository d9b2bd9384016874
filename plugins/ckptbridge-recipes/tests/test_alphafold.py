"""AlphaFold's haiku parameters and OpenFold: names and shapes by hand, for a small model."""

import numpy as np
import pytest
from support.rule_proofs import RECIPES

from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

MSA, EXTRA, PAIR, SINGLE, TEMPLATE = 12, 10, 14, 18, 11
MSA_HEADS, PAIR_HEADS, TEMPLATE_HEADS, DEPTH, OUTER = 4, 3, 2, 5, 6
ROOT = "alphafold/alphafold_iteration"


class Both:
    """The weights of one model under the names of AlphaFold (haiku) and of OpenFold (torch)."""

    def __init__(self):
        self.haiku, self.torch = {}, {}
        self.random = np.random.default_rng(0)

    def values(self, *shape):
        return self.random.standard_normal(shape).astype(np.float32)

    def linear(self, haiku, torch, inputs, outputs, layers=None):
        """A linear layer; with ``layers`` those of a stack, whose torch names have a place for the number."""
        at = () if layers is None else (layers,)
        weights, bias = self.values(*at, inputs, outputs), self.values(*at, outputs)
        self.haiku |= {f"{haiku}//weights": weights, f"{haiku}//bias": bias}
        self.put(f"{torch}.weight", weights, layers, np.transpose)
        self.put(f"{torch}.bias", bias, layers)

    def norm(self, haiku, torch, width, layers=None):
        at = () if layers is None else (layers,)
        for leaf, word in (("scale", "weight"), ("offset", "bias")):
            self.haiku[f"{haiku}//{leaf}"] = value = self.values(*at, width)
            self.put(f"{torch}.{word}", value, layers)

    def put(self, name, value, layers, change=lambda one: one):
        if layers is None:
            self.torch[name] = np.ascontiguousarray(change(value))
        else:
            for n in range(layers):
                self.torch[name.format(n)] = np.ascontiguousarray(change(value[n]))

    def no_bias(self, haiku, torch, inputs, outputs, layers):
        """Weights that are a parameter of the module itself, without a bias."""
        self.haiku[haiku] = value = self.values(layers, inputs, outputs)
        self.put(f"{torch}.weight", value, layers, np.transpose)

    def attention(self, haiku, torch, width, heads, layers, *, keys=None, out=None, gated=True, shared=False):
        """``shared``: one key and value for all heads."""
        at = () if layers is None else (layers,)
        for letter, word in (("q", "query"), ("k", "key"), ("v", "value"), *((("g", "gating"),) * gated)):
            inputs = keys if keys and word in ("key", "value") else width
            if shared and word in ("key", "value"):
                self.haiku[f"{haiku}//{word}_w"] = value = self.values(*at, inputs, DEPTH)
                self.put(f"{torch}.linear_{letter}.weight", value, layers, np.transpose)
                continue
            self.haiku[f"{haiku}//{word}_w"] = value = self.values(*at, inputs, heads, DEPTH)
            self.put(
                f"{torch}.linear_{letter}.weight",
                value,
                layers,
                lambda one: np.stack([one[:, h, d] for h in range(heads) for d in range(DEPTH)]),
            )
        if gated:
            self.haiku[f"{haiku}//gating_b"] = value = self.values(*at, heads, DEPTH)
            self.put(f"{torch}.linear_g.bias", value, layers, np.ravel)
        self.haiku[f"{haiku}//output_w"] = value = self.values(*at, heads, DEPTH, out or width)
        self.put(
            f"{torch}.linear_o.weight", value, layers, lambda one: one.reshape(heads * DEPTH, one.shape[-1]).T
        )
        self.haiku[f"{haiku}//output_b"] = value = self.values(*at, out or width)
        self.put(f"{torch}.linear_o.bias", value, layers)

    def pairs(self, haiku, torch, width, hidden, layers):
        """Triangle multiplications and attentions, and the transition."""
        for way, name, left, right in (
            ("outgoing", "tri_mul_out", "a", "b"),
            ("incoming", "tri_mul_in", "b", "a"),
        ):
            old, new = f"{haiku}/triangle_multiplication_{way}", f"{torch}.{name}"
            self.norm(f"{old}/layer_norm_input", f"{new}.layer_norm_in", width, layers)
            self.norm(f"{old}/center_layer_norm", f"{new}.layer_norm_out", hidden, layers)
            self.linear(f"{old}/left_projection", f"{new}.linear_{left}_p", width, hidden, layers)
            self.linear(f"{old}/right_projection", f"{new}.linear_{right}_p", width, hidden, layers)
            self.linear(f"{old}/left_gate", f"{new}.linear_{left}_g", width, hidden, layers)
            self.linear(f"{old}/right_gate", f"{new}.linear_{right}_g", width, hidden, layers)
            self.linear(f"{old}/output_projection", f"{new}.linear_z", hidden, width, layers)
            self.linear(f"{old}/gating_linear", f"{new}.linear_g", width, width, layers)
        for end, name in (("starting", "start"), ("ending", "end")):
            old, new = f"{haiku}/triangle_attention_{end}_node", f"{torch}.tri_att_{name}"
            self.norm(f"{old}/query_norm", f"{new}.layer_norm", width, layers)
            self.no_bias(f"{old}//feat_2d_weights", f"{new}.linear", width, PAIR_HEADS, layers)
            self.attention(f"{old}/attention", f"{new}.mha", width, PAIR_HEADS, layers)
        self.transition(f"{haiku}/pair_transition", f"{torch}.pair_transition", width, layers)

    def transition(self, haiku, torch, width, layers):
        self.norm(f"{haiku}/input_layer_norm", f"{torch}.layer_norm", width, layers)
        self.linear(f"{haiku}/transition1", f"{torch}.linear_1", width, 2 * width, layers)
        self.linear(f"{haiku}/transition2", f"{torch}.linear_2", 2 * width, width, layers)

    def blocks(self, haiku, torch, width, layers, *, extra):
        row, column = f"{haiku}/msa_row_attention_with_pair_bias", f"{torch}.msa_att_col"
        self.norm(f"{row}/query_norm", f"{torch}.msa_att_row.layer_norm_m", width, layers)
        self.norm(f"{row}/feat_2d_norm", f"{torch}.msa_att_row.layer_norm_z", PAIR, layers)
        self.no_bias(f"{row}//feat_2d_weights", f"{torch}.msa_att_row.linear_z", PAIR, MSA_HEADS, layers)
        self.attention(f"{row}/attention", f"{torch}.msa_att_row.mha", width, MSA_HEADS, layers)
        if extra:
            old = f"{haiku}/msa_column_global_attention"
            self.norm(f"{old}/query_norm", f"{column}.layer_norm_m", width, layers)
            self.attention(
                f"{old}/attention", f"{column}.global_attention", width, MSA_HEADS, layers, shared=True
            )
        else:
            old = f"{haiku}/msa_column_attention"
            self.norm(f"{old}/query_norm", f"{column}._msa_att.layer_norm_m", width, layers)
            self.attention(f"{old}/attention", f"{column}._msa_att.mha", width, MSA_HEADS, layers)
        self.transition(f"{haiku}/msa_transition", f"{torch}.msa_transition", width, layers)
        old, new = f"{haiku}/outer_product_mean", f"{torch}.outer_product_mean"
        self.norm(f"{old}/layer_norm_input", f"{new}.layer_norm", width, layers)
        self.linear(f"{old}/left_projection", f"{new}.linear_1", width, OUTER, layers)
        self.linear(f"{old}/right_projection", f"{new}.linear_2", width, OUTER, layers)
        self.haiku[f"{old}//output_w"] = value = self.values(layers, OUTER, OUTER, PAIR)
        self.put(f"{new}.linear_out.weight", value, layers, lambda one: one.reshape(-1, PAIR).T)
        self.haiku[f"{old}//output_b"] = value = self.values(layers, PAIR)
        self.put(f"{new}.linear_out.bias", value, layers)
        self.pairs(haiku, f"{torch}.pair_stack", PAIR, 9, layers)

    def embedders(self):
        root = f"{ROOT}/evoformer"
        for haiku, torch, inputs, outputs in (
            ("preprocess_1d", "input_embedder.linear_tf_m", 22, MSA),
            ("preprocess_msa", "input_embedder.linear_msa_m", 49, MSA),
            ("left_single", "input_embedder.linear_tf_z_i", 22, PAIR),
            ("right_single", "input_embedder.linear_tf_z_j", 22, PAIR),
            ("prev_pos_linear", "recycling_embedder.linear", 15, PAIR),
            ("pair_activiations", "input_embedder.linear_relpos", 65, PAIR),
            ("extra_msa_activations", "extra_msa_embedder.linear", 25, EXTRA),
            ("single_activations", "evoformer.linear", MSA, SINGLE),
        ):
            self.linear(f"{root}/{haiku}", torch, inputs, outputs)
        self.norm(f"{root}/prev_msa_first_row_norm", "recycling_embedder.layer_norm_m", MSA)
        self.norm(f"{root}/prev_pair_norm", "recycling_embedder.layer_norm_z", PAIR)

    def templates(self, layers):
        root, new = f"{ROOT}/evoformer", "template_embedder"
        one = f"{root}/template_embedding/single_template_embedding"
        stack = f"{one}/template_pair_stack/__layer_stack_no_state"
        self.linear(f"{one}/embedding2d", f"{new}.template_pair_embedder.linear", 88, TEMPLATE)
        self.pairs(stack, f"{new}.template_pair_stack.blocks.{{}}", TEMPLATE, 7, layers)
        self.norm(f"{one}/output_layer_norm", f"{new}.template_pair_stack.layer_norm", TEMPLATE)
        self.attention(
            f"{root}/template_embedding/attention",
            f"{new}.template_pointwise_att.mha",
            PAIR,
            TEMPLATE_HEADS,
            None,
            keys=TEMPLATE,
            gated=False,
        )
        self.linear(f"{root}/template_single_embedding", f"{new}.template_single_embedder.linear_1", 57, MSA)
        self.linear(f"{root}/template_projection", f"{new}.template_single_embedder.linear_2", MSA, MSA)

    def structure(self):
        root, new = f"{ROOT}/structure_module", "structure_module"
        fold, ipa = f"{root}/fold_iteration", f"{root}/fold_iteration/invariant_point_attention"
        self.norm(f"{root}/single_layer_norm", f"{new}.layer_norm_s", SINGLE)
        self.norm(f"{root}/pair_layer_norm", f"{new}.layer_norm_z", PAIR)
        self.linear(f"{root}/initial_projection", f"{new}.linear_in", SINGLE, SINGLE)
        for haiku, torch, inputs, outputs in (
            ("q_scalar", "linear_q", SINGLE, 15),
            ("kv_scalar", "linear_kv", SINGLE, 30),
            ("q_point_local", "linear_q_points.linear", SINGLE, 36),
            ("kv_point_local", "linear_kv_points.linear", SINGLE, 108),
            ("attention_2d", "linear_b", PAIR, 3),
            ("output_projection", "linear_out", 129, SINGLE),
        ):
            self.linear(f"{ipa}/{haiku}", f"{new}.ipa.{torch}", inputs, outputs)
        self.haiku[f"{ipa}//trainable_point_weights"] = self.values(3)
        self.put(f"{new}.ipa.head_weights", self.haiku[f"{ipa}//trainable_point_weights"], None)
        self.norm(f"{fold}/attention_layer_norm", f"{new}.layer_norm_ipa", SINGLE)
        for n, haiku in enumerate(("transition", "transition_1", "transition_2"), 1):
            self.linear(f"{fold}/{haiku}", f"{new}.transition.layers.0.linear_{n}", SINGLE, SINGLE)
        self.norm(f"{fold}/transition_layer_norm", f"{new}.transition.layer_norm", SINGLE)
        self.linear(f"{fold}/affine_update", f"{new}.bb_update.linear", SINGLE, 6)
        side = f"{fold}/rigid_sidechain"
        self.linear(f"{side}/input_projection", f"{new}.angle_resnet.linear_in", SINGLE, 16)
        self.linear(f"{side}/input_projection_1", f"{new}.angle_resnet.linear_initial", SINGLE, 16)
        for n, end in enumerate(("", "_1")):
            self.linear(f"{side}/resblock1{end}", f"{new}.angle_resnet.layers.{n}.linear_1", 16, 16)
            self.linear(f"{side}/resblock2{end}", f"{new}.angle_resnet.layers.{n}.linear_2", 16, 16)
        self.linear(f"{side}/unnormalized_angles", f"{new}.angle_resnet.linear_out", 16, 14)

    def heads(self, *, ptm):
        lddt = f"{ROOT}/predicted_lddt_head"
        self.norm(f"{lddt}/input_layer_norm", "aux_heads.plddt.layer_norm", SINGLE)
        self.linear(f"{lddt}/act_0", "aux_heads.plddt.linear_1", SINGLE, 13)
        self.linear(f"{lddt}/act_1", "aux_heads.plddt.linear_2", 13, 13)
        self.linear(f"{lddt}/logits", "aux_heads.plddt.linear_3", 13, 50)
        self.linear(f"{ROOT}/distogram_head/half_logits", "aux_heads.distogram.linear", PAIR, 64)
        self.linear(f"{ROOT}/masked_msa_head/logits", "aux_heads.masked_msa.linear", MSA, 23)
        resolved = f"{ROOT}/experimentally_resolved_head/logits"
        self.linear(resolved, "aux_heads.experimentally_resolved.linear", SINGLE, 37)
        if ptm:
            self.linear(f"{ROOT}/predicted_aligned_error_head/logits", "aux_heads.tm.linear", PAIR, 64)


def both(*, templates, ptm):
    model = Both()
    model.embedders()
    model.blocks(f"{ROOT}/evoformer/extra_msa_stack", "extra_msa_stack.blocks.{}", EXTRA, 2, extra=True)
    model.blocks(f"{ROOT}/evoformer/evoformer_iteration", "evoformer.blocks.{}", MSA, 3, extra=False)
    if templates:
        model.templates(4)
    model.structure()
    model.heads(ptm=ptm)
    return model


@pytest.mark.slow
class TestAlphaFold(RecipeContract):
    recipe = load_recipe(RECIPES / "alphafold-openfold.toml")
    removed = 4

    def samples(self):
        sizes = {
            "msa_heads": MSA_HEADS,
            "pair_heads": PAIR_HEADS,
            "template_heads": TEMPLATE_HEADS,
            "outer": OUTER,
        }
        for name, templates, ptm in (("model 1, pTM", True, True), ("model 3", False, False)):
            model = both(templates=templates, ptm=ptm)
            names = [*model.torch, *model.haiku]
            optional = {
                name
                for name in names
                if "template" in name or "aux_heads.tm" in name or "aligned_error" in name
            }
            yield RecipeSample(
                source=model.torch, target=model.haiku, sizes=sizes, name=name, may_lack=frozenset(optional)
            )
