#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# How much of an emulated cluster's links fetching uses, and how many bytes it takes; --help tells more.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

usage() {
  cat <<'END'
usage: perf/cluster_fetch.sh [OPTION]...

Every rank of an emulated cluster (perf/cluster.sh) fetches every expert (fetch_all). For each number of ranks per host,
beside what iperf3 reaches on the same links:

  bytes ratio  bytes that the kernel counted as received by a host over its link, with all control traffic from the job's
               beginning to its end, over (iperf3's bytes on the link per byte of payload x the bytes of the host's distinct
               remote experts); that of the worst host. Target: at most --bytes-target.
  goodput      bytes of a host's distinct remote experts over the time in which its last rank had them, without the
               warm-up, as a fraction of iperf3's goodput; that of the worst host. Target: at least --goodput-target.

  --hosts N              (default 4)
  --ranks "A B ..."      ranks per host, each in turn (default "1 2 4")
  --gbit RATE            of each link and direction (default 1)
  --layers N, --experts N, --expert-bytes BYTES, --segments N, --slots N, --ahead N, --repeat N
                         as of fetch_all (defaults 1, 64, 4194304, 2, 8, 2, 3); experts are of a layer, over all ranks
  --bytes-target X       (default 1.02)
  --goodput-target X     (default 0.93)
  --timeout SECONDS      for each run (default 120)
  --program FILE         fetch_all (default build/release/bin/fetch_all)
  --predict              has the simulator predict each run beside it, from the rate that iperf3 reached: the time of a
                         repetition, and the mean of the measured ones over it. Target: within --predict-target
  --predict-target X     how far from 1 that ratio may be (default 0.15)
  --simulate FILE        simulate (default build/release/bin/simulate)
  --json FILE            writes the figures as JSON too
  --verbose              shows the tables of every run

Needs root, iperf3 and what perf/cluster.sh needs. Exit status: 0 if all targets are met, 1 if not, 2: wrong options, 3: a
run failed.
END
}
# shellcheck source=cluster_runs.sh
source "$here/cluster_runs.sh"

hosts=4 ranks='1 2 4' gbit=1 bytes_target=1.02 goodput_target=0.93 timeout=120 json='' verbose=''
predict='' predict_target=0.15 predicted=''
program=$here/../build/release/bin/fetch_all simulate=$here/../build/release/bin/simulate
declare -A shape=([layers]=1 [experts]=64 [expert-bytes]=4194304 [segments]=2 [slots]=8 [ahead]=2 [repeat]=3)
while (($#)); do
  case $1 in
    --hosts) whole "$@"; hosts=$2; shift 2 ;;
    --ranks) [[ ${2-} =~ ^[1-9][0-9]*(\ +[1-9][0-9]*)*$ ]] || wrong "--ranks takes whole numbers, such as '1 2 4', not '${2-}'"
             ranks=$2; shift 2 ;;
    --layers|--experts|--expert-bytes|--segments|--slots|--ahead|--repeat) whole "$@"; shape[${1#--}]=$2; shift 2 ;;
    --gbit) number "$@"; gbit=$2; shift 2 ;;
    --bytes-target) number "$@"; bytes_target=$2; shift 2 ;;
    --goodput-target) number "$@"; goodput_target=$2; shift 2 ;;
    --timeout) whole "$@"; timeout=$2; shift 2 ;;
    --program) program=${2-}; shift 2 || wrong "--program takes a file" ;;
    --predict) predict=1; shift ;;
    --predict-target) number "$@"; predict_target=$2; shift 2 ;;
    --simulate) simulate=${2-}; shift 2 || wrong "--simulate takes a file" ;;
    --json) [[ -n ${2-} ]] || wrong "--json takes a file name"
            json=$2; shift 2 ;;
    --verbose) verbose=1; shift ;;
    --help|-h) usage; exit 0 ;;
    *) wrong "unknown option '$1'" ;;
  esac
done
((hosts >= 2)) || wrong "--hosts must be at least 2"
[[ -x $program ]] || wrong "no program at $program; build fetch_all, or tell by --program"
[[ ! $predict || -x $simulate ]] || wrong "no program at $simulate; build simulate, or tell by --simulate"

# prediction RANKS: seconds of one repetition, by the simulator, of hosts whose links have the rate that iperf3 reached.
prediction() {
  local rate
  rate=$(awk "BEGIN {printf \"%.9f\", $link_goodput * 8 / 1e9}")
  "$simulate" --emulated --hosts "$hosts" --ranks-per-host "$1" --gbit "$rate" --goodput 1 --layers "${shape[layers]}" \
    --experts "${shape[experts]}" --expert-bytes "${shape[expert-bytes]}" --segments "${shape[segments]}" \
    --slots "${shape[slots]}" --open-ahead "$((shape[ahead] < shape[layers] ? shape[ahead] : shape[layers]))" --json "$work/predicted" >"$work/output" 2>&1 ||
    { cat "$work/output" >&2; echo "cluster_fetch.sh: simulate failed" >&2; exit 3; }
  values "$work/predicted" seconds
}

on=(--hosts "$hosts" --gbit "$gbit")
cluster iperf "${on[@]}" --iperf
link_goodput=$(awk "BEGIN {print $(values "$work/iperf" bits_per_second) / 8}")
link_ratio=$(values "$work/iperf" received_ratio)
awk -v goodput="$link_goodput" -v ratio="$link_ratio" -v hosts="$hosts" -v gbit="$gbit" 'BEGIN {
  printf "%d hosts, links of %s Gbit/s: iperf3 reaches %.1f MB/s with %.4f bytes on the link per byte\n", hosts, gbit, goodput / 1e6, ratio}'
