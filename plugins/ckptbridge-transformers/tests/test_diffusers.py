"""diffusers' names, on models of its structure: there, back, what they compute, and what wrong rules do."""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import jax
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from flax.traverse_util import flatten_dict
from safetensors.torch import save_file
from support.diffusion_models import MODELS
from support.errors import refused
from support.loading import assert_same_trees, largest_difference, load_flax, load_torch
from support.models import TOLERANCE, as_variables, assert_same_state_dict, assert_same_tree, randomise

import bridge_core
import bridge_flax
import bridge_torch
from bridge_core import (
    MismatchError,
    MissingDependency,
    Rule,
    RuleError,
    UsageError,
    as_key,
)
from bridge_core.cli import main
from bridge_core.errors import RecipeRequired
from bridge_core.rules.patterns import Pattern
from ckptbridge_transformers.diffusers import RECIPES, diffusers_recipe, diffusers_rules

BY_NAME = {model.name: model for model in MODELS}
TORCH_FILE, FLAX_FILE = "diffusion_pytorch_model.safetensors", "diffusion_flax_model.msgpack"


MARKS = {
    "unet": pytest.mark.slow,
    "controlnet": pytest.mark.slow,
    # Of the same structure as another one; tests of their own are for what differs.
    "unet-xl": pytest.mark.zoo,
    "vae-deprecated": pytest.mark.zoo,
}


@pytest.fixture(params=[pytest.param(m, id=str(m), marks=MARKS.get(m.name, ())) for m in MODELS])
def model(request):
    return request.param


@functools.cache
def source(model):
    """The torch model with everything random, and its state dict."""
    module = randomise(model.torch())
    return module, dict(module.state_dict())


@functools.cache
def template(model):
    return bridge_flax.template(model.linen, *model.abstract_inputs())


@functools.cache
def wanted(model):
    """What the torch model computes."""
    with torch.no_grad():
        return source(model)[0](*map(torch.from_numpy, model.inputs())).numpy()


@functools.cache
def compiled(linen_model):
    # It runs once or twice: most of the time would go into optimising it.
    return jax.jit(linen_model.apply, compiler_options={"xla_backend_optimization_level": 0})


def computed(model, params):
    with jax.default_matmul_precision("highest"):
        return np.asarray(compiled(model.linen)(as_variables(params), *model.inputs()))


def rules_of(model):
    return diffusers_rules(deprecated_attention=model.deprecated)


def to_flax(state_dict, rules, **options):
    return bridge_flax.from_neutral(bridge_torch.to_neutral(state_dict, rules=rules), rules=rules, **options)


def to_torch(params, rules, **options):
    return bridge_torch.from_neutral(bridge_flax.to_neutral(params, rules=rules), rules=rules, **options)


@functools.cache
def converted(model):
    """Flax's parameters, made of names, shapes and rules alone."""
    return to_flax(source(model)[1], rules_of(model))


def shapes_of(tree):
    return {path: (leaf.shape, np.dtype(leaf.dtype)) for path, leaf in flatten_dict(tree).items()}


# -- there and back ---------------------------------------------------------------------------------


def test_the_rules_alone_make_the_names_and_shapes_of_flax(model):
    assert shapes_of(converted(model)) == shapes_of(template(model).tree["params"])


def test_the_flax_model_computes_what_the_torch_model_does(model):
    assert np.abs(wanted(model)).max() > 0.5
    assert largest_difference(computed(model, converted(model)), wanted(model)) <= TOLERANCE


def test_a_template_and_a_live_module_lead_to_the_same(model):
    module, state_dict = source(model)
    for given in (module, state_dict):
        for like in (template(model), template(model).tree["params"]):
            made = to_flax(given, rules_of(model), like=like)
            assert_same_trees(made.get("params", made), converted(model))


def test_the_way_back_is_exact(model):
    module, state_dict = source(model)
    made = to_torch(converted(model), rules_of(model))
    assert_same_state_dict(dict(sorted(made.items())), dict(sorted(state_dict.items())))
    like = to_torch(converted(model), rules_of(model), like=module)
    assert_same_state_dict(like, state_dict)


