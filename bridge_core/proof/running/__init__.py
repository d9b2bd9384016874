"""Runs two models on the same weights, and finds the module where they part."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.proof.running.alignment import (
        CallPair as CallPair,
        LinkedPaths as LinkedPaths,
        linked_paths as linked_paths,
        paired_calls as paired_calls,
    )
    from bridge_core.proof.running.common_axes import best_fit as best_fit, relative_error as relative_error
    from bridge_core.proof.running.control import Control as Control, measured_control as measured_control
    from bridge_core.proof.running.inputs import (
        as_inputs as as_inputs,
        with_given_inputs as with_given_inputs,
    )
    from bridge_core.proof.running.models import Side as Side, model_side as model_side
    from bridge_core.proof.running.module_pairs import (
        ModuleError as ModuleError,
        module_errors as module_errors,
    )
    from bridge_core.proof.running.outputs import Outputs as Outputs, compared_outputs as compared_outputs
    from bridge_core.proof.running.proof_report import FirstDifference as FirstDifference, Proof as Proof
    from bridge_core.proof.running.proving import prove as prove
    from bridge_core.proof.running.random_values import (
        random_array as random_array,
        randomised as randomised,
    )
    from bridge_core.proof.running.setting_differences import SettingDifference as SettingDifference
    from bridge_core.proof.running.weights import (
        Converted as Converted,
        converted_weights as converted_weights,
        source_values as source_values,
    )
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "alignment": "CallPair LinkedPaths linked_paths paired_calls",
            "common_axes": "best_fit relative_error",
            "control": "Control measured_control",
            "inputs": "as_inputs with_given_inputs",
            "models": "Side model_side",
            "module_pairs": "ModuleError module_errors",
            "outputs": "Outputs compared_outputs",
            "proof_report": "FirstDifference Proof",
            "proving": "prove",
            "random_values": "random_array randomised",
            "setting_differences": "SettingDifference",
            "weights": "Converted converted_weights source_values",
        },
    )
