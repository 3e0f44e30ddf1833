#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What several NICs per rank are worth on an emulated cluster; --help tells more.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

usage() {
  cat <<'END'
usage: perf/cluster_rails.sh [OPTION]...

Every rank of an emulated cluster (perf/cluster.sh) fetches every expert (fetch_all), by one NIC and by several, on hosts that
have as many, each shaped by itself. Beside it, what iperf3 reaches over all of them at once. For each number of NICs:

  goodput      bytes of a host's distinct remote experts over the time in which its last rank had them, without the warm-up;
               that of the worst host
  fraction     of iperf3's over as many NICs
  ratio        to the goodput of one NIC. Target: at least --ratio-target x the number of NICs
  shares       of the bytes that the kernel counted as received by host 0, each NIC's

  --nics "A B ..."       NICs, each in turn; the first of them must be 1 (default "1 2")
  --hosts N              (default 2)
  --ranks-per-host N     (default 1)
  --gbit RATE            of each NIC and direction (default 0.5)
  --experts N, --expert-bytes BYTES, --repeat N
                         as of fetch_all (defaults 32, 4194304, 4)
  --ratio-target X       (default 0.9)
  --timeout SECONDS      for each run (default 120)
  --program FILE         fetch_all (default build/release/bin/fetch_all)
  --json FILE            writes the figures as JSON too

Needs root, iperf3 and what perf/cluster.sh needs. Exit status: 0 if the target is met, 1 if not, 2: wrong options, 3: a run
failed.
END
}
wrong() {
  echo "cluster_rails.sh: $1 (--help lists the options)" >&2
  exit 2
}

nics='1 2' hosts=2 ranks=1 gbit=0.5 experts=32 expert_bytes=4194304 repeat=4 target=0.9 timeout=120 json=''
program=$here/../build/release/bin/fetch_all
whole() { [[ ${2-} =~ ^[1-9][0-9]{0,12}$ ]] || wrong "$1 takes a whole number from 1, not '${2-}'"; }
number() { [[ ${2-} =~ ^[0-9]+(\.[0-9]+)?$ && ! $2 =~ ^[0.]+$ ]] || wrong "$1 takes a number above 0, not '${2-}'"; }
while (($#)); do
  case $1 in
    --nics) [[ ${2-} =~ ^1(\ +[1-4])*$ ]] || wrong "--nics takes 1 and numbers up to 4, such as '1 2', not '${2-}'"
            nics=$2; shift 2 ;;
    --hosts) whole "$@"; hosts=$2; shift 2 ;;
    --ranks-per-host) whole "$@"; ranks=$2; shift 2 ;;
    --gbit) number "$@"; gbit=$2; shift 2 ;;
    --experts) whole "$@"; experts=$2; shift 2 ;;
    --expert-bytes) whole "$@"; expert_bytes=$2; shift 2 ;;
    --repeat) whole "$@"; repeat=$2; shift 2 ;;
    --ratio-target) number "$@"; target=$2; shift 2 ;;
    --timeout) whole "$@"; timeout=$2; shift 2 ;;
    --program) program=${2-}; shift 2 || wrong "--program takes a file" ;;
    --json) [[ -n ${2-} ]] || wrong "--json takes a file name"
            json=$2; shift 2 ;;
    --help|-h) usage; exit 0 ;;
    *) wrong "unknown option '$1'" ;;
  esac
done
((hosts >= 2)) || wrong "--hosts must be at least 2"
[[ -x $program ]] || wrong "no program at $program; build fetch_all, or tell by --program"

work=$(mktemp -d "${TMPDIR:-/tmp}/cluster-rails-XXXXXX")
running=''
finish() {
  local status=$?
  trap - EXIT
  trap '' INT TERM HUP
  [[ ! $running ]] || { kill -TERM "$running" 2>/dev/null && wait "$running" 2>/dev/null; } || true
  rm -rf "$work"
  exit "$status"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# cluster NAME NICS ARGUMENT...: runs it in the background, so that signals are heard; its counters go to $work/NAME.
cluster() {
  local status=0
  "$here/cluster.sh" --hosts "$hosts" --nics "$2" --gbit "$gbit" --json "$work/$1" "${@:3}" >"$work/output" 2>&1 &
  running=$!
  wait "$running" || status=$?
  running=''
  ((!status)) && return
  cat "$work/output" >&2
  echo "cluster_rails.sh: ended with status $status: cluster.sh --nics ${*:2}" >&2
  exit 3
}
# values FILE KEY: all values of a key, one per line
values() { sed -nE "s/.*\"$2\": ([0-9.e+]+).*/\1/p" "$1"; }

echo "$hosts hosts with $ranks ranks each; NICs of $gbit Gbit/s; every rank fetches $experts experts of $expert_bytes bytes, $repeat times after a warm-up"
printf '\n%4s %12s %14s %10s %8s  %s\n' NICs 'iperf3 MB/s' 'goodput MB/s' fraction ratio 'shares of host 0'
missed=0 rows='' one=''
for count in $nics; do
  names=eth0
  for ((nic = 1; nic < count; nic++)); do names+=,eth$nic; done
  cluster iperf "$count" --iperf
  reached=$(awk "BEGIN {print $(values "$work/iperf" bits_per_second) / 8}")
  CARDEA_AFFINITY=nic=$names cluster counters "$count" --ranks-per-host "$ranks" --timeout "$timeout" -- "$program" --layers 1 \
    --experts "$experts" --expert-bytes "$expert_bytes" --repeat "$repeat" --json "$work/fetch"
  goodput=$(values "$work/fetch" goodput | sort -g | head -n 1)
  : "${one:=$goodput}"
  received=$(sed -nE 's/.*"host": "cardea-host0".*"nics_received": \[([0-9, ]+)\].*/\1/p' "$work/counters")
  row=$(awk -v count="$count" -v reached="$reached" -v goodput="$goodput" -v one="$one" -v received="$received" -v target="$target" 'BEGIN {
    split(received, each, ", ")
    for (i = 1; i <= count; i++) all += each[i]
    for (i = 1; i <= count; i++) shares = shares sprintf("%seth%d %.3f", i > 1 ? " " : "", i - 1, each[i] / all)
    ratio = goodput / one
    met = ratio >= target * count
    printf "%4d %12.1f %14.1f %10.3f %8.3f  %s%s\n", count, reached / 1e6, goodput / 1e6, goodput / reached, ratio, shares, met ? "" : "  MISSED"
    printf "    {\"nics\": %d, \"iperf\": %.0f, \"goodput\": %.0f, \"fraction\": %.5f, \"ratio\": %.5f, \"received\": [%s], \"met\": %s}\n",
      count, reached, goodput, goodput / reached, ratio, received, met ? "true" : "false"}')
  head -n 1 <<<"$row"
  rows+=${rows:+$',\n'}$(tail -n 1 <<<"$row")
  [[ $row == *'"met": true'* ]] || missed=$((missed + 1))
done
if [[ $json ]]; then
  cat >"$json" <<END
{
  "hosts": $hosts, "ranks_per_host": $ranks, "gbit": $gbit, "ratio_target": $target,
  "configurations": [
$rows
  ]
}
END
fi
echo
if ((missed)); then
  echo "target (ratio >= $target x NICs) missed $missed times"
  exit 1
fi
echo "target met (ratio >= $target x NICs)"
