#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# nvtx_test.sh CARDEA_RUN PROGRAM TOOL: a tool of NVTX's sees the ranges of a real job, each of which ends; without a tool the
# same job runs as well.
set -euo pipefail
run=$1 program=$2 tool=$3
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
fail() {
  echo "$1"
  exit 1
}

NVTX_INJECTION64_PATH=$tool NVTX_TOOL_FILE=$directory/ranges "$run" -n 2 --nodes 2 "$program" >"$directory/output" 2>&1 ||
  { cat "$directory/output"; fail "the program failed"; }
[ -s "$directory/ranges" ] || fail "the tool saw nothing"
for name in layer_create publish fetch next release finish collect; do
  grep -q "^push $name " "$directory/ranges" || fail "no range $name"
done
[ "$(grep -c '^push ' "$directory/ranges")" = "$(grep -c '^pop$' "$directory/ranges")" ] || fail "ranges do not pair"
started=$(grep -c '^start .* fetch in progress ' "$directory/ranges") || fail "no fetch has a range"
[ "$started" = "$(grep -c '^end ' "$directory/ranges")" ] || fail "ranges of fetches do not end"
env -u NVTX_INJECTION64_PATH NVTX_TOOL_FILE="$directory/none" "$run" -n 2 --nodes 2 "$program" >"$directory/output" 2>&1 ||
  fail "without a tool it failed"
[ ! -e "$directory/none" ] || fail "ranges without a tool"
