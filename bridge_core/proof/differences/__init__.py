"""Names what turned one tensor into another."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.proof.differences.between import relation_between as relation_between
    from bridge_core.proof.differences.naming import (
        Mistake as Mistake,
        NamedDifferences as NamedDifferences,
        name_differences as name_differences,
    )
    from bridge_core.proof.differences.relation import Relation as Relation
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "between": "relation_between",
            "naming": "Mistake NamedDifferences name_differences",
            "relation": "Relation",
        },
    )
