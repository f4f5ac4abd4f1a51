"""`make bench`: every row of the table, both sides in one run.

    python -m benchmarks.bench [startup throughput fairness align live long workers telemetry gpu]

Prints a table and writes build/bench.json. The GPU row needs a GPU; without one it is left out.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.table import Table

from . import align, fairness, gpu, live, long_audio, startup, telemetry, throughput, workers
from .common import REPOSITORY, Row, machine, save


def _align() -> list[Row]:
    figures = align.run()
    return [
        Row(
            name="aligning 30 min of segments vs whisperx.align, model time excluded",
            ours=figures["ours"],
            other=figures["other"],
            ratio=figures["ratio"],
            target=10.0,
            better="higher",
            unit="s",
        )
    ]


PARTS: dict[str, Callable[[], Iterable[Row]]] = {
    "startup": startup.run,
    "throughput": throughput.run,
    "fairness": fairness.run,
    "align": _align,
    "live": live.run,
    "long": long_audio.run,
    "workers": workers.run,
    "telemetry": telemetry.run,
    "gpu": gpu.run,
}


def main() -> None:
    """Run the parts that are named, or all."""
    parser = argparse.ArgumentParser(description="Every figure beside what it is compared with.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; else all")
    parts = parser.parse_args().parts or list(PARTS)
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    warnings.simplefilter("ignore")  # the vendors' own
    console = Console(width=140)
    console.print({"machine": machine()})
    rows: list[Row] = []
    for part in parts:
        console.print(f"… {part}")
        for row in PARTS[part]():
            rows.append(row)
            save(rows, REPOSITORY / "build" / "bench.json")
            console.print(f"{row.name}: {row.ratio:.2f}")
    console.print(_table(rows))


def _table(rows: list[Row]) -> Table:
    table = Table("what", "ours", "other", "unit", "ratio", "CPU ratio", "target", "WER", "")
    for row in rows:
        sign = "≥" if row.better == "higher" else "≤"
        table.add_row(
            row.name,
            f"{row.ours:.3g}",
            f"{row.other:.3g}",
            row.unit,
            f"{row.ratio:.2f}",
            f"{row.cpu_ratio:.2f}" if row.cpu_ratio else "",
            f"{sign} {row.target:.3g}",
            "{:.2f} / {:.2f}".format(*row.errors) if row.errors else "",
            "reached" if row.reached else "not reached",
        )
    return table


if __name__ == "__main__":
    main()
