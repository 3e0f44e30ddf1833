#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# An emulated cluster on one machine; --help tells more.
#
# Each host is a network namespace with a host name of its own (a UTS namespace). Its eth0 is one end of a veth pair whose
# other end is a port of a bridge, and both ends are shaped by tc tbf, so that a host's link has its rate in each
# direction. Of several NICs, eth1 and the others are like it, each on a bridge and in a network of its own. The bridges lie
# in one more namespace: nothing of this is ever in the machine's own network, and deleting the
# namespaces takes everything with them. Names carry this process's id, so runs do not meet.
#
# Whatever a host's ranks have started belongs to the host by its network namespace, also what has left their session, and
# is killed with it. If this script itself is killed by SIGKILL, a watcher in a session of its own sees that within about a
# second and does the same; --clean is for the case that somebody killed both.
set -euo pipefail

usage() {
  cat <<'END'
usage: perf/cluster.sh [OPTION]... -- PROGRAM [ARGUMENT]...
       perf/cluster.sh [OPTION]... --iperf
       perf/cluster.sh --clean

Runs PROGRAM once per rank on emulated hosts and prints the bytes that the kernel counted on each host's link. Needs root.

  --hosts N            number of hosts, 1 to 250 (default 2)
  --ranks-per-host N   (default 1)
  --nics N             of each host, 1 to 4: eth0, eth1, ... in networks of their own, 10.77.0.0/24, 10.77.1.0/24, ... (default 1)
  --gbit RATE          of each link, each direction, such as 1, 0.1 or 25 (default: as fast as the machine can)
  --timeout SECONDS    ends the run with status 124 (default 600)
  --json FILE          writes the counters as JSON too
  --iperf              measures the link between two hosts by iperf3, instead of running a program; all NICs at once
  --clean              removes what runs left behind that were killed together with their watcher; running ones stay

Ranks are numbered host by host. Each gets CARDEA_RANK, CARDEA_WORLD_SIZE, CARDEA_ROOT (a free
address:port of rank 0's host), CARDEA_JOB, CARDEA_SECRET_FILE, the same under torchrun's names (RANK, WORLD_SIZE,
LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT), and UCX_TLS=tcp,self unless UCX_TLS is set.
All that the ranks started ends with the run, also what they left in the background.
Exit status: that of the first rank to fail (128 + signal if killed), 0 if none did, 1 if the cluster could not be made,
2: wrong options, 124: out of time, 128 + signal: ended by a signal.
END
}
die() {
  echo "cluster.sh: $1" >&2
  exit "${2-1}"
}
wrong() { die "$1 (--help lists the options)" 2; }

# ---- left-overs of dead runs: namespaces cardea-PID-... whose PID is no cluster.sh any more
remove_namespaces() {  # PREFIX
  local ns pids attempt all
  all=$(ip netns list | awk -v prefix="$1" 'index($1, prefix) == 1 {print $1}')
  for ns in $all; do
    for ((attempt = 0; attempt < 250; attempt++)); do  # again, since a process may have forked meanwhile; at most about 5 s
      pids=$(ip netns pids "$ns" 2>/dev/null || true)
      [[ $pids ]] || break
      # shellcheck disable=SC2086
      kill -KILL $pids 2>/dev/null || true
      sleep 0.02
    done
  done
  for ns in $all; do ip netns delete "$ns" 2>/dev/null || true; done
}
is_running() { [[ $(tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline") == *cluster.sh* ]]; }  # also false of a zombie
clean() {
  local pid removed=0
  for pid in $(ip netns list | sed -nE 's/^cardea-([0-9]+)-.*/\1/p' | sort -u); do
    ! is_running "$pid" || continue
    remove_namespaces "cardea-$pid-"
    rm -rf "${TMPDIR:-/tmp}/cardea-$pid-"??????
    removed=$((removed + 1))
  done
  echo "removed what $removed dead runs had left"
}

# ---- options
hosts=2 ranks_per_host=1 nics=1 gbit='' timeout=600 json='' iperf='' clean_only='' watched='' program=()
whole() { [[ ${2-} =~ ^[1-9][0-9]{0,6}$ ]] || wrong "$1 takes a whole number from 1, not '${2-}'"; }
while (($#)); do
  case $1 in
    --hosts) whole "$@"; hosts=$2; shift 2 ;;
    --ranks-per-host) whole "$@"; ranks_per_host=$2; shift 2 ;;
    --nics) whole "$@"; nics=$2; shift 2 ;;
    --timeout) whole "$@"; timeout=$2; shift 2 ;;
    --gbit) [[ ${2-} =~ ^[0-9]+(\.[0-9]+)?$ && ! $2 =~ ^[0.]+$ ]] || wrong "--gbit takes a rate above 0, not '${2-}'"
            gbit=$2; shift 2 ;;
    --json) [[ -n ${2-} ]] || wrong "--json takes a file name"
            json=$2; shift 2 ;;
    --iperf) iperf=1; shift ;;
    --clean) clean_only=1; shift ;;
    --clean-after) whole "$@"; clean_only=1 watched=$2; shift 2 ;;  # the watcher
    --help|-h) usage; exit 0 ;;
    --) shift; program=("$@"); break ;;
    *) wrong "unknown option '$1'; the program comes after --" ;;
  esac