def test_files_go_there_and_back_without_a_template_or_a_guess(model, tmp_path):
    _, state_dict = source(model)
    save_file(state_dict, tmp_path / TORCH_FILE)
    for name, other, to in ((TORCH_FILE, FLAX_FILE, "flax"), (FLAX_FILE, f"back-{TORCH_FILE}", "torch")):
        report = bridge_core.convert(tmp_path / name, tmp_path / other, to=to, rules=rules_of(model))
        assert report.exact
        assert report.verified
        assert (report.guessed, report.filled, report.dropped, report.notes) == ((), (), (), ())
        assert report.tensors == len(state_dict)
    assert_same_trees(load_flax(tmp_path / FLAX_FILE), converted(model))
    back = load_torch(tmp_path / f"back-{TORCH_FILE}")
    assert_same_state_dict(dict(sorted(back.items())), dict(sorted(state_dict.items())))


def test_a_folder_needs_no_option(model, tmp_path):
    _, state_dict = source(model)
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(state_dict, folder / TORCH_FILE)
    name = "ControlNetModel" if "control" in model.name else "UNet2DConditionModel"
    name = "AutoencoderKL" if "vae" in model.name else name
    (folder / "config.json").write_text(json.dumps({"_class_name": name}))
    there = bridge_core.convert(folder, f"{tmp_path}/flax/", to="flax")
    assert [path.name for path in (*there.files, *there.sidecar_files)] == [FLAX_FILE, "config.json"]
    assert there.notes == (f"{name} of diffusers",)
    assert_same_trees(load_flax(tmp_path / "flax" / FLAX_FILE), converted(model))
    sharded = bridge_core.convert(tmp_path / "flax", f"{tmp_path}/torch/", to="torch", max_shard_size="30KB")
    assert sharded.files[-1].name == f"{TORCH_FILE}.index.json"
    with bridge_core.open_state(tmp_path / "torch") as state:
        assert set(state.specs()) >= (set() if model.deprecated else set(map(as_key, state_dict)))
    with refused(UsageError, "model='AutoencoderKL'", "'_class_name'", hint="--model"):
        bridge_core.plan_conversion(folder, to="flax", model="AutoencoderKL")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_narrow_dtype_keeps_its_bits(dtype, tmp_path):
    model = BY_NAME["vae"]
    weights = {name: tensor.to(dtype) for name, tensor in source(model)[1].items()}
    save_file(weights, tmp_path / TORCH_FILE)
    bridge_core.convert(tmp_path / TORCH_FILE, tmp_path / FLAX_FILE, to="flax", rules=diffusers_rules())
    made = flatten_dict(load_flax(tmp_path / FLAX_FILE))
    assert {str(leaf.dtype) for leaf in made.values()} == {str(dtype).removeprefix("torch.")}
    bridge_core.convert(tmp_path / FLAX_FILE, tmp_path / "b.safetensors", to="torch", rules=diffusers_rules())
    back = load_torch(tmp_path / "b.safetensors")
    assert_same_state_dict(dict(sorted(back.items())), dict(sorted(weights.items())))


@pytest.mark.slow
def test_models_may_stand_below_the_names_that_a_pipeline_has_for_them():
    parts = {"unet": BY_NAME["unet-xl"], "vae": BY_NAME["vae"], "controlnet": BY_NAME["controlnet"]}
    whole = {f"{part}.{k}": v for part, model in parts.items() for k, v in source(model)[1].items()}
    made = to_flax(whole, diffusers_rules())
    assert made.keys() == parts.keys()
    for part, model in parts.items():
        assert_same_tree(made[part], converted(model))
    back = to_torch(made, diffusers_rules())
    assert_same_state_dict(dict(sorted(back.items())), dict(sorted(whole.items())))


@pytest.mark.slow
def test_the_command_takes_the_recipe(tmp_path):
    for name in ("vae", "unet", "controlnet"):
        save_file(source(BY_NAME[name])[1], tmp_path / TORCH_FILE)
        made = tmp_path / f"{name}.msgpack"
        arguments = [
            "convert",
            str(tmp_path / TORCH_FILE),
            str(made),
            "--to",
            "flax",
            "--recipe",
            f"diffusers-{name}",
        ]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.stderr
        assert_same_trees(load_flax(made), converted(BY_NAME[name]))


