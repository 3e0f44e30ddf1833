#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# cluster_test.sh CASE CLUSTER PEER: the cases of perf/cluster.sh's test. 77: skipped.
set -euo pipefail
case=$1 cluster=$2 peer=$3

[[ $EUID -eq 0 ]] || { echo "skipped: network namespaces need root"; exit 77; }
command -v ip >/dev/null && command -v tc >/dev/null || { echo "skipped: no ip or tc here (package iproute2)"; exit 77; }
ip netns add "cardea-$$-probe" 2>/dev/null || { echo "skipped: this system lets nobody make network namespaces"; exit 77; }
ip netns delete "cardea-$$-probe"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
  echo "FAILED: $1"
  cat "$work"/* || true
  exit 1
}

# run EXPECTED_STATUS ARGUMENT...: runs the cluster, which must end so and leave nothing behind.
run() {
  local expected=$1 pid status=0
  shift
  "$cluster" "$@" >"$work/output" 2>&1 &
  pid=$!
  wait $pid || status=$?
  ((status == expected)) || fail "status $status instead of $expected from: $*"
  [[ -z $(ip netns list | grep "^cardea-$pid-" || true) ]] || fail "namespaces of $pid are left behind"
  [[ -z $(compgen -G "${TMPDIR:-/tmp}/cardea-$pid-*" || true) ]] || fail "files of $pid are left behind"
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
  *) fail "no such case: $case" ;;
esac
cat "$work/output"