done
((hosts <= 250)) || wrong "--hosts takes at most 250"
((nics <= 4)) || wrong "--nics takes at most 4"
for tool in ip tc nsenter unshare; do command -v "$tool" >/dev/null || die "needs $tool (packages iproute2, util-linux)"; done
[[ $EUID -eq 0 ]] || die "network namespaces need root"
if [[ $clean_only ]]; then
  while [[ $watched ]] && is_running "$watched"; do sleep 1; done
  clean
  exit 0
fi
[[ $iperf ]] || ((${#program[@]})) || wrong "no program given"
[[ ! $iperf ]] || ((!${#program[@]})) || wrong "--iperf and a program exclude each other"
[[ ! $iperf ]] || command -v iperf3 >/dev/null || die "--iperf needs iperf3 (package iperf3)"
[[ ! $iperf ]] || ((hosts >= 2)) || wrong "--iperf needs two hosts"

# ---- making and removing the cluster
prefix=cardea-$$-
holders=() watcher=''
work=$(mktemp -d "${TMPDIR:-/tmp}/${prefix}XXXXXX")
finish() {
  local status=$?
  trap - EXIT
  trap '' INT TERM HUP QUIT PIPE
  exec 2>/dev/null  # bash would report every process that it sees killed
  remove_namespaces "$prefix"
  rm -rf "$work"
  kill -KILL -- "-$watcher" || true  # its whole session
  exit "$status"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 131' QUIT
trap 'exit 141' PIPE
trap 'exit 143' TERM
setsid bash "$0" --clean-after $$ <>/dev/null >&0 2>&0 &
watcher=$!
disown

address() { echo "10.77.${2-0}.$(($1 + 1))"; }  # HOST [NIC]
# bridge NIC, port HOST NIC: their names
bridge() { echo "bridge${1#0}"; }
port() { if (($2)); then echo "port$1.$2"; else echo "port$1"; fi; }

shape() {  # NAMESPACE DEVICE: a bucket of 4 ms, since a timer may be that late, and of at least two of the largest packets
  [[ -z $gbit ]] || tc -n "$1" qdisc add dev "$2" root tbf latency 20ms \
    $(awk -v gbit="$gbit" 'BEGIN {burst = gbit * 1e9 / 8 * 0.004; if (burst < 131072) burst = 131072
                                  printf "rate %dkbit burst %d", gbit * 1e6, burst}')
}

add_namespace() {
  ip netns add "$1"
  ip netns exec "$1" sh -c 'for f in all default; do echo 1 >/proc/sys/net/ipv6/conf/$f/disable_ipv6; done' 2>/dev/null || true
  ip -n "$1" link set lo up
}

make_cluster() {
  local switch=${prefix}switch host nic ns name
  add_namespace "$switch"
  for ((nic = 0; nic < nics; nic++)); do
    ip -n "$switch" link add "$(bridge $nic)" type bridge mcast_snooping 0
    ip -n "$switch" link set "$(bridge $nic)" up
  done
  for ((host = 0; host < hosts; host++)); do
    ns=$prefix$host name=cardea-host$host
    add_namespace "$ns"
    for ((nic = 0; nic < nics; nic++)); do
      ip -n "$switch" link add "$(port $host $nic)" type veth peer name "eth$nic" netns "$ns"
      ip -n "$switch" link set "$(port $host $nic)" master "$(bridge $nic)" up
      ip -n "$ns" address add "$(address $host $nic)/24" dev "eth$nic"
      ip -n "$ns" link set "eth$nic" up
      shape "$switch" "$(port $host $nic)"
      shape "$ns" "eth$nic"
    done
    # This process holds the host's name for as long as the cluster lives.
    ip netns exec "$ns" unshare --uts sh -c "echo $name >/proc/sys/kernel/hostname && exec sleep infinity" >/dev/null 2>&1 &
    holders[host]=$!
    disown $!
  done
  for ((host = 0; host < hosts; host++)); do
    until [[ $(nsenter --uts=/proc/${holders[host]}/ns/uts cat /proc/sys/kernel/hostname 2>/dev/null) == "cardea-host$host" ]]; do
      kill -0 "${holders[host]}" 2>/dev/null || die "could not give host $host its name"
      sleep 0.01
    done
  done
}

# on HOST COMMAND...: replaces the calling (sub)shell.
on() { exec ip netns exec "$prefix$1" nsenter --uts="/proc/${holders[$1]}/ns/uts" "${@:2}"; }

# counters HOST: bytes and packets sent and received, and bytes over lo; then bytes sent and received on each NIC; in one line
counters() {
  (on "$1" sh -c 'cd /sys/class/net && cat eth?/statistics/tx_bytes eth?/statistics/rx_bytes eth?/statistics/tx_packets \
    eth?/statistics/rx_packets lo/statistics/tx_bytes' | paste -sd ' ' - | awk -v nics="$nics" '{
      for (kind = 0; kind < 4; kind++) {
        sum = 0
        for (nic = 1; nic <= nics; nic++) sum += $(kind * nics + nic)
        printf "%.0f ", sum
      }
      printf "%s", $(4 * nics + 1)
      for (nic = 1; nic <= nics; nic++) printf " %s %s", $nic, $(nics + nic)
      print ""}')
}

# ---- what runs on it
run_ranks() {
  local world=$((hosts * ranks_per_host)) rank host local_rank port timer ended status=0 code running
  local -A rank_of=()
  port=$((20000 + RANDOM % 10000))  # nothing else listens in namespaces this new
  (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$work/secret")
  for ((rank = 0; rank < world; rank++)); do
    host=$((rank / ranks_per_host)) local_rank=$((rank % ranks_per_host))
    (on "$host" env --default-signal=INT,QUIT UCX_TLS="${UCX_TLS-tcp,self}" CARDEA_JOB="cluster-$$" CARDEA_SECRET_FILE="$work/secret" \
      CARDEA_ROOT="$(address 0):$port" CARDEA_RANK=$rank CARDEA_WORLD_SIZE=$world \
      RANK=$rank WORLD_SIZE=$world LOCAL_RANK=$local_rank LOCAL_WORLD_SIZE="$ranks_per_host" \
      MASTER_ADDR="$(address 0)" MASTER_PORT=$port "${program[@]}") &
    rank_of[$!]=$rank
  done
  (on 0 sleep "$timeout" >/dev/null 2>&1) &  # on a host, so that it goes when the host does
  timer=$!
  for ((running = world; running > 0;)); do
    code=0
    wait -n -p ended "${!rank_of[@]}" "$timer" || code=$?
    if [[ $ended == "$timer" ]]; then
      echo "cluster.sh: $running of $world ranks still ran after $timeout s" >&2
      return 124
    fi
    running=$((running - 1))
    if ((code)); then
      echo "cluster.sh: rank ${rank_of[$ended]} on cardea-host$((rank_of[$ended] / ranks_per_host)) ended with status $code" >&2
      ((status)) || status=$code
    fi
    unset "rank_of[$ended]"
  done
  return "$status"
}

# A signal is heard at once only while bash waits, not while it runs something in the foreground.
iperf_client() {  # NIC
  (on 0 iperf3 --client "$(address 1 "$1")" --time 5 --json) >"$work/iperf$1" 2>&1 &
  wait $! && grep -q sum_received "$work/iperf$1"
}
measure_nic() {  # NIC
  (on 1 iperf3 --server --one-off --bind "$(address 1 "$1")" >/dev/null) &
  until iperf_client "$1"; do
    grep -q 'Connection refused' "$work/iperf$1" || { cat "$work/iperf$1" >&2; return 1; }
    sleep 0.05  # the server is about to listen
  done
}
measure_iperf() {
  local nic measuring=()
  for ((nic = 1; nic < nics; nic++)); do
    measure_nic $nic &
    measuring+=($!)
  done
  measure_nic 0
  for nic in "${measuring[@]}"; do wait "$nic" || return 1; done
}

# ---- tables
print_counters() {
  local host
  for ((host = 0; host < hosts; host++)); do echo "$host ${before[host]} ${after[host]}"; done |
    awk -v ranks="$ranks_per_host" -v nics="$nics" -v json="$json" -v seconds="$1" -v iperf="$2" '
      function megabytes(bytes) {return sprintf("%.3f", bytes / 1e6)}
      BEGIN {printf "\n%-14s %6s %12s %12s %13s %13s %13s\n", "host", "ranks", "sent MB", "received MB", "packets sent", "packets recv", "loopback MB"}
      {
        fields = 5 + 2 * nics
        for (i = 1; i <= fields; i++) {delta[i] = $(i + fields + 1) - $(i + 1); if (i <= 5) sum[i] += delta[i]}
        received[$1] = delta[2]
        each = each_received = ""
        for (nic = 0; nic < nics; nic++) {
          each = each (nic ? ", " : "") sprintf("%.0f", delta[6 + 2 * nic])
          each_received = each_received (nic ? ", " : "") sprintf("%.0f", delta[7 + 2 * nic])
          share[$1, nic] = sprintf("%-14s %6s %12s %12s", "cardea-host" $1, "eth" nic, megabytes(delta[6 + 2 * nic]), megabytes(delta[7 + 2 * nic]))
        }
        printf "%-14s %6d %12s %12s %13d %13d %13s\n", "cardea-host" $1, ranks, megabytes(delta[1]), megabytes(delta[2]), delta[3], delta[4], megabytes(delta[5])
        rows = rows sprintf("%s\n    {\"host\": \"cardea-host%d\", \"ranks\": %d, \"sent_bytes\": %d, \"received_bytes\": %d, \"sent_packets\": %d, \"received_packets\": %d, \"loopback_bytes\": %d, \"nics_sent\": [%s], \"nics_received\": [%s]}",
                            rows == "" ? "" : ",", $1, ranks, delta[1], delta[2], delta[3], delta[4], delta[5], each, each_received)
      }
      END {
        printf "%-14s %6d %12s %12s %13d %13d %13s\n", "all", ranks * NR, megabytes(sum[1]), megabytes(sum[2]), sum[3], sum[4], megabytes(sum[5])
        if (nics > 1) {
          printf "\n%-14s %6s %12s %12s\n", "host", "NIC", "sent MB", "received MB"
          for (host = 0; host < NR; host++) for (nic = 0; nic < nics; nic++) print share[host, nic]
        }
        if (iperf != "") {  # host 0 sent, host 1 received
          split(iperf, figure, " ")
          ratio = received[1] / figure[1]
          printf "\ngoodput %.1f MB/s (%.3f Gbit/s), bytes received on the link / bytes of payload: %.4f\n", figure[2] / 8e6, figure[2] / 1e9, ratio
          rows = rows sprintf("\n  ],\n  \"iperf\": {\"payload_bytes\": %.0f, \"bits_per_second\": %.0f, \"received_ratio\": %.5f}", figure[1], figure[2], ratio)
        } else {
          rows = rows "\n  ]"
        }
        if (json != "") printf "{\n  \"seconds\": %s,\n  \"hosts\": [%s\n}\n", seconds, rows >json
      }'
}

# What the receiver got: its bytes and its bits per second (all but the last values of iperf3's JSON are of single seconds
# or streams); summed over the NICs.
iperf_figures() {
  awk '
    BEGIN {FS = "[:,[:space:]]+"}
    {for (i = 1; i < NF; i++) if ($i ~ /^"/) value[$i] = $(i + 1)}
    /"sum_received"/ {inside = 1}
    inside && /"bytes"/ {received += value["\"bytes\""]}
    inside && /"bits_per_second"/ {rate += value["\"bits_per_second\""]; inside = 0}
    END {printf "%.0f %.0f\n", received, rate}' "$work"/iperf?
}

make_cluster
before=() after=()
for ((host = 0; host < hosts; host++)); do before[host]=$(counters $host); done
began=$EPOCHREALTIME
status=0
if [[ $iperf ]]; then measure_iperf || status=$?; else run_ranks || status=$?; fi
seconds=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.3f", b - a}')
for ((host = 0; host < hosts; host++)); do after[host]=$(counters $host); done
figures=''
if [[ $iperf ]] && ((!status)); then figures=$(iperf_figures); fi
print_counters "$seconds" "$figures"
exit "$status"