# -- the deprecated names ---------------------------------------------------------------------------


def attention_names(state_dict):
    return {name.split(".")[4] for name in state_dict if ".attentions.0." in name}


def test_deprecated_names_are_read_without_asking():
    current, deprecated = BY_NAME["vae"], BY_NAME["vae-deprecated"]
    assert attention_names(source(deprecated)[1]) == {"group_norm", "query", "key", "value", "proj_attn"}
    made = to_flax(source(deprecated)[1], diffusers_rules())
    assert_same_tree(made, converted(deprecated))
    back = to_torch(made, diffusers_rules())
    assert back.keys() == source(current)[1].keys()
    assert attention_names(back) == {"group_norm", "to_q", "to_k", "to_v", "to_out"}
    again = randomise(current.torch(), seed=1)
    again.load_state_dict(back)
    with torch.no_grad():
        found = again(*map(torch.from_numpy, current.inputs())).numpy()
    assert largest_difference(found, wanted(deprecated)) <= TOLERANCE


def test_deprecated_names_are_written_when_asked_for():
    current, deprecated = BY_NAME["vae"], BY_NAME["vae-deprecated"]
    rules = diffusers_rules(deprecated_attention=True)
    made = to_flax(source(current)[1], rules)  # the current names are still read
    assert_same_tree(made, converted(current))
    assert to_torch(made, rules).keys() == source(deprecated)[1].keys()


def test_both_names_of_one_tensor_are_refused():
    both = {**source(BY_NAME["vae-deprecated"])[1], **source(BY_NAME["vae"])[1]}
    with refused(RuleError, "'encoder.mid_block.attentions_0.query.kernel'"):
        to_flax(both, diffusers_rules())


def test_a_unet_has_no_deprecated_names():
    for flag in (False, True):
        made = to_flax(source(BY_NAME["unet"])[1], diffusers_rules(deprecated_attention=flag))
        assert_same_tree(made, converted(BY_NAME["unet"]))


# -- what the rules are for -------------------------------------------------------------------------


def test_without_rules_the_refusal_names_the_recipe(model):
    name = {"vae-deprecated": "vae", "unet-xl": "unet"}.get(model.name, model.name)
    for weights, to in ((source(model)[1], "flax"), (converted(model), "torch")):
        with refused(RecipeRequired, f"diffusers-{name}", hint=f"--recipe diffusers-{name}"):
            bridge_core.plan_conversion(weights, to=to)


def test_the_vae_needs_rules_even_with_a_template():
    model = BY_NAME["vae"]
    with refused(MismatchError, "query"):
        to_flax(source(model)[1], (), like=template(model))


def test_every_rule_is_used_both_ways():
    torch_keys = [tuple(name.split(".")) for model in MODELS for name in source(model)[1]]
    flax_keys = [path for model in MODELS for path in flatten_dict(converted(model))]
    for rule in (*diffusers_rules(), *diffusers_rules(deprecated_attention=True)):
        assert any(rule.source.match(key) is not None for key in torch_keys), rule
        assert any(rule.targets[0].match(key) is not None for key in flax_keys), rule


def test_every_name_is_taken_by_one_rule():
    for model in MODELS:
        rules = rules_of(model)
        for name in source(model)[1]:
            key = tuple(name.split("."))
            takers = [rule for rule in rules if rule.source.match(key) is not None]
            assert len(takers) == 1, (name, takers)


def test_no_rule_has_to_find_something():
    assert all(rule.optional for rule in diffusers_rules())
    plan = bridge_core.plan_conversion(
        {"head.weight": np.zeros((2, 3), "f4"), "head.bias": np.zeros(2, "f4")},
        to="flax",
        rules=diffusers_rules(),
    )
    assert not plan.unmatched_rules


# -- a wrong rule shows -----------------------------------------------------------------------------


