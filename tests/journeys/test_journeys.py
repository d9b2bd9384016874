"""The way of one call through the code: downwards only, and each room's part of the work asked for once."""

from __future__ import annotations

import inspect
import itertools
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import bridge_core
import bridge_torch
from bridge_core import FlatState, convert, save_state

ROOT = Path(bridge_core.__file__).parent
FLOORS = {}
for _contract in tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]:
    for _floor, _rooms in enumerate(reversed(_contract.get("layers", ()))):
        FLOORS.update(dict.fromkeys(map(str.strip, _rooms.split("|")), _floor))

VALUES = {"conversion/options", "checkpoint/write_options", "plan/plan", "plan/step", "transfer/budget"}
"""Modules of the values that are handed down: asking one is no stop on the way."""


class Journey:
    """Every call from one module of the core to another, up to the first block."""

    def __init__(self):
        self.calls = []
        self._ended = False
        self._generators = []  # kept, so that no other frame gets the number of one

    def __enter__(self):
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    def _note(self, frame, event, _):
        if event != "call" or self._ended or (module := self._module(frame)) is None:
            return
        self._ended = frame.f_code.co_name == "run_jobs"
        if frame.f_code.co_flags & inspect.CO_GENERATOR:
            if any(frame is known for known in self._generators):
                return  # going on with it is no call
            self._generators.append(frame)
        caller = frame.f_back
        while caller is not None and self._module(caller) in (None, "public/deprecated"):
            caller = caller.f_back
        if caller is not None and (origin := self._module(caller)) != module:
            self.calls.append((origin, module, frame.f_code.co_qualname))

    @staticmethod
    def _module(frame):
        path = Path(frame.f_code.co_filename)
        return str(path.relative_to(ROOT).with_suffix("")) if path.is_relative_to(ROOT) else None

    def stops(self, origin):
        """Return the modules that one module calls, in order; a module called again and again counts once."""
        found = [module for caller, module, _ in self.calls if caller == origin and module not in VALUES]
        return [module for place, module in enumerate(found) if place == 0 or found[place - 1] != module]

    def climbs(self):
        """Return the calls that lead to a higher floor."""
        return [
            call
            for call in self.calls
            if FLOORS[call[1].partition("/")[0]] > FLOORS[call[0].partition("/")[0]]
        ]


@pytest.fixture
def source(tmp_path):
    weights = {"fc.weight": np.ones((4, 3), np.float32), "fc.bias": np.zeros(4, np.float32)}
    save_state(FlatState(weights, layout="torch"), tmp_path / "a.safetensors")
    for name in ("warm.msgpack", "warm.npz"):  # everything is loaded after that
        convert(tmp_path / "a.safetensors", tmp_path / name, to="flax")
    return tmp_path / "a.safetensors"


def test_from_file_to_file_each_stop_is_made_once(source, tmp_path):
    with Journey() as journey:
        convert(source, tmp_path / "b.msgpack", to="flax", workers=1)
    others = (
        stop
        for stop in journey.stops("conversion/convert")
        if not stop.startswith(("rules/", "plugins/", "public/"))
    )
    stops = [stop for stop, _ in itertools.groupby(others)]
    assert stops == [
        "checkpoint/locations",
        "conversion/inputs",
        "conversion/source_plan",
        "checkpoint/guided_writing",
        "conversion/rule_errors",
        "checkpoint/checkpoint_writer",
    ]
    assert [stop for stop in journey.stops("conversion/planning") if stop.startswith("resolve/")] == [
        "resolve/to_neutral",
        "resolve/from_neutral",
    ]
    for module in ("conversion/planning", "resolve/to_neutral", "checkpoint/open_save"):
        assert len({caller for caller, called, _ in journey.calls if called == module}) == 1, module
    names = [name for _, _, name in journey.calls]
    for name in ("open_state", "plan_to_neutral", "plan_from_neutral", "write_checkpoint", "FileTarget.fill"):
        assert names.count(name) == 1, name


def test_the_block_plan_of_a_tensor_is_made_once(source, tmp_path):
    with Journey() as journey:
        convert(source, tmp_path / "b.msgpack", to="flax", workers=1)
    names = [name for _, _, name in journey.calls]
    assert names.count("plan_blocks") == 2
    stops = journey.stops("transfer/block_plan")
    assert {stop for stop in stops if stop.startswith("transfer/")} == {"transfer/memory_order"}


@pytest.mark.parametrize("to", ["flax", "torch", "neutral"])
def test_no_call_leads_up(source, tmp_path, to):
    with Journey() as journey:
        convert(source, tmp_path / "b.npz", to=to, workers=1, overwrite=True)
    # What is handed down is called back: a function by the JSON parser, and the target by the format.
    callbacks = {"_shrink", "FileTarget.fill"}
    assert [call for call in journey.climbs() if call[2] not in callbacks] == []
    assert len(journey.calls) > 100


def test_live_objects_come_the_same_way():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4))
    bridge_torch.to_neutral(module)
    with Journey() as journey:
        neutral = bridge_torch.to_neutral(module)
        bridge_torch.from_neutral(neutral, like=module)
    stops = journey.stops("conversion/in_memory")
    assert [stop for stop in stops if stop.startswith(("conversion/", "resolve/"))] == [
        "conversion/inputs",
        "conversion/planning",
        "conversion/inputs",
        "conversion/planning",
    ]
    assert journey.climbs() == []
