#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the tools measured.

plot.py fetch RESULT.json [-o PICTURE.png]   fetch_perf --json: rate and time by size, beside the raw limits
plot.py trace TRACE.json [-o PICTURE.png]    a trace of ranks (CARDEA_TRACE, cardea-trace): what each lane carried, when

Needs matplotlib (apt install python3-matplotlib). Exits with 0, or with 2 and a line that says what is wrong.
"""
import argparse
import json
import re
import sys

COLORS = {"mapped": "#7a7a7a", "copy": "#1f77b4", "network": "#d62728"}
LIMIT_STYLES = {"memcpy": ":", "socket": ":", "UCX AM": "--"}
TRACKS = ["requests", "network-in", "node-copy", "gpu-pull", "gpu-upload", "views", "serving"]
TRACK_COLORS = ["#8c8c8c", "#d62728", "#1f77b4", "#2ca02c", "#17becf", "#9467bd", "#ff7f0e"]


def fail(what):
    sys.exit(f"plot.py: {what}")


def load(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    except json.JSONDecodeError as error:
        fail(f"{path} is no JSON: {error}")


def size_text(size, _=None):
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:g} {unit}"
    return f"{size:g} B"


def by_path(result):
    paths = {}
    for row in sorted(result["rows"], key=lambda row: row["bytes"]):
        paths.setdefault(row["path"], []).append(row)
    return paths


def plot_fetch(result, plt):
    if result.get("tool") != "fetch_perf" or not result.get("rows"):
        fail("this is no result of fetch_perf --json")
    paths = by_path(result)
    figure, (rates, times) = plt.subplots(1, 2, figsize=(11, 4.5))
    for path, rows in paths.items():
        sizes = [row["bytes"] for row in rows]
        color = COLORS.get(path, "black")
        if "algbw_gbps" in rows[0]:
            rates.plot(sizes, [row["algbw_gbps"] for row in rows], "o-", color=color, label=f"{path}: cardea_fetch")
            for limit in rows[0]["limits_gbps"]:
                values = [row["limits_gbps"][limit] for row in rows]
                rates.plot(sizes, values, LIMIT_STYLES.get(limit, "-."), color=color, label=f"{path}: {limit}")
        times.plot(sizes, [row["p50_us"] for row in rows], "o-", color=color, label=f"{path}, p50")
        times.fill_between(sizes, [row["p50_us"] for row in rows], [row["p99_us"] for row in rows], color=color, alpha=0.15)
    for axes in (rates, times):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        every = sorted({row["bytes"] for row in result["rows"]})
        axes.set_xticks(every, [size_text(size) for size in every], rotation=30)
        axes.minorticks_off()
        axes.set_xlabel("bytes of an expert")
        axes.grid(True, which="major", alpha=0.3)
    rates.set_ylabel("GB/s")
    rates.set_title("algbw, beside what the machine gives")
    times.set_ylabel("µs")
    times.set_title(f"time of a fetch of {result['rows'][0]['experts']} experts, p50 to p99")
    for axes in (rates, times):
        axes.legend(fontsize=8)
    wrong = sum(row["wrong_bytes"] for row in result["rows"])
    if wrong:
        figure.suptitle(f"{wrong} WRONG BYTES", color="red")
    return figure


def track_name(name):
    return re.sub(r" \d+$", "", name)


def slices_of(events):
    """(process, track, row) → list of (start, length); and the processes' names."""
    names, tracks, open_at, slices = {}, {}, {}, {}
    for event in events:
        where = (event["pid"], event["tid"])
        if event["ph"] == "M":
            if event["name"] == "process_name":
                names[event["pid"]] = event["args"]["name"]
            elif event["name"] == "thread_name":
                tracks[where] = track_name(event["args"]["name"])
        elif event["ph"] == "B":
            open_at[where] = event["ts"]
        elif event["ph"] == "E" and where in open_at:
            begin = open_at.pop(where)
            key = (event["pid"], tracks.get(where, "?"), event["tid"])
            slices.setdefault(key, []).append((begin, event["ts"] - begin))
    return names, slices


def plot_trace(events, plt):
    if not isinstance(events, list):
        fail("this is no trace: it is no JSON array")
    names, slices = slices_of(events)
    if not slices:
        fail("the trace has no slices")
    start = min(begin for spans in slices.values() for begin, _ in spans)
    order = {track: place for place, track in enumerate(TRACKS)}

    def place_of(track):  # "network-in eth1", one of several NICs, is beside the others
        return order.get(track, order.get(track.split(" ")[0], len(TRACKS)))

    keys = sorted(slices, key=lambda key: (key[0], place_of(key[1]), key[1], key[2]))
    figure, axes = plt.subplots(figsize=(12, max(3, 0.12 * len(keys) + 1.5)))
    labels, places, shown = [], [], set()
    for row, key in enumerate(keys):
        process, track, _ = key
        color = TRACK_COLORS[place_of(track) % len(TRACKS)]
        spans = [((begin - start) / 1000, max(length / 1000, 0.02)) for begin, length in slices[key]]
        axes.broken_barh(spans, (row + 0.1, 0.8), color=color, label=None if track in shown else track)
        shown.add(track)
        if row == 0 or keys[row - 1][0] != process:
            labels.append(names.get(process, f"rank {process}"))
            places.append(row + 0.5)
            axes.axhline(row, color="black", linewidth=0.5)
    axes.set_yticks(places, labels, fontsize=8)
    axes.set_ylim(len(keys), 0)
    axes.set_xlabel("ms")
    axes.legend(fontsize=8, ncol=len(shown), loc="lower left", bbox_to_anchor=(0, 1))
    axes.grid(True, axis="x", alpha=0.3)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fetch", "trace"])
    parser.add_argument("file")
    parser.add_argument("-o", "--output", help="PNG, SVG or PDF by its ending; default: FILE with .png")
    arguments = parser.parse_args()
    content = load(arguments.file)
    try:
        import matplotlib
    except ImportError:
        fail("matplotlib is missing: apt install python3-matplotlib, or pip install matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = plot_fetch(content, pyplot) if arguments.what == "fetch" else plot_trace(content, pyplot)
    output = arguments.output or re.sub(r"\.json$", "", arguments.file) + ".png"
    figure.savefig(output, dpi=120, bbox_inches="tight")
    print(output)


if __name__ == "__main__":
    main()
