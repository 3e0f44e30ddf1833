#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# cluster_rails_test.sh CLUSTER_RAILS FETCH_ALL: hosts with two NICs. Proves that the bytes are right (fetch_all looks), that
# both NICs carry their share of them, and that the target decides the exit status; not how fast this machine is. 77: skipped.
set -euo pipefail
script=$1 program=$2
# shellcheck source=../support/emulated_cluster.sh
source "$(dirname "$0")/../support/emulated_cluster.sh"
need_cluster
command -v iperf3 >/dev/null || skip "no iperf3 here (package iperf3)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
  echo "FAILED: $1"
  cat "$work"/*
  exit 1
}
# measure STATUS OPTION...
measure() {
  local status=0
  "$script" --program "$program" --gbit 0.2 --experts 8 --expert-bytes 2097152 --repeat 1 --json "$work/json" "${@:2}" >"$work/output" 2>&1 || status=$?
  ((status == $1)) || fail "status $status instead of $1 from: ${*:2}"
}

for ranks in 1 2; do  # with two ranks, each begins with both NICs all the same
  measure 0 --ranks-per-host "$ranks" --nics '1 2' --ratio-target 0.0001
  read -r first second < <(sed -nE 's/.*"nics": 2, .*"received": \[([0-9]+), ([0-9]+)\].*/\1 \2/p' "$work/json")
  least=$((8 * 2097152 / 2 * 2 / 10))  # half of the experts are remote, once and as a warm-up; of their bytes a tenth
  ((first > least && second > least)) || fail "the NICs received '$first' and '$second' bytes, not $least each"
done
measure 1 --nics '1 2' --ratio-target 50
grep -q 'MISSED' "$work/output" || fail "does not say what was missed"
measure 2 --nics 2
measure 3 --program /bin/false