def exchanged(one, other):
    """The rules with the Flax names of two layers exchanged."""

    def turn(pattern):
        return Pattern(tuple({one: other, other: one}.get(s, s) for s in pattern.segments))

    rules = tuple(
        replace(rule, targets=tuple(map(turn, rule.targets))) if rule.targets else rule
        for rule in diffusers_rules()
    )
    assert rules != diffusers_rules()
    return rules


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "one", "other"),
    [("vae", "query", "value"), ("vae", "key", "proj_attn"), ("unet", "proj_in", "proj_out")],
)
def test_exchanged_layers_compute_something_else(name, one, other):
    model = BY_NAME[name]
    made = to_flax(source(model)[1], exchanged(one, other))
    assert shapes_of(made) == shapes_of(converted(model))
    assert largest_difference(computed(model, made), wanted(model)) > 100 * TOLERANCE


@pytest.mark.slow
def test_a_projection_that_is_not_turned_computes_something_else():
    model = BY_NAME["unet-xl"]
    rules = [
        replace_equation(rule, "in out ... -> in out ...")
        if ".proj_" in str(rule.source) and str(rule.source).endswith("weight")
        else rule
        for rule in diffusers_rules()
    ]
    made = to_flax(source(model)[1], rules)
    assert shapes_of(made) == shapes_of(converted(model))
    assert largest_difference(computed(model, made), wanted(model)) > 100 * TOLERANCE


@pytest.mark.slow
def test_convolutions_that_are_turned_wrongly_compute_something_else():
    model = BY_NAME["vae"]
    rules = [
        replace_equation(rule, "out in h w -> h w out in")
        if "samplers" in str(rule.source) and str(rule.source).endswith("weight")
        else rule
        for rule in diffusers_rules()
    ]
    made = to_flax(source(model)[1], rules)
    assert shapes_of(made) == shapes_of(converted(model))
    assert largest_difference(computed(model, made), wanted(model)) > 100 * TOLERANCE


def replace_equation(rule, equation):
    return Rule.rearrange(rule.sources, rule.targets, equation, optional=True, layouts=rule.layouts)


@pytest.mark.slow
def test_no_rule_can_be_left_out():
    """Without any one of them some model is refused, or gets other names, on one of the two ways."""
    rules = diffusers_rules()
    assert not _differs(rules)
    assert not [rule for n, rule in enumerate(rules) if not _differs(rules[:n] + rules[n + 1 :])]


def _differs(rules):
    return any(_makes_others(source(model)[1], converted(model), "flax", rules) for model in MODELS) or any(
        _makes_others(converted(model), source(model)[1], "torch", rules)
        for model in MODELS
        if not model.deprecated
    )


def _makes_others(given, expected, to, rules):
    plan = bridge_core.plan_conversion(given, to=to, rules=rules, check=False)
    if not all(step.rule for step in plan.steps if step.sources):
        return True  # a recipe refuses what none of its rules takes
    return bool(plan.ambiguous) or {k for step in plan.steps for k in step.targets} != set(_keys(expected))


def _keys(weights):
    """The keys of a state dict, or of a tree."""
    return [tuple(".".join(path).split(".")) for path in flatten_dict(weights)]


# -- which checkpoints they are for -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "recipe"),
    [
        ({"_class_name": "AutoencoderKL"}, "diffusers-vae"),
        ({"_class_name": "FlaxUNet2DConditionModel"}, "diffusers-unet"),
        ({"_class_name": "ControlNetModel", "_diffusers_version": "0.20.0"}, "diffusers-controlnet"),
        ({"_class_name": "FluxTransformer2DModel"}, None),
        ({"_class_name": ["AutoencoderKL"]}, None),
        ({"model_type": "bert"}, None),
    ],
)
def test_a_config_tells_which_recipe_is_for_it(config, recipe):
    assert diffusers_recipe(config) == recipe


def test_without_the_recipes_it_is_said_what_to_install(tmp_path):
    registry = bridge_core.default_registry().with_tables(recipes={})
    with refused(MissingDependency, "'diffusers-unet'", hint="pip install ckptbridge-recipes"):
        diffusers_rules(registry=registry)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    save_file(source(BY_NAME["vae"])[1], tmp_path / TORCH_FILE)
    with refused(MissingDependency, "'diffusers-vae'", hint="pip install ckptbridge-recipes"):
        bridge_core.plan_conversion(tmp_path, to="flax", registry=registry)
    assert bridge_core.default_registry().recipes.keys() >= set(RECIPES.values())
