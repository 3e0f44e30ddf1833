#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# cardea-topo from outside: exit statuses (0 fine, 1 findings, 2 error), messages, JSON. usage: tool_test.sh TOOL MACHINES
set -u
tool=$1 machines=$2
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
unset CARDEA_TOPO_FILE NCCL_TOPO_FILE CUDA_VISIBLE_DEVICES
export CARDEA_TOPO_MEASURED="$work/measured.json"
failures=0
# expect STATUS TEXT ARGUMENTS...: the tool must end so and print TEXT
expect() {
  status=$1 text=$2
  shift 2
  "$tool" "$@" >"$work/out" 2>&1
  got=$?
  if [ $got -ne "$status" ] || ! grep -qF -- "$text" "$work/out"; then
    echo "FAILED: $* gave $got, expected $status and \"$text\":"
    cat "$work/out"
    failures=$((failures + 1))
  fi
}
expect 0 'NV12' show --file "$machines/dgx-a100.xml"
expect 0 '"fingerprint"' show --json --file "$machines/dgx-a100.xml"
if command -v python3 >/dev/null; then
  python3 -c 'import json, sys; machine = json.load(open(sys.argv[1])); assert len(machine["ranks"]) == 8' "$work/out" || failures=$((failures + 1))
fi
expect 0 'pcie-up:SW0>NUMA0' show --file "$machines/dgx-a100.xml" --path GPU0,NUMA0
expect 0 'memory:NUMA0' show --file "$machines/dgx-a100.xml" --path GPU0,GPU5 --host
expect 2 'no device "GPU99"' show --file "$machines/dgx-a100.xml" --path GPU0,GPU99
expect 0 'NIC3' show --file "$machines/dgx-a100.xml" --affinity 'rank=0 nic=NIC3'
expect 2 'names no rank' show --file "$machines/dgx-a100.xml" --affinity 'nic=NIC3'
expect 0 'nothing looks wrong' check --file "$machines/dgx-a100.xml"
awk '!done && sub(/link_width="16"/, "link_width=\"4\"") {done = 1} {print}' "$machines/dgx-a100.xml" >"$work/narrow.xml"
expect 1 'narrow-uplink' check --file "$work/narrow.xml"
: >"$work/empty.xml"
expect 2 'the file is empty' check --file "$work/empty.xml"
expect 2 'No such file' show --file "$work/none.xml"
expect 2 '' frobnicate
expect 0 'source: this machine' show
CARDEA_TOPO_FILE="$work/empty.xml" expect 2 'the file is empty' show
# CARDEA_AFFINITY, as a rank reads it; of somebody else's machine it says nothing.
expect 0 'rails: NICs by which its chunks come' show
CARDEA_AFFINITY='nic=lo' expect 0 '0     lo' show
CARDEA_AFFINITY='nic=lo' expect 0 'CARDEA_AFFINITY is "nic=lo"' show
CARDEA_AFFINITY='nic=lo rails=1' expect 0 '"rails": [' show --json
CARDEA_AFFINITY=off expect 0 'CARDEA_AFFINITY is "off": none of this is used' show
CARDEA_AFFINITY='nic=lo' expect 0 '0     as UCX chooses' show --affinity rank=0
for wrong in 'nic=no-such' 'rails=0' 'rails=5' 'rails=two' 'nic=lo rails=2' 'nic=lo,lo' 'sideways'; do
  CARDEA_AFFINITY="$wrong" expect 2 "CARDEA_AFFINITY is \"$wrong\"" show
done
CARDEA_AFFINITY='nic=no-such' expect 0 'NV12' show --file "$machines/dgx-a100.xml"
expect 2 'is no number of rails' show --file "$machines/dgx-a100.xml" --affinity 'rank=0 rails=9'
expect 0 'lanes measured' measure --no-gpus --mebibytes 4
expect 0 'measured' show --json
exit $failures
