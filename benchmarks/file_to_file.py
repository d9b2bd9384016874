"""File to file: a sharded bf16 checkpoint of torch into Flax files, against copying the same bytes.

    python benchmarks/file_to_file.py --size 2GB --repeats 5 --work /tmp/bench

Every contestant runs as a fresh process, all in turn, with the page cache warm. ``cp`` copies the source
folder and syncs it to the disk, as the conversion does.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import measure

from bridge_core.storage import parse_size

COPY = 'cp -r {src} {dst} && sync -f {dst} && for f in {dst}/*; do sync "$f"; done'
CONVERT = (
    "from bridge_core import convert; "
    "convert({src!r}, {dst!r}, to={to!r}, format={format!r}, accept_guesses={guess}, "
    "max_shard_size={shard}, verify={verify})"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", default="2GB", help="bytes of the checkpoint")
    parser.add_argument("--shard", default="500MB", help="bytes of a shard")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "ckptbridge-bench")
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()

    total, shard = parse_size(arguments.size), parse_size(arguments.shard)
    arguments.work.mkdir(parents=True, exist_ok=True)
    source = measure.make_checkpoint(arguments.work / f"torch-{arguments.size}", total, arguments.shard)
    total = sum(f.stat().st_size for f in source.iterdir())
    out = arguments.work / "out"

    def convert(to: str, format: str, limit: int | None, verify: bool = False) -> measure.Run:
        suffix = "/" if limit else f"/model.{format}"
        if not limit:
            out.mkdir()
        code = CONVERT.format(
            src=str(source),
            dst=f"{out}{suffix}",
            to=to,
            format=format,
            guess=True,
            shard=limit,
            verify=verify,
        )
        return measure.run([measure.PYTHON, "-c", code])

    results = measure.interleaved(
        {
            "cp + fsync": lambda: measure.run(["/bin/sh", "-c", COPY.format(src=source, dst=out)]),
            "rename only (to torch)": lambda: convert("torch", "safetensors", shard),
            "to Flax, sharded": lambda: convert("flax", "safetensors", shard),
            "to Flax, one safetensors": lambda: convert("flax", "safetensors", None),
            "to Flax, one msgpack": lambda: convert("flax", "msgpack", None),
            "to Flax, sharded, verified": lambda: convert("flax", "safetensors", shard, verify=True),
        },
        arguments.repeats,
        lambda: measure.remove(out),
    )
    measure.remove(out)
    print(
        f"{total / 1e9:.2f} GB bf16; a bare interpreter with numpy peaks at {measure.interpreter_peak() / 1e6:.0f} MB"
    )
    print(measure.table(results, "cp + fsync", total))
    if arguments.json:
        measure.write_json(
            arguments.json,
            {
                "total_bytes": total,
                "interpreter_peak_bytes": measure.interpreter_peak(),
                "runs": {name: [vars(r) for r in runs] for name, runs in results.items()},
            },
        )


if __name__ == "__main__":
    main()
