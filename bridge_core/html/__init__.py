"""Pages and fragments of HTML: escaping, trees, style; it knows nothing of what they show."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.html.escaping import as_script as as_script, escape as escape, plain_text as plain_text
    from bridge_core.html.fragments import (
        Table as Table,
        fragment as fragment,
        section as section,
        verdict_line as verdict_line,
    )
    from bridge_core.html.pages import asset as asset, page as page
    from bridge_core.html.tree import Leaf as Leaf, TreeRows as TreeRows, tree_rows as tree_rows
    from bridge_core.html.two_trees import (
        Entry as Entry,
        Link as Link,
        Mark as Mark,
        Side as Side,
        Topic as Topic,
        TwoTrees as TwoTrees,
        two_trees_page as two_trees_page,
    )
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "escaping": "as_script escape plain_text",
            "fragments": "Table fragment section verdict_line",
            "pages": "asset page",
            "tree": "Leaf TreeRows tree_rows",
            "two_trees": "Entry Link Mark Side Topic TwoTrees two_trees_page",
        },
    )
