"""`make bench`: every measurement, one after the other; figures go to docs/benchmarks.md by hand.

Needs about 25 GB of disk where QVL_BENCH_DIR points (default: the temporary directory).
"""

from __future__ import annotations

import json

from . import export_cost, run_speed, serve_load


def main() -> None:
    measurements = {
        "export against copy": export_cost.main,
        "running": lambda: run_speed.main([]),
        "a server under load": lambda: serve_load.main([]),
    }
    for title, measure in measurements.items():
        print(f"# {title}\n{json.dumps(measure(), indent=1)}", flush=True)


if __name__ == "__main__":
    main()
