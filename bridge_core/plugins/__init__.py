"""What a plugin can provide, and the registry of it."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.plugins.framework import (
        Framework as Framework,
        Relocating as Relocating,
        TrainStates as TrainStates,
        TreeNaming as TreeNaming,
        WeightsChoice as WeightsChoice,
    )
    from bridge_core.plugins.framework_base import FrameworkBase as FrameworkBase
    from bridge_core.plugins.guarded_file_system import guarded_system as guarded_system
    from bridge_core.plugins.guarded_tensors import closed_with as closed_with, guarded_state as guarded_state
    from bridge_core.plugins.hookspecs import hookimpl as hookimpl
    from bridge_core.plugins.kind_providers import (
        missing_provider as missing_provider,
        providers_of as providers_of,
    )
    from bridge_core.plugins.layout_detection import (
        composite_layers as composite_layers,
        undetermined_layout as undetermined_layout,
    )
    from bridge_core.plugins.library import Checkpoint as Checkpoint, Guidance as Guidance, Library as Library
    from bridge_core.plugins.live_arrays import (
        ComputesPlans as ComputesPlans,
        array_ops_of as array_ops_of,
    )
    from bridge_core.plugins.model_runs import (
        SETTING_NAMES as SETTING_NAMES,
        Inputs as Inputs,
        ModelRun as ModelRun,
        ModuleCall as ModuleCall,
        ModuleSettings as ModuleSettings,
        Precision as Precision,
        ReadsSettings as ReadsSettings,
        RunsModels as RunsModels,
    )
    from bridge_core.plugins.plugin_errors import (
        cause_of as cause_of,
        is_interrupt as is_interrupt,
        plugin_failures as plugin_failures,
    )
    from bridge_core.plugins.recipe import (
        Recipe as Recipe,
        RecipeHeader as RecipeHeader,
        RecipeSide as RecipeSide,
        load_recipe as load_recipe,
    )
    from bridge_core.plugins.recorded_layers import (
        check_recorded_layers as check_recorded_layers,
        held_layers as held_layers,
        undecided_problem as undecided_problem,
        unnamed_parts as unnamed_parts,
    )
    from bridge_core.plugins.registry import (
        PluginFailure as PluginFailure,
        Registry as Registry,
        default_registry as default_registry,
        given_registry as given_registry,
        loaded_registry as loaded_registry,
    )
    from bridge_core.plugins.train_states import branches_of as branches_of, weights_of as weights_of
    from bridge_core.plugins.tree_names import names_of as names_of, random_state_of as random_state_of
    from bridge_core.plugins.usual_attributes import (
        AttributeReader as AttributeReader,
        settings_of_attributes as settings_of_attributes,
    )
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "framework": "Framework Relocating TrainStates TreeNaming WeightsChoice",
            "framework_base": "FrameworkBase",
            "guarded_file_system": "guarded_system",
            "guarded_tensors": "closed_with guarded_state",
            "hookspecs": "hookimpl",
            "kind_providers": "missing_provider providers_of",
            "library": "Checkpoint Guidance Library",
            "layout_detection": "composite_layers undetermined_layout",
            "live_arrays": "ComputesPlans array_ops_of",
            "model_runs": "Inputs ModelRun ModuleCall ModuleSettings Precision ReadsSettings RunsModels "
            "SETTING_NAMES",
            "plugin_errors": "cause_of is_interrupt plugin_failures",
            "recipe": "Recipe RecipeHeader RecipeSide load_recipe",
            "recorded_layers": "check_recorded_layers held_layers undecided_problem unnamed_parts",
            "registry": "PluginFailure Registry default_registry given_registry loaded_registry",
            "train_states": "branches_of weights_of",
            "tree_names": "names_of random_state_of",
            "usual_attributes": "AttributeReader settings_of_attributes",
        },
    )
