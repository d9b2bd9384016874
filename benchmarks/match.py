"""What `ckptbridge match` finds from headers, against what headers determine, with unlike names.

    python benchmarks/match.py
    python benchmarks/match.py --pairs growth

Each pair of transformers' classes is matched with its own names, and with all names of the source,
then of the target, replaced by unlike ones that keep only numbers. "determined" is the ceiling of
headers, computed without the matcher: leaves that no automorphism of either tree moves. "matched" is by
headers, where equal names decide more than the ceiling; "by values" is with `--by-values`, of one
checkpoint of random values in both forms. "wrong" counts matched keys that the adapter's own plan does
not have, "lost" those that are determined and not matched.
"growth" is the time by layers of an encoder.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import measure

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.match_pairs import MatchPair, Score, encoder, score, zoo_pairs

_SIDES = ("", "source", "target")
_HEAD = ("pair", "leaves", "determined", "matched", "by values", "wrong", "lost", "choices", "s")
_LAYERS = (6, 62, 625)


def main() -> None:
    parser = measure.parser(__doc__, repeats=1)
    parser.add_argument(
        "--pairs",
        choices=("small", "zoo", "all-zoo", "growth"),
        nargs="+",
        default=["zoo", "growth"],
        help="small: an encoder made here; zoo: the fast cases of tests/zoo (transformers 4, torch, flax)",
    )
    parser.add_argument("--names", nargs="+", help="only these cases of the zoo")
    parser.add_argument(
        "--layers", type=int, nargs="+", default=list(_LAYERS), help="of the encoders of growth"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    facts = measure.machine(arguments.work.parent)
    scores = list(_scores(arguments))
    rows = [_row(one) for one in scores]
    total = [sum(int(row[i]) for row in rows) for i in range(1, 8)]
    lines = [tuple(map(str, row)) for row in rows]
    print(measure.text_table(_HEAD, [*lines, ("all", *map(str, total), "")]))
    named = [dict(zip(_HEAD, row, strict=True)) for row in rows]
    measure.finish(arguments, facts, {"rows": named})
    if total[4]:
        sys.exit("matched keys are wrong")


def _scores(arguments: argparse.Namespace) -> Iterator[Score]:
    for pair in _pairs(arguments.pairs, arguments.names):
        for side in _SIDES:
            yield score(pair, side, by_values=pair.values is not None)
    for layers in arguments.layers if "growth" in arguments.pairs else ():
        pair = encoder(layers)
        for side in _SIDES[:2]:
            yield min((score(pair, side) for _ in range(arguments.repeats)), key=lambda one: one.seconds)


def _pairs(names: list[str], cases: list[str] | None) -> Iterator[MatchPair]:
    if "small" in names:
        yield encoder()
    if "zoo" in names or "all-zoo" in names:
        yield from zoo_pairs(tuple(cases) if cases else None, fast="all-zoo" not in names)


def _row(one: Score) -> tuple[str, int, int, int, int, int, int, int, str]:
    counts = (one.leaves, one.ceiling, one.settled, one.by_values, len(one.wrong), len(one.lost), one.choices)
    return (one.name, *counts, f"{one.seconds:.2f}")


if __name__ == "__main__":
    main()
