"""Makes the table of docs/zoo.md from what pytest reported: python tests/zoo/results.py REPORT.xml"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).parents[1]))

from zoo import seq2seq, speech, text, vision

CHECKS = {
    "test_outputs_and_bits": "outputs, bits",
    "test_half_precision": "bfloat16",
    "test_base_and_head": "base and head",
    "test_folder": "folders",
}
PACKAGES = ("transformers", "torch", "jax", "flax")
HEAD = """# The zoo

Every Flax model class of transformers 4, and variants of its configs, with every parameter and statistic
random:

- **outputs, bits**: torch -> Flax, with all outputs, hidden states and attentions equal to 1e-5 (absolute,
  float32); Flax -> torch, with every tensor of the state dict equal bit for bit. Conversions are strict: a
  missing or unexpected tensor fails. Position tables that the Flax class computes keep their values; counted
  batches of batch norms are compared in folders only, since a bare Flax tree has no place for them.
- **bfloat16**: there and back in bfloat16, bit for bit.
- **base and head**: between the base model and the one with a head, in both directions and both frameworks:
  what only one side has is named, and nothing else.
- **folders**: a folder of sharded safetensors, converted without options there and back.

`.ci/nightly` runs all of it and writes this page; the default run of the tests takes a part.
"""


def read(report: Path) -> dict[tuple[str, str], str]:
    """Return (check, case) -> ``yes``, ``no`` or ``skipped``."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        match = re.fullmatch(r"(\w+)\[(.+)\]", case.get("name", ""))
        if match and match[1] in CHECKS:
            bad = case.find("failure") is not None or case.find("error") is not None
            found[match[1], match[2]] = (
                "no" if bad else "skipped" if case.find("skipped") is not None else "yes"
            )
    return found


def main(report: Path) -> None:
    found = read(report)
    cases = (*text.CASES, *seq2seq.CASES, *vision.CASES, *speech.CASES)
    passed = sum(value == "yes" for value in found.values())
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    print(HEAD)
    classes = len({case.flax for case in cases})
    print(f"{classes} classes in {len(cases)} variants: {passed} of {len(found)} checks hold ({versions}).\n")
    print(f"| variant | Flax class | {' | '.join(CHECKS.values())} |")
    print(f"|---|---|{'---|' * len(CHECKS)}")
    notes = []
    for case in cases:
        marks = [found.get((check, case.name), "-") for check in CHECKS]
        reason = case.no_flax or case.skip_outputs
        if reason:
            notes.append(f"- `{case.name}`: {reason}")
            marks[0] = "cannot be built" if case.no_flax else f"{marks[0]}, bits only"
        print(f"| {case.name} | {case.flax} | {' | '.join(marks)} |")
    if notes:
        print("\nWhere the library's own code prevents comparing outputs:\n")
        print("\n".join(notes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
