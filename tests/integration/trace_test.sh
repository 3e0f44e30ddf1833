#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# trace_test.sh CARDEA_RUN FETCH_ALL SIMULATE CARDEA_TRACE: the event logs of a real run replay with the same requests and
# the same bytes between nodes, and the traces of its ranks go together.
set -eu
run=$1 program=$2 simulate=$3 merge=$4
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

fail() {
  echo "FAILED: $*"
  cat "$directory/output" || true
  exit 1
}

CARDEA_TRACE=$directory/t.%r.json,$directory/e.%r.events "$run" -n 4 --nodes 2 --timeout 120 "$program" \
  --layers 2 --experts 8 --expert-bytes 300032 --segments 2 --repeat 1 --check all >"$directory/output" 2>&1 ||
  fail "the run: exit status $?"

echo "== replay"
"$simulate" --replay "$directory"/e.*.events --log "$directory/replayed" >"$directory/output" 2>&1 || fail "the replay: exit status $?"
# Two repetitions of 2 layers: each of 2 nodes gets the 4 experts of the other, once.
grep -q "^bytes over the network *9601024 " "$directory/output" || fail "bytes between nodes"
grep -q "^2 nodes of 2 ranks, 2 layers of 8 experts" "$directory/output" || fail "the plan does not describe the job"
for what in publish fetch take release finish collect destroy; do
  # Layer 2 is where the ranks meet, of another shape: its fetch is the third of each round, and is left out.
  real=$(cat "$directory"/e.*.events | grep -c " $what .*layer=[01] " || true)
  again=$(grep -c " $what .*layer=[01] " "$directory/replayed" || true)
  [ "$real" = "$again" ] || fail "$what: $again of $real requests were replayed"
done
[ "$(grep -c ' fetch ' "$directory/replayed")" = 16 ] || fail "16 fetches"
[ "$(grep ' ready ' "$directory/replayed" | grep -c .)" = 128 ] || fail "128 experts became ready"
[ "$(grep -c ' release ' "$directory/replayed")" = 128 ] || fail "128 releases"

echo "== traces"
"$merge" -o "$directory/all.json" "$directory"/t.*.json || fail "the traces do not go together"
for process in 0 1 2 3; do
  grep -q "\"name\":\"process_name\",\"ph\":\"M\",\"pid\":$process," "$directory/all.json" || fail "process $process"
done
[ "$(grep -c '"ph":"f"' "$directory/all.json")" -ge 128 ] || fail "a flow for each of 128 views"
echo '[' >"$directory/broken"
if "$merge" "$directory/broken" >"$directory/output" 2>&1; then fail "a file without a job was taken"; fi

echo "== what is wrong is named"
if "$simulate" --replay "$directory/e.0.events" "$directory/e.1.events" >"$directory/output" 2>&1; then fail "half a job was taken"; fi
grep -q "2 logs of 4 ranks: rank 2's is missing" "$directory/output" || fail "the missing rank is not named"
sed -i '5i # lost 3' "$directory/e.2.events"
if "$simulate" --replay "$directory"/e.*.events >"$directory/output" 2>&1; then fail "a log with holes was taken"; fi
grep -q "log 3, line 5: records are missing" "$directory/output" || fail "the hole is not named"
status=0
CARDEA_TRACE=$directory/t.txt "$run" -n 1 "$program" >"$directory/output" 2>&1 || status=$?
[ $status != 0 ] || fail "CARDEA_TRACE=t.txt was taken"
grep -q "CARDEA_TRACE: \".*t.txt\" ends neither in .json" "$directory/output" || fail "CARDEA_TRACE is not named"
echo "replayed and put together"
