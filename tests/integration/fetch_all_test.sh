#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# fetch_all_test.sh CARDEA_RUN FETCH_ALL: every byte of every expert is right in several worlds, at every version, with sizes
# that are no multiples of anything; the figures add up; wrong options are refused.
set -eu
run=$1
program=$2
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
json=$directory/json

fail() {
  echo "FAILED: $*"
  cat "$directory"/* || true
  exit 1
}

# world LABEL RANKS NODES OPTIONS...: runs it with every byte looked at, and wants success.
world() {
  label=$1 ranks=$2 nodes=$3
  shift 3
  echo "== $label"
  "$run" -n "$ranks" --nodes "$nodes" --timeout 120 "$program" --check all --json "$json" "$@" >"$directory/output" 2>&1 ||
    fail "$label: exit status $?"
  grep -q '"wrong_experts": 0,' "$json" || fail "$label: wrong bytes"
}

# experts PATH...: how many views came by any of them
experts() {
  sum=0
  for path in "$@"; do
    sum=$((sum + $(sed -n "/\"$path\"/,/}/s/.*\"experts\": \([0-9]*\).*/\1/p" "$json")))
  done
  echo $sum
}
expect() {  # WHAT EXPECTED GOT
  [ "$2" = "$3" ] || fail "$1: $3 instead of $2"
}

# 2 repetitions and the warm-up, 3 layers, 4 ranks that want 8 experts each: 288 views.
world "two nodes of two ranks" 4 2 --layers 3 --experts 8 --expert-bytes 100003 --segments 3 --repeat 2
expect home 72 "$(experts home)"
expect mapped 72 "$(experts node_mapped)"
expect remote 144 "$(experts network cache)"
expect "distinct bytes" $((3 * 3 * 4 * 100003)) "$(sed -n 's/.*"distinct_remote_bytes": \([0-9]*\).*/\1/p' "$json" | head -n 1)"

world "one slot, one layer at a time" 2 2 --layers 2 --experts 6 --expert-bytes 70001 --slots 1 --ahead 1 --repeat 1
expect remote 24 "$(experts network cache)"

world "one slot, all layers at a time" 2 2 --layers 4 --experts 6 --expert-bytes 70001 --slots 1 --ahead 4 --repeat 1
expect remote 48 "$(experts network cache)"

world "more ranks than experts" 3 3 --layers 1 --experts 2 --expert-bytes 3000000 --repeat 1
expect home 4 "$(experts home)"
expect remote 8 "$(experts network cache)"

echo "== wrong options"
for options in "--segments 0" "--experts 0" "--check sometimes" "--expert-bytes 3 --segments 4" "--no-such-option"; do
  status=0
  # shellcheck disable=SC2086
  "$program" $options >"$directory/output" 2>&1 || status=$?
  expect "status of $options" 2 $status
done
echo "== a file that cannot be written"
if CARDEA_RANK=0 CARDEA_WORLD_SIZE=1 "$program" --experts 1 --expert-bytes 8 --json "$directory/no/file" >"$directory/output" 2>&1; then
  fail "a file that cannot be written was no error"
fi
grep -q "$directory/no/file" "$directory/output" || fail "the file is not named"
