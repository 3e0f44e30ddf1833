#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# fetch_perf_test.sh FETCH_PERF PLOT: the table has a row for each way and size, with limits beside those that move bytes; wrong
# bytes make it fail; its JSON can be plotted, and without matplotlib the plot says what is missing.
set -eu
program=$1 plot=$2
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

fail() {
  echo "FAILED: $*"
  cat "$directory"/output || true
  exit 1
}

"$program" -b 64K -e 256K -f 4 -n 3 -w 1 --experts 2 --json "$directory/result.json" >"$directory/output" 2>&1 || fail "exit status $?"
for way in mapped copy network; do
  for bytes in 65536 262144; do grep -qE "^ +$way +$bytes +2 +[0-9]" "$directory/output" || fail "no row of $way, $bytes"; done
done
grep -q "^# Out of bounds values : 0 OK" "$directory/output" || fail "no sum of wrong values"
[ "$(grep -c '"memcpy"' "$directory/result.json")" = 2 ] || fail "memcpy beside the two rows that copy"
[ "$(grep -c '"socket"' "$directory/result.json")" = 2 ] || fail "a socket beside the two rows over the network"
[ "$(grep -c '"UCX AM"' "$directory/result.json")" = 2 ] || fail "UCX beside the two rows over the network"

status=0
"$program" -b 64K -e 64K -n 2 -w 1 --ways mapped,copy --spoil >"$directory/output" 2>&1 || status=$?
[ $status = 1 ] || fail "wrong bytes end in $status"
grep -q "^# Out of bounds values : [1-9][0-9]* FAILED" "$directory/output" || fail "wrong bytes are not told"
"$program" -b 64K -e 64K -n 2 -w 1 --ways copy --spoil -c 0 >"$directory/output" 2>&1 || fail "unchecked bytes were checked"
if "$program" -b 2M -e 1M >"$directory/output" 2>&1; then fail "-b above -e was taken"; fi

command -v python3 >/dev/null || { echo "no python3 here: no plots"; exit 0; }
mkdir "$directory/none"
echo 'raise ImportError("none here")' >"$directory/none/matplotlib.py"
status=0
PYTHONPATH=$directory/none python3 "$plot" fetch "$directory/result.json" >"$directory/output" 2>&1 || status=$?
[ $status != 0 ] || fail "a plot without matplotlib"
grep -q "matplotlib is missing: apt install python3-matplotlib" "$directory/output" || fail "it does not say what is missing"
if python3 "$plot" fetch "$directory/output" >"$directory/error" 2>&1; then fail "what is no JSON was plotted"; fi
python3 -c 'import matplotlib' 2>/dev/null || { echo "no matplotlib here: no pictures"; exit 0; }
python3 "$plot" fetch "$directory/result.json" -o "$directory/picture.png" >"$directory/output" 2>&1 || fail "no plot"
[ "$(wc -c <"$directory/picture.png")" -gt 10000 ] || fail "an empty picture"
