"""Settings from attributes with usual names: one table, whatever the framework is."""

import pytest

from bridge_core.plugins import SETTING_NAMES, AttributeReader, settings_of_attributes

READER = AttributeReader(
    held=lambda module, name: None,
    number=lambda value: float(value) if type(value) in (int, float) else None,
    activation=lambda value: value if value in ("relu", "gelu") else None,
    ignores=lambda value: isinstance(value, bytes),
)


def module(class_name, attributes=(), **more):
    made = type(class_name, (), dict(more))()
    vars(made).update(attributes)
    return made


def settings(made, inside=(), *, has_weights=False, training=False):
    return settings_of_attributes(
        made, READER, lambda: inside, has_weights=has_weights, training=lambda: training
    )


@pytest.mark.parametrize(
    ("class_name", "attributes", "values", "unread"),
    [
        ("RMSNorm", {"variance_epsilon": 1e-6}, {"eps": 1e-6}, ()),
        (
            "Attention",
            {"n_head": 4, "d_kv": 8, "scaling": 0.5},
            {"heads": 4, "head_dim": 8, "scale": 0.5},
            (),
        ),
        ("SelfAttention", {"config": {"num_attention_heads": 4}}, {"heads": 4}, ("head_dim", "scale")),
        ("Attn", {"heads": 2, "scale": 8.0}, {"heads": 2}, ("head_dim", "scale")),
        ("Attn", {"heads": 2, "is_causal": True}, {"heads": 2, "causal": True}, ("head_dim", "scale")),
        (
            "GPT2Attention",
            {
                "head_dim": 4,
                "scale_attn_weights": True,
                "scale_attn_by_inverse_layer_idx": True,
                "layer_idx": 1,
            },
            {"head_dim": 4, "scale": 0.25},
            ("heads",),
        ),
        ("RotaryEmbedding", {"max_wavelength": 10_000}, {"rope_theta": 10_000.0}, ()),
        ("Rope", {}, {}, ("rope_theta",)),
        ("DropPath", {"drop_prob": 0.1}, {"dropout": 0.1, "training": False}, ()),
        ("MLP", {"config": {"hidden_act": "gelu"}}, {"activation": "gelu"}, ()),
        ("Block", {"config": {"hidden_act": "gelu"}}, {}, ()),
        ("Block", {"act": "unknown"}, {}, ("activation",)),
        ("EncoderLayer", {"normalize_before": True}, {"norm_first": True}, ()),
        ("Norm", {"eps": True}, {}, ()),
        ("Rope", {"base": b"a weight"}, {}, ("rope_theta",)),
    ],
)
def test_what_attributes_show(class_name, attributes, values, unread):
    known, missing = settings(module(class_name, attributes))
    assert known == values
    assert {*missing} == {*unread}
    assert {*known} <= SETTING_NAMES


def test_a_module_around_an_attention_is_not_one():
    made = module("AttentionBlock", {"num_heads": 4})
    assert settings(made, inside=["Attention"]) == ({}, ())
    assert settings(made, inside=["Linear"])[0] == {"heads": 4}


def test_a_norm_with_weights_has_an_unread_eps():
    assert settings(module("LayerNorm"), has_weights=True) == ({}, ("eps",))


def test_what_is_unknown_of_training_is_unread():
    assert settings(module("Dropout", {"p": 0.5}), training=None) == ({"dropout": 0.5}, ("training",))


def test_no_code_of_a_module_runs():
    def fails(self):
        raise AssertionError

    made = module("Attention", {}, num_heads=property(fails), scale=property(fails), n_head=4)
    assert settings(made)[0] == {"heads": 4}


def test_a_config_that_fails_is_as_one_without_the_entry():
    class Config:
        @property
        def num_heads(self):
            raise ValueError

    assert settings(module("Attention", {"config": Config()}))[1] == ("heads", "head_dim", "scale")