echo "every rank fetches ${shape[layers]} layers of ${shape[experts]} experts of ${shape[expert-bytes]} bytes, ${shape[repeat]} times after a warm-up"
printf '\n%-10s %6s %12s %14s %14s %12s %14s %10s %10s' \
  'ranks/host' ranks 's per rep.' 'distinct MB' 'received MB' 'bytes ratio' 'goodput MB/s' fraction 'from cache'
[[ ! $predict ]] || printf ' %12s %10s' 'predicted s' 'ratio'
printf '  %s\n' targets

arguments=()
for name in "${!shape[@]}"; do arguments+=("--$name" "${shape[$name]}"); done
missed=0 rows=''
for count in $ranks; do
  cluster "counters$count" "${on[@]}" --ranks-per-host "$count" --timeout "$timeout" -- "$program" "${arguments[@]}" --json "$work/fetch"
  # Hosts are in the order of their first ranks, and so are nodes.
  values "$work/fetch" distinct_remote_bytes >"$work/distinct"
  values "$work/fetch" goodput >"$work/goodput"
  values "$work/counters$count" received_bytes >"$work/received"
  [[ $(wc -l <"$work/distinct") -eq $hosts && $(wc -l <"$work/received") -eq $hosts ]] ||
    { echo "cluster_fetch.sh: the job did not see $hosts nodes" >&2; exit 3; }
  cached=$(sed -nE '/"cache"/,/\}/s/.*"experts": ([0-9]+).*/\1/p' "$work/fetch")
  remote=$((cached + $(sed -nE '/"network"/,/\}/s/.*"experts": ([0-9]+).*/\1/p' "$work/fetch")))
  seconds=$(sed -nE '/^  "seconds"/,/\]/s/^ *([0-9.e+-]+),?$/\1/p' "$work/fetch" | awk 'NR > 1 {sum += $1} END {print sum / (NR - 1)}')
  [[ ! $predict ]] || predicted=$(prediction "$count")
  row=$(paste "$work/distinct" "$work/received" "$work/goodput" |
    awk -v count="$count" -v hosts="$hosts" -v link_goodput="$link_goodput" -v link_ratio="$link_ratio" -v seconds="$seconds" \
      -v predicted="$predicted" -v predict_target="$predict_target" -v cached="$cached" -v remote="$remote" -v bytes_target="$bytes_target" -v goodput_target="$goodput_target" '
      {
        ratio = $2 / (link_ratio * $1)
        if (ratio > worst_ratio) {worst_ratio = ratio; distinct = $1; received = $2}
        if (NR == 1 || $3 < goodput) goodput = $3
      }
      END {
        fraction = goodput / link_goodput
        bytes_met = worst_ratio <= bytes_target; goodput_met = fraction >= goodput_target
        predict_met = 1
        if (predicted != "") {
          measured_over = seconds / predicted
          predict_met = measured_over >= 1 - predict_target && measured_over <= 1 + predict_target
        }
        missed = (bytes_met ? "" : " bytes") (goodput_met ? "" : " goodput") (predict_met ? "" : " prediction")
        printf "%-10d %6d %12.3f %14.1f %14.1f %12.4f %14.1f %10.3f %9.1f%%", count, count * hosts, seconds, distinct / 1e6,
          received / 1e6, worst_ratio, goodput / 1e6, fraction, remote ? 100 * cached / remote : 0
        if (predicted != "") printf " %12.3f %10.3f", predicted, measured_over
        print "  " (missed == "" ? "met" : "MISSED:" missed)
        printf "    {\"ranks_per_host\": %d, \"seconds\": %.4f, \"distinct_remote_bytes\": %.0f, \"received_bytes\": %.0f, \"bytes_ratio\": %.5f, \"goodput\": %.0f, \"goodput_fraction\": %.5f, \"cache_experts\": %d, \"remote_experts\": %d, ",
          count, seconds, distinct, received, worst_ratio, goodput, fraction, cached, remote
        if (predicted != "") printf "\"predicted_seconds\": %.4f, \"measured_over_predicted\": %.5f, ", predicted, measured_over
        printf "\"met\": %s}\n", missed == "" ? "true" : "false"
      }')
  head -n 1 <<<"$row"
  rows+=${rows:+$',\n'}$(tail -n 1 <<<"$row")
  [[ $row == *'"met": true'* ]] || missed=$((missed + 1))
done
if [[ $json ]]; then
  cat >"$json" <<END
{
  "hosts": $hosts,
  "gbit": $gbit,
  "iperf": {"goodput": $link_goodput, "received_ratio": $link_ratio},
  "targets": {"bytes_ratio": $bytes_target, "goodput_fraction": $goodput_target, "prediction": $predict_target},
  "shape": {"layers": ${shape[layers]}, "experts": ${shape[experts]}, "expert_bytes": ${shape[expert-bytes]}, "segments": ${shape[segments]}, "slots": ${shape[slots]}, "ahead": ${shape[ahead]}, "repeat": ${shape[repeat]}},
  "configurations": [
$rows
  ]
}
END
fi
echo
targets="bytes ratio <= $bytes_target, goodput >= $goodput_target of iperf3's"
[[ ! $predict ]] || targets+=", measured within $predict_target of predicted"
if ((missed)); then
  echo "targets ($targets) missed by $missed configurations"
  exit 1
fi
echo "targets met ($targets)"
