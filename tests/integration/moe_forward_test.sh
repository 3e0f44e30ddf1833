#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# moe_forward_test.sh CARDEA_RUN MOE_FORWARD: the main job, small, in several worlds. Proves that its result equals a single
# process's and that every path was taken as often as the layout demands (all experts are chosen: 1 of 4 is at home, ...).
set -eu
run=$1
program=$2
few="--hidden 64 --inner 256 --tokens 512 --steps 2"
sizes="$few --layers 2 --experts 8"
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
table=$directory/table

fail() {
  echo "FAILED: $*"
  cat "$table"
  exit 1
}

# expect LABEL VALUES...: the table has a line that says so, blanks aside.
expect() {
  tr -s ' ' <"$table" | grep -qF " $*" || fail "no line says '$*'"
}

# remote COUNT: so many experts of other nodes, over the network for this rank or for another of its node.
remote() {
  from_cache=$(sed -n 's/^ *node cache *\([0-9]*\) .*/\1/p' "$table")
  network=$(sed -n 's/^ *network *\([0-9]*\) .*/\1/p' "$table")
  [ $((from_cache + network)) -eq "$1" ] || fail "$from_cache + $network experts came from other nodes instead of $1"
}

# world LABEL COMMAND...: runs it and wants success.
world() {
  label=$1
  shift
  echo "== $label"
  "$@" >"$table" || fail "$label: exit status $?"
  grep -q '^PASS: ' "$table" || fail "$label: no PASS"
}

world "two nodes of two ranks" "$run" -n 4 --nodes 2 "$program" $sizes
expect "home 32 25.0 %"
expect "node, mapped 32 25.0 %"
remote 64
expect "experts moved (counted) 6.0 1.00"   # 64 experts of 192 KiB, each once for the two ranks of a node

world "two nodes of two ranks without node cache" env CARDEA_CACHE_BYTES=0 "$run" -n 4 --nodes 2 "$program" $sizes
expect "node cache 0 0.0 %"
expect "network 64 50.0 %"
expect "experts moved (counted) 12.0 1.00"
expect "served from the node cache 0.0 0.00"

# Every expert of the three layers is chosen, so each guess is right about the four that lie on the other node.
world "prefetch, three layers" "$run" -n 4 --nodes 2 "$program" $few --layers 3 --experts 8 --prefetch
expect "home 48 25.0 %"
remote 96
expect "experts prefetched 64"   # 4 ranks, 2 steps, 2 layers with one before them, 4 experts
expect "of them chosen 64 100.0 %"
grep -q "tokens' choices guessed right" "$table" || fail "the guess is not told"

world "prefetch, one layer: nothing to guess" "$run" -n 2 --nodes 2 "$program" $few --layers 1 --experts 8 --prefetch
expect "experts prefetched 0"

world "prefetch into one slot" "$run" -n 4 --nodes 2 "$program" $sizes --prefetch --slots 1
remote 64
expect "experts prefetched 8"

world "one slot for four experts" "$run" -n 4 --nodes 2 "$program" $sizes --slots 1
remote 64

world "one node" "$run" -n 2 --nodes 1 "$program" $sizes
expect "home 32 50.0 %"
expect "node, mapped 32 50.0 %"
remote 0
expect "experts moved (counted) 0.0"

world "more ranks than experts" "$run" -n 3 --nodes 3 "$program" $few --experts 2

world "one rank" env CARDEA_RANK=0 CARDEA_WORLD_SIZE=1 "$program" $sizes
expect "home 32 100.0 %"

# As torchrun starts ranks: one process each, told by variables. The user's secret is made in a home of our own.
torchrun_like() {
  port=$((20000 + $$ % 10000))
  for rank in 0 1; do
    env HOME="$directory" RANK=$rank WORLD_SIZE=2 LOCAL_RANK=$rank LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 \
      MASTER_PORT=$port CARDEA_NODE_ID=node$rank "$program" $sizes &
    eval "process$rank=$!"
  done
  wait "$process0" && wait "$process1"
}
world "torchrun's variables, two nodes" torchrun_like
remote 32

if command -v mpirun >/dev/null; then
  world "mpirun" env HOME="$directory" OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
    mpirun --oversubscribe -n 2 "$program" $sizes
  expect "node, mapped 32 50.0 %"
else
  echo "== mpirun: skipped, it is not installed"
fi

echo "== a text that is not there"
if CARDEA_RANK=0 CARDEA_WORLD_SIZE=1 "$program" --text "$directory/absent" >"$table" 2>&1; then
  fail "a missing text was accepted"
fi
grep -q "$directory/absent" "$table" || fail "the missing text is not named"
