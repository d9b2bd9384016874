"""From two models to proven rules, and from two tensors to the mistake between them."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.proof import (
        causes as causes,
        differences as differences,
        matching as matching,
        running as running,
    )
    from bridge_core.proof.causes import Cause as Cause
    from bridge_core.proof.differences import (
        Mistake as Mistake,
        NamedDifferences as NamedDifferences,
        Relation as Relation,
        name_differences as name_differences,
        relation_between as relation_between,
    )
    from bridge_core.proof.matching import Matching as Matching, match as match
    from bridge_core.proof.running import Proof as Proof, prove as prove
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "causes": "Cause",
            "matching": "match Matching",
            "running": "Proof prove",
            "differences": "Mistake NamedDifferences Relation name_differences relation_between",
        },
        packages="causes differences matching running",
    )
