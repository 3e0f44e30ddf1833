#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# cluster_rails_test.sh CLUSTER_RAILS FETCH_ALL: hosts with two NICs. Proves that the bytes are right (fetch_all looks), that
# both NICs carry their share of them, and that the target decides the exit status; not how fast this machine is. 77: skipped.
set -euo pipefail
script=$1 program=$2
# shellcheck source=../support/emulated_cluster.sh
source "$(dirname "$0")/../support/emulated_cluster.sh"
begin_figures "$script" --program "$program" --gbit 0.2 --experts 8 --expert-bytes 2097152 --repeat 1
# What fits into the window of the first NIC goes by it alone: eight chunks, which are small here.
export CARDEA_CHUNK_BYTES=262144
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
