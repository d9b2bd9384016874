"""Which calls belong together: fused layers, wrappers, modules that are called several times."""

import numpy as np

from bridge_core.plugins import ModuleCall
from bridge_core.proof.running.alignment import LinkedPaths, paired_calls
from bridge_core.proof.running.module_pairs import module_errors


def leaves(**steps):
    return {(*path.split("."), "w"): frozenset(numbers) for path, numbers in steps.items()}


class Recorder:
    """Calls in a nested list: ``[name, output, [calls inside]]``."""

    def __init__(self, tree):
        self.calls, self.clock = [], 0
        self.add(tree)

    def add(self, tree):
        name, output, inside = tree
        began, place = self.clock, len(self.calls)
        self.clock += 1
        self.calls.append(None)
        for one in inside:
            self.add(one)
        path = tuple(name.split(".")) if name else ()
        outputs = {"": np.asarray(output, float)}
        self.calls[place] = ModuleCall(path, "m", {"0": np.ones((1, 2))}, outputs, {}, began, self.clock)
        self.clock += 1


def pairs(source, target, linked):
    return [
        (".".join(p.source[0].path), [".".join(call.path) for call in p.target])
        for p in paired_calls(Recorder(source).calls, Recorder(target).calls, linked)
    ]


def test_a_fused_layer_belongs_to_all_of_its_parts():
    linked = LinkedPaths(
        leaves(**{"attn.qkv": [0], "attn.out": [1]}),
        leaves(**{"a.q": [0], "a.k": [0], "a.v": [0], "a.o": [1]}),
    )
    both = np.arange(6.0)[None]
    source = ["", both, [["attn", both, [["attn.qkv", both, []], ["attn.out", both, []]]]]]
    parts = [["a.q", both[:, :2], []], ["a.k", both[:, 2:4], []], ["a.v", both[:, 4:], []]]
    target = ["", both, [["a", both, [*parts, ["a.o", both, []]]]]]
    assert pairs(source, target, linked) == [
        ("", [""]),
        ("attn", ["a"]),
        ("attn.qkv", ["a.q", "a.k", "a.v"]),
        ("attn.out", ["a.o"]),
    ]
    found = module_errors(paired_calls(Recorder(source).calls, Recorder(target).calls, linked), 1e-6)
    assert [one.outputs for one in found] == [0, 0, 0, 0]
    assert [one.depth for one in found] == [0, 1, 2, 2]


def test_a_wrapper_of_one_side_is_left_out():
    linked = LinkedPaths(leaves(fc=[0]), leaves(**{"wrap.fc": [0]}))
    x = np.ones((1, 2))
    source = ["", x, [["fc", x, []]]]
    target = ["", x, [["wrap", x, [["wrap.fc", x, []]]]]]
    assert pairs(source, target, linked) == [("", [""]), ("fc", ["wrap.fc"])]


def test_several_calls_of_one_module_are_paired_in_order():
    linked = LinkedPaths(leaves(fc=[0]), leaves(layer=[0]))
    x = np.ones((1, 2))
    source = ["", x, [["fc", x, []], ["fc", 2 * x, []]]]
    target = ["", x, [["layer", x, []], ["layer", 2 * x, []]]]
    calls = paired_calls(Recorder(source).calls, Recorder(target).calls, linked)
    assert [one.outputs for one in module_errors(calls, 1e-6)] == [0, 0, 0]


def test_layers_of_a_stack_are_the_calls_of_one_module():
    linked = LinkedPaths(leaves(**{"h.0": [0], "h.1": [0]}), leaves(layers=[0]))
    x = np.ones((1, 2))
    source = ["", x, [["h.0", x, []], ["h.1", 2 * x, []]]]
    target = ["", x, [["layers", x, []], ["layers", 2 * x, []]]]
    assert pairs(source, target, linked) == [("", [""]), ("h.0", ["layers"]), ("h.1", ["layers"])]
