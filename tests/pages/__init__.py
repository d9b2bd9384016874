"""Pages of docs/ that are made from the code; ``.site/build --write`` writes them."""
