#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# cluster_fetch_test.sh CLUSTER_FETCH FETCH_ALL SIMULATE: small sizes. Proves that the figures are there and that the targets decide
# the exit status; not how fast this machine is. 77: skipped.
set -euo pipefail
script=$1 program=$2 simulate=$3
# shellcheck source=../support/emulated_cluster.sh
source "$(dirname "$0")/../support/emulated_cluster.sh"
begin_figures "$script" --program "$program" --hosts 2 --experts 8 --expert-bytes 1048576 --repeat 1
measure 0 --ranks '1 2' --bytes-target 5 --goodput-target 0.0001
for count in 1 2; do
  grep -q "\"ranks_per_host\": $count, .*\"distinct_remote_bytes\": 8388608, .*\"met\": true" "$work/json" || fail "no figures for $count"
done
measure 1 --ranks 1 --bytes-target 0.5 --goodput-target 0.0001
grep -q 'MISSED: bytes' "$work/output" || fail "does not say what was missed"
measure 1 --ranks 1 --bytes-target 5 --goodput-target 50
grep -q 'MISSED: goodput' "$work/output" || fail "does not say what was missed"
measure 0 --ranks 1 --bytes-target 5 --goodput-target 0.0001 --predict --simulate "$simulate" --predict-target 1000
grep -q '"predicted_seconds": 0.[0-9]*[1-9].*"measured_over_predicted": [0-9.]*[1-9].*"met": true' "$work/json" || fail "no prediction"
grep -q 'predicted s' "$work/output" || fail "the prediction is not printed beside"
measure 1 --ranks 1 --bytes-target 5 --goodput-target 0.0001 --predict --simulate "$simulate" --predict-target 0.0000001
grep -q 'MISSED: prediction' "$work/output" || fail "does not say that the prediction was missed"
measure 2 --predict --simulate /no/such/program
measure 2 --ranks 0
measure 3 --program /bin/false
