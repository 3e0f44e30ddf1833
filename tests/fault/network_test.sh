#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# network_test.sh CASE CLUSTER PEER DELAY_LINK: three emulated hosts, a rank on each, whose network misbehaves while they fetch. A fetch
# completes with the right bytes, or fails naming peer and path; who is cut off is expelled. Each case proves by the kernel's
# own counters or states that its fault happened. 77: skipped.
set -euo pipefail
case=$1 cluster=$2 peer=$3 delay_link=$4

# shellcheck source=../support/emulated_cluster.sh
source "$(dirname "$0")/../support/emulated_cluster.sh"
need_cluster

work=$(mktemp -d)
pid='' forwarder=''
finish() {
  [[ -z $forwarder ]] || kill -TERM "$forwarder" 2>/dev/null || true
  [[ -z $pid ]] || kill -TERM "$pid" 2>/dev/null || true
  [[ -z $pid ]] || wait "$pid" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
fail() {
  echo "FAILED: $1"
  cat "$work/output" || true
  exit 1
}
output() { grep -E "$1" "$work/output" 2>/dev/null || true; }
expect() { [[ $(output "$1") ]] || fail "nobody said: $1"; }
expect_not() { [[ -z $(output "$1") ]] || fail "somebody said: $(output "$1" | head -1)"; }
eventually() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < end)) || fail "never came true: $*"
    kill -0 "$pid" 2>/dev/null || fail "the job ended before: $*"
    sleep 0.05
  done
}
count_is() { (($(output "$2" | wc -l) >= $1)); }

# start SECONDS BYTES: the job, until all three ranks fetch. $debug, $cluster_options: what they say, and of their hosts.
start() {
  export CARDEA_LIVENESS_LIMIT=${limit-2000} CARDEA_CHUNK_BYTES=65536 CARDEA_DEBUG=${debug-ERROR}
  "$cluster" --hosts 3 ${cluster_options-} --timeout 240 -- "$peer" "$1" "$2" >"$work/output" 2>&1 &
  pid=$!
  eventually 120 count_is 3 ': fetching$'
}
# ends: successfully.
ends() {
  local status=0
  wait "$pid" || status=$?
  pid=''
  ((status == 0)) || fail "the job ended with status $status"
}
# shape HOST RATE BURST QUEUE: both directions of its link.
shape() {
  tc -n "cardea-$pid-$1" qdisc replace dev eth0 root tbf rate "$2" burst "$3" limit "$4"
  tc -n "cardea-$pid-switch" qdisc replace dev "port$1" root tbf rate "$2" burst "$3" limit "$4"
}
dropped() { tc -s -n "$1" qdisc show dev "$2" | sed -nE 's/.*dropped ([0-9]+).*/\1/p' | head -1; }
# round_trip HOST HOST: milliseconds, the least of five
round_trip() { ip netns exec "cardea-$pid-$1" "$delay_link" --rtt "10.77.0.$(($2 + 1))" 9; }
# delay_links MS JITTER LOSS: puts a program between each host's port and the bridge.
delay_links() {
  local switch=cardea-$pid-switch host names=()
  for host in 0 1 2; do names+=("near$host" "far$host"); done
  ip netns exec "$switch" "$delay_link" --delay-ms "$1" --jitter-ms "$2" --loss "$3" "${names[@]}" \
    >"$work/links" 2>"$work/links.errors" &
  forwarder=$!
  disown "$forwarder"  # the cluster's end takes it along
  until grep -q ready "$work/links"; do
    kill -0 "$forwarder" 2>/dev/null || skip "no netem, and no TAP devices either: $(cat "$work/links.errors")"
    sleep 0.05
  done
  for host in 0 1 2; do
    ip -n "$switch" link add "slow$host" type bridge mcast_snooping 0
    ip -n "$switch" link set "far$host" master bridge up
    ip -n "$switch" link set "near$host" master "slow$host" up
    ip -n "$switch" link set "port$host" master "slow$host"
    ip -n "$switch" link set "slow$host" up
  done
}
# lost_on_links: how many packets the program has dropped by chance so far
lost_on_links() {
  local before
  before=$(grep -c . "$work/links")
  kill -USR1 "$forwarder"
  until (($(grep -c . "$work/links") > before)); do sleep 0.05; done
  sed -nE 's/.* ([0-9]+) lost by chance.*/\1/p' "$work/links" | tail -1
}
cut_off() { ip -n "cardea-$pid-switch" link set "port$1" down; }
heal() { ip -n "cardea-$pid-switch" link set "port$1" up; }
is_cut() { ip -n "cardea-$pid-switch" link show "port$1" | grep -q 'state DOWN'; }
# carried HOST NIC rx|tx: bytes that the kernel has counted
carried() { ip netns exec "cardea-$pid-$1" cat "/sys/class/net/$2/statistics/$3_bytes"; }
has_carried() { (($(carried "$1" "$2" "$3") >= $4)); }
nobody_was_lost() {
  expect_not ': error '
  expect_not ': expelled '
  expect_not 'WRONG'
  count_is 3 ': done, [0-9]+ rounds, 0 wrong, last round with 2 peers' || fail "a rank did not come to its end"
}

