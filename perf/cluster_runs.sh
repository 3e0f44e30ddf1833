#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# For programs that run perf/cluster.sh several times and put the figures together, which source it: $work, a directory that
# goes at the end, however that comes; runs that signals end; the figures of their JSON. Sourcing it sets the traps.

tool=$(basename "$0")
wrong() {
  echo "$tool: $1 (--help lists the options)" >&2
  exit 2
}
whole() { [[ ${2-} =~ ^[1-9][0-9]{0,12}$ ]] || wrong "$1 takes a whole number from 1, not '${2-}'"; }
number() { [[ ${2-} =~ ^[0-9]+(\.[0-9]+)?$ && ! $2 =~ ^[0.]+$ ]] || wrong "$1 takes a number above 0, not '${2-}'"; }

work=$(mktemp -d "${TMPDIR:-/tmp}/${tool%.sh}-XXXXXX")
running=''
finish() {
  local status=$?
  trap - EXIT
  trap '' INT TERM HUP
  [[ ! $running ]] || { kill -TERM "$running" 2>/dev/null && wait "$running" 2>/dev/null; } || true
  rm -rf "$work"
  exit "$status"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# cluster NAME OPTION...: cluster.sh in the background, so that signals are heard; its counters go to $work/NAME, its output to
# $work/output, which is shown if it failed or with $verbose.
cluster() {
  local status=0
  "$(dirname "${BASH_SOURCE[0]}")/cluster.sh" --json "$work/$1" "${@:2}" >"$work/output" 2>&1 &
  running=$!
  wait "$running" || status=$?
  running=''
  [[ ! ${verbose-} ]] || cat "$work/output" >&2
  ((!status)) && return
  [[ ${verbose-} ]] || cat "$work/output" >&2
  echo "$tool: ended with status $status: cluster.sh ${*:2}" >&2
  exit 3
}
# values FILE KEY: all values of a key, one per line; the programs write at most one of a name per line.
values() { sed -nE "s/.*\"$2\": ([0-9.e+]+).*/\1/p" "$1"; }
