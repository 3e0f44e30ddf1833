# SPDX-License-Identifier: Apache-2.0
"""The table, a line for each shape and number of tokens, and the same as JSON."""
from __future__ import annotations

import json
from typing import Any, Dict, List, Optional, Sequence

COLUMNS = ("pure", "cardea", "all-to-all", "per choice")


def ratio(record: Dict[str, Any], of: str, to: str) -> Optional[float]:
    times = record["seconds"]
    return times[of] / times[to] if of in times and to in times else None


def head() -> List[str]:
    """Times in ms; then what Cardea takes of pure computation's time, and how many times as fast as each all-to-all it is."""
    names = f"{'':>14} {'tokens':>7} " + " ".join(f"{name:>10}" for name in COLUMNS)
    units = f"{'shape':>14} {'/rank':>7} " + " ".join(f"{'ms':>10}" for _ in COLUMNS)
    return [
        f"{names} | {'cardea':>8} {'a2a':>8} | {'a2a':>8} {'choice':>8} | {'error':>8}",
        f"{units} | {'/pure':>8} {'/pure':>8} | {'/cardea':>8} {'/cardea':>8} |",
    ]


def line(record: Dict[str, Any]) -> str:
    times = record["seconds"]
    shown = " ".join(f"{times[name] * 1e3:10.3f}" if name in times else f"{'-':>10}" for name in COLUMNS)
    ratios = [
        f"{value:8.2f}" if value is not None else f"{'-':>8}"
        for value in (
            ratio(record, "cardea", "pure"),
            ratio(record, "all-to-all", "pure"),
            ratio(record, "all-to-all", "cardea"),
            ratio(record, "per choice", "cardea"),
        )
    ]
    error = max(record["error"].values())
    return f"{record['shape']:>14} {record['tokens']:>7} {shown} | {' '.join(ratios[:2])} | {' '.join(ratios[2:])} | {error:8.1e}"


def write_json(path: str, setting: Dict[str, Any], records: Sequence[Dict[str, Any]]) -> None:
    with open(path, "w") as file:
        json.dump({"setting": setting, "results": list(records)}, file, indent=1)
        file.write("\n")
