"""Lists a database in a process of its own, with limits: it may need any amount of memory.

The exit status is 0 if it can be listed, or is damaged in a way that tensorstore reports.
"""

from __future__ import annotations

import sys


def main() -> None:
    """List the database of the first argument within bytes and seconds, the other ones."""
    import tensorstore as ts

    from bridge_core.io import limit_process

    place, memory, seconds = sys.argv[1:]
    limit_process(int(memory), int(seconds))
    base = {"driver": "file", "path": place}
    try:
        ts.KvStore.open({"driver": "ocdbt", "base": base}).result().list().result()
    except ValueError:
        return


if __name__ == "__main__":
    main()
