"""`python -m tests.faults`: every point of every operation, or of those named, or one single point.

python -m tests.faults                            all
python -m tests.faults start stop                 these operations
python -m tests.faults start main openat EIO 3    one call, as a violation says it
python -m tests.faults start named hook.begin kill
"""

from __future__ import annotations

import sys

from tests.faults import named, points, sweep
from tests.faults.bench import Bench
from tests.faults.operations import OPERATIONS


def one(words: list[str]) -> int:
    bench = Bench()
    try:
        if words[1] == "named":
            named.run(bench, named.Point(words[0], words[2], words[3]))
            print("reached; nothing broken")
        else:
            print(points.run(bench, points.Point(*words[:4], int(words[4]))))
    except BaseException:
        print(bench.daemon.log_text()[-6000:])
        raise
    finally:
        bench.close()
    return 0


def main(words: list[str]) -> int:
    if len(words) >= 4 and words[1] not in OPERATIONS:
        return one(words)
    unknown = [word for word in words if word not in OPERATIONS]
    if unknown:
        print(f"no operation is named {unknown[0]!r}; there are: {', '.join(OPERATIONS)}", file=sys.stderr)
        return 2
    return sweep.main(words or OPERATIONS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
