#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# cluster_test.sh CASE CLUSTER PEER: the cases of perf/cluster.sh's test. 77: skipped.
set -euo pipefail
case=$1 cluster=$2 peer=$3

# shellcheck source=../support/emulated_cluster.sh
source "$(dirname "$0")/../support/emulated_cluster.sh"
need_cluster

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
  echo "FAILED: $1"
  cat "$work"/* || true
  exit 1
}

# start ARGUMENT...: starts the cluster in the background, as $pid. What runs in the background ignores SIGINT otherwise.
start() {
  env --default-signal=INT,QUIT "$cluster" "$@" >"$work/output" 2>&1 &
  pid=$!
}

# ends EXPECTED_STATUS: waits until $pid has ended, which must be so.
ends() {
  local status=0
  wait "$pid" || status=$?
  ((status == $1)) || fail "status $status instead of $1"
}

is_sleeping() { [[ $(tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline") == sleep* ]]; }
watcher_of() {
  local file
  for file in /proc/[0-9]*/cmdline; do
    [[ $(tr '\0' ' ' 2>/dev/null <"$file") != *"cluster.sh --clean-after $1 " ]] || basename "${file%/cmdline}"
  done
} 2>/dev/null

# What $pid has left: names of namespaces, files, processes.
left() {
  ip netns list | grep "^cardea-$pid-" || true
  compgen -G "${TMPDIR:-/tmp}/cardea-$pid-*" || true
  watcher_of "$pid"
  local file
  for file in "$work"/pid.*; do
    if [[ -e $file ]] && is_sleeping "$(<"$file")"; then echo "$file"; fi
  done
}
nothing_left() {
  [[ -z $(left) ]] || fail "left behind by $pid: $(left)"
}

# eventually SECONDS COMMAND...: waits until it is so.
eventually() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < end)) || fail "never came true: $*"
    sleep 0.1
  done
}

# run EXPECTED_STATUS ARGUMENT...: runs the cluster, which must end so and leave nothing behind.
run() {
  start "${@:2}"
  ends "$1"
  nothing_left
}

# stubborn LAST: a rank that is deaf to signals and leaves a child behind that is deaf too, in a session of its own.
stubborn() {
  cat <<END
trap '' INT TERM HUP QUIT
setsid sleep 100000 >/dev/null 2>&1 &
echo \$! >$work/new.\$CARDEA_RANK
mv $work/new.\$CARDEA_RANK $work/pid.\$CARDEA_RANK
$1
END
}
stubborn_run() { [[ -e $work/pid.0 && -e $work/pid.1 ]]; }
start_stubborn() {
  rm -f "$work"/pid.*
  start --hosts 2 --timeout 200 -- sh -c "$(stubborn 'while :; do sleep 1000; done')"
  eventually 60 stubborn_run
  eventually 60 is_sleeping "$(<"$work/pid.1")"
}

# counted HOST FIELD: from the JSON
counted() { sed -nE "s/.*\"host\": \"cardea-host$1\".*\"$2\": ([0-9]+).*/\1/p" "$work/json"; }

case $case in
  two_hosts_reach_each_other)
    bytes=4000000
    run 0 --hosts 2 --gbit 1 --timeout 60 --json "$work/json" -- "$peer" $bytes
    grep -q 'cardea-host1 reached cardea-host0' "$work/output" || fail "rank 1 did not see another host's name"
    for count in "$(counted 1 sent_bytes)" "$(counted 0 received_bytes)"; do
      ((count >= bytes && count < bytes + bytes / 10)) || fail "the kernel counted '$count' bytes for $bytes"
    done
    (($(counted 0 sent_bytes) < bytes / 10)) || fail "host 0 sent as well"
    ;;
  rate_is_kept)  # 8 Mbyte at 0.1 Gbit/s cannot take less than 0.64 s, save for the bucket of half a millisecond
    run 0 --hosts 2 --gbit 0.1 --timeout 120 --json "$work/json" -- "$peer" 8000000
    seconds=$(sed -nE 's/.*"seconds": ([0-9.]+).*/\1/p' "$work/json")
    awk -v seconds="$seconds" 'BEGIN {exit !(seconds > 0.6)}' || fail "8 MB at 0.1 Gbit/s took only $seconds s"
    ;;
  ends_cleanly)
    # shellcheck disable=SC2016
    run 7 --hosts 2 --ranks-per-host 2 --timeout 60 -- sh -c 'test $CARDEA_RANK != 2 || exit 7'
    grep -q 'rank 2 on cardea-host1 ended with status 7' "$work/output" || fail "does not say which rank failed"
    run 124 --hosts 2 --timeout 1 -- sleep 1000
    run 2 --hosts 0 -- true
    run 2 --no-such-option -- true
    ;;
  children_end_too)  # also when all ranks have ended of themselves
    run 0 --hosts 2 --timeout 100 -- sh -c "$(stubborn 'exit 0')"
    stubborn_run || fail "the ranks did not run"
    run 124 --hosts 2 --timeout 2 -- sh -c "$(stubborn 'sleep 1000')"
    ;;
  signals_end_it)
    for signal in INT TERM HUP QUIT; do
      start_stubborn
      kill -s $signal "$pid"
      ends $((128 + $(kill -l $signal)))
      nothing_left
    done
    ;;
  sigkill_is_cleaned_up)
    start_stubborn
    kill -KILL "$pid"
    ends 137
    nothing() { [[ -z $(left) ]]; }
    eventually 60 nothing
    ;;
  clean_takes_the_dead_only)
    start_stubborn
    kill -KILL "$(watcher_of "$pid")"
    kill -KILL "$pid"
    ends 137
    dead=$pid
    [[ $(left) ]] || fail "nothing was left, so nothing would be proven"
    start --hosts 1 --timeout 200 -- sleep 1000
    alive=$pid
    is_up() { ip netns list | grep -q "^cardea-$alive-0"; }
    eventually 60 is_up
    "$cluster" --clean
    is_up || fail "it took a run that was alive"
    pid=$dead
    nothing_left
    pid=$alive
    kill -TERM "$pid"
    ends 143
    nothing_left
    ;;
  *) fail "no such case: $case" ;;
esac
cat "$work/output"
