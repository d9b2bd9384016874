"""Known mistakes between two models, each tried by computing at the place where the models part."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.proof.causes.cause import Cause as Cause
    from bridge_core.proof.causes.find import find_causes as find_causes
    from bridge_core.proof.causes.site import ModuleView as ModuleView, Site as Site
else:
    __getattr__, __dir__, __all__ = exports(
        __name__, {"cause": "Cause", "find": "find_causes", "site": "ModuleView Site"}
    )
