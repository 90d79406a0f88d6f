"""`python -m benchmarks [--quick] [--only NAME]`: a table on the screen and JSON in benchmarks/results/."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

from benchmarks.rows import ROWS, Row

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples and of the boxes")
    parser.add_argument("--only", choices=sorted(ROWS), help="one group of rows")
    options = parser.parse_args()
    found: list[Row] = []
    for name, measure in ROWS.items():
        if options.only in (None, name):
            rows = measure(0.1 if options.quick else 1.0)
            found += rows
            for row in rows:
                print(_line(row), flush=True)
    path = _save(found)
    print(f"\nwritten to {os.path.relpath(path)}; medians on a shared machine: compare ratios, not single times")
    return 0


def _line(row: Row) -> str:
    value = row.get("value")
    if value is None:
        value = f"{row['median_ms']:.2f} ms (p99 {row['p99_ms']:.2f}, n {row['n']})"
    ratio = f"  = {row['ratio']} x the floor" if "ratio" in row else ""
    bound = f"  [{row['bound']}]" if "bound" in row else ""
    return f"{row['row']:<52} {value}{ratio}{bound}"


def _save(rows: list[Row]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%dT%H%M%S')}.json"
    about = {"kernel": platform.release(), "python": platform.python_version(), "cores": os.cpu_count()}
    path.write_text(json.dumps({"machine": about, "rows": rows}, indent=1))
    return path


if __name__ == "__main__":
    raise SystemExit(main())
