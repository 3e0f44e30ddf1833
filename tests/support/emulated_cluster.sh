#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# For tests on the emulated cluster (perf/cluster.sh), which source it: whether this system lets one be made.

skip() {
  echo "skipped: $1"
  exit 77
}

# need_cluster: skips the test where there can be no cluster. Sets `netem` to 1 where the kernel has that queue, else to ''.
need_cluster() {
  local probe=cardea-$$-probe missing=''
  [[ $EUID -eq 0 ]] || skip "network namespaces need root"
  command -v ip >/dev/null && command -v tc >/dev/null || skip "no ip or tc here (package iproute2)"
  ip netns add "$probe" 2>/dev/null || skip "this system lets nobody make network namespaces"
  {
    ip -n "$probe" link add bridge type bridge && ip -n "$probe" link add one type veth peer name other &&
      tc -n "$probe" qdisc add dev one root tbf latency 20ms rate 1mbit burst 131072 && unshare --uts true
  } 2>/dev/null || missing="no bridges, veth pairs, tbf or UTS namespaces here"
  # Not so in a root directory that is no mount of its own.
  ip netns exec "$probe" true 2>/dev/null || missing="programs cannot be run in network namespaces here"
  netem=''
  # shellcheck disable=SC2034
  ! tc -n "$probe" qdisc add dev other root netem delay 1ms 2>/dev/null || netem=1
  ip netns delete "$probe"
  [[ -z $missing ]] || skip "$missing"
}

# begin_figures PROGRAM OPTION...: for tests of programs that measure on the cluster; skips where there is none, or no iperf3.
# Sets $work, a directory that goes at the end.
begin_figures() {
  need_cluster
  command -v iperf3 >/dev/null || skip "no iperf3 here (package iperf3)"
  measured=("$@")
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
}
fail() {
  echo "FAILED: $1"
  cat "$work"/*
  exit 1
}
# measure STATUS OPTION...: the program must end so; its figures are in $work/json, what it said in $work/output.
measure() {
  local status=0
  "${measured[@]}" --json "$work/json" "${@:2}" >"$work/output" 2>&1 || status=$?
  ((status == $1)) || fail "status $status instead of $1 from: ${*:2}"
}
