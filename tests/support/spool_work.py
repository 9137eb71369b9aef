"""A process that spools and acknowledges until it is killed, and says each after it is done: "+id" or "-id".

python -m support.spool_work FOLDER SEED [unsynced]     the last turns syncing off, which must lose something
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from edge.spool.records import NewFrame
from edge.spool.spool import Spool


def work(path: Path, out: int, seed: int, synced: bool = True) -> None:
    """Works for ever. out: a file descriptor."""
    rng = random.Random(seed)
    spool = Spool(path, bytes_max=1 << 30)
    if not synced:
        assert spool._store is not None
        spool._store._db.execute("PRAGMA synchronous = OFF")
    while True:
        frames = [
            NewFrame("door", "01234567", rng.randbytes(rng.choice((30, 400, 9000))))
            for _ in range(rng.randint(1, 5))
        ]
        done = [f"+{id_}" for id_ in spool.put(frames)]
        os.write(out, "\n".join([*done, ""]).encode())
        ids = [one.id for one in spool.lease(rng.randint(0, 5))]
        spool.acknowledge(ids[1:])
        spool.give_back(ids[:1])
        os.write(out, "".join(f"-{id_}\n" for id_ in ids[1:]).encode())


if __name__ == "__main__":
    work(Path(sys.argv[1]), 1, int(sys.argv[2]), synced="unsynced" not in sys.argv[3:])