case $case in
  loss)  # by a queue that holds a few packets: whatever comes in a burst is dropped, and TCP has to send it again
    start 8 1048576
    for host in 0 1 2; do shape "$host" 400mbit 4000 9000; done
    sleep 5
    lost=0
    for host in 0 1 2; do
      lost=$((lost + $(dropped "cardea-$pid-switch" "port$host") + $(dropped "cardea-$pid-$host" eth0)))
    done
    ends
    ((lost > 20)) || fail "only '$lost' packets were dropped, so nothing would be proven"
    echo "$lost packets dropped"
    nobody_was_lost
    ;;
  delay)  # 40 ms each way, give or take 10, and 1% of the packets lost: by netem, or by a program in each host's link
    start 12 1048576
    quick=$(round_trip 0 2)
    if [[ $netem ]]; then
      for host in 0 1 2; do tc -n "cardea-$pid-$host" qdisc replace dev eth0 root netem delay 40ms 10ms loss 1%; done
    else
      delay_links 20 5 0.005  # a packet passes two links
    fi
    slow=$(round_trip 0 2)
    awk -v slow="$slow" 'BEGIN {exit slow >= 55 ? 0 : 1}' || fail "a round trip takes $slow ms, so nothing would be proven"
    sleep 4
    lost=''
    [[ $netem ]] || lost=$(lost_on_links)
    ends
    [[ $netem ]] || ((lost > 5)) || fail "only '$lost' packets were lost"
    echo "round trips of $slow ms instead of $quick${lost:+, $lost packets lost}"
    nobody_was_lost
    ;;
  slow_peer)  # a link of 8 Mbit/s: an expert takes a quarter of a second, and signs of life stand in the queue behind it
    start 8 262144
    shape 2 8mbit 16000 200000
    ends
    nobody_was_lost
    ;;
  slow_process)  # stopped for most of the time, and never for as long as the limit
    start 8 262144
    for _ in 1 2 3 4 5; do
      stopped=''
      for process in $(ip netns pids "cardea-$pid-2"); do
        [[ $(tr '\0' ' ' <"/proc/$process/cmdline") != "$peer "* ]] || stopped=$process
      done
      [[ $stopped ]] || fail "rank 2 is not there"
      kill -STOP "$stopped"
      is_stopped() { grep -q '^State:.T' "/proc/$stopped/status"; }
      eventually 10 is_stopped
      sleep 0.8
      kill -CONT "$stopped"
      sleep 0.3
    done
    ends
    nobody_was_lost
    ;;
  link_down_in_mid_fetch)  # for less than the limit: what was on its way comes late, and right
    limit=5000
    start 10 1048576
    cut_off 1
    is_cut 1 || fail "the link is not down"
    sleep 1
    heal 1
    ends
    nobody_was_lost
    ;;
  nic_down_in_mid_fetch)  # one of two: what was on its way comes by the other, and nobody is lost
    debug=WARN cluster_options='--nics 2 --gbit 0.2'
    export CARDEA_AFFINITY=nic=eth0,eth1
    start 12 1048576
    for host in 0 1 2; do  # both carry chunks
      for nic in 0 1; do
        eventually 30 has_carried "$host" "eth$nic" rx 3000000
        eventually 30 has_carried "$host" "eth$nic" tx 3000000
      done
    done
    before=$(carried 1 eth1 rx)
    others=$(carried 0 eth1 rx)
    ip -n "cardea-$pid-1" link set eth1 down
    ip -n "cardea-$pid-1" link show eth1 | grep -q 'state DOWN' || fail "the NIC is not down"
    rest=$(carried 1 eth0 rx)
    eventually 30 has_carried 1 eth0 rx $((rest + 10000000))
    (($(carried 1 eth1 rx) - before < 200000)) || fail "the NIC that is down still carries something"
    eventually 30 has_carried 0 eth1 rx $((others + 3000000))  # the others still use theirs among each other
    ends
    nobody_was_lost
    count_is 3 ', last round with 2 peers' || fail "a rank went without another"
    expect 'cardea\[1\] WARN ucx: NIC eth1 carries no more chunks from and to rank [02], which go by eth0 instead: its link is down'
    expect 'cardea\[[02]\] WARN ucx: NIC eth1 carries no more chunks from and to rank 1, which go by eth0 instead: '
    expect_not 'WARN ucx: NIC eth0'
    expect_not 'cardea\[[02]\] WARN ucx: NIC eth1 carries no more chunks from and to rank [02]'
    ;;
  nic_out_of_reach)  # the link is up, and what goes into it is lost: silence tells
    debug=WARN cluster_options='--nics 2 --gbit 0.2'
    export CARDEA_AFFINITY=nic=eth0,eth1
    start 20 1048576
    for host in 0 1 2; do eventually 30 has_carried "$host" eth1 rx 3000000; done
    # Its port leaves the bridge, and keeps its carrier.
    ip -n "cardea-$pid-switch" link set port1.1 nomaster
    ip -n "cardea-$pid-1" link show eth1 | grep -q 'state UP' || fail "the NIC is not up"
    before=$(carried 1 eth1 rx)
    rest=$(carried 1 eth0 rx)
    eventually 30 count_is 1 'cardea\[[0-2]\] WARN ucx: NIC eth1 carries no more chunks .*: nothing came by it for '
    eventually 30 has_carried 1 eth0 rx $((rest + 10000000))
    (($(carried 1 eth1 rx) - before < 200000)) || fail "it is still reached"
    ends
    nobody_was_lost
    count_is 3 ', last round with 2 peers' || fail "a rank went without another"
    expect_not 'WARN ucx: NIC eth0'
    ;;
  partition)  # for good: two ranks go on without the third, which finds itself expelled
    start 12 1048576
    cut_off 2
    is_cut 2 || fail "the link is not down"
    eventually 60 count_is 2 '^rank [01]: error CARDEA_ERR_PEER_LOST peer 2 path network: '
    eventually 60 count_is 1 '^rank 2: expelled peer [01]: '
    ends
    expect_not '^rank [01]: expelled'
    expect_not '^rank [01]: error .* peer [01] '
    count_is 2 '^rank [01]: done, [0-9]+ rounds, 0 wrong, last round with 1 peers' || fail "the two did not go on"
    expect '^rank 2: done, .* 0 wrong, last round with 0 peers'
    ;;
  partition_and_healing)  # of the rank that would decide; when the network is whole again, it stays out
    start 14 1048576
    cut_off 0
    is_cut 0 || fail "the link is not down"
    eventually 60 count_is 2 '^rank [12]: error CARDEA_ERR_PEER_LOST peer 0 path network: '
    eventually 60 count_is 1 '^rank 0: expelled peer [12]: '
    heal 0
    ! is_cut 0 || fail "the link is still down"
    ends
    expect_not '^rank [12]: expelled'
    count_is 2 '^rank [12]: done, [0-9]+ rounds, 0 wrong, last round with 1 peers' || fail "the two did not go on"
    expect '^rank 0: done, .* 0 wrong, last round with 0 peers'
    ;;
  *) fail "no such case: $case" ;;
esac
# Whatever the network did: everybody left within 2 s (and what this machine adds).
for ms in $(sed -nE 's/.*: closed in ([0-9]+) ms/\1/p' "$work/output"); do
  ((ms < 4000)) || fail "a rank took $ms ms to destroy its context"
done
cat "$work/output"
