#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# command_test.sh BIN: `cardea doctor` from outside: alone, under a launcher as four ranks on two nodes, and in environments
# that are wrong. Exit statuses: 0 all is well, 1 something is off, 2 wrong options or out of time.
set -uo pipefail
bin=$1
command -v python3 >/dev/null || { echo "skipped: no python3 here"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for name in $(compgen -v CARDEA_) $(compgen -v UCX_); do unset "$name"; done
export HOME=$work TMPDIR=$work
failures=0
fail() {
  echo "FAILED: $1"
  cat "$work/out" "$work/err"
  failures=$((failures + 1))
}
# doctor STATUSES ARGUMENTS...: must end with one of the statuses, within its time
doctor() {
  local statuses=$1 got=0
  shift
  timeout 120 "$@" >"$work/out" 2>"$work/err" || got=$?
  [[ " $statuses " == *" $got "* ]] || fail "$* ended with $got, not with one of $statuses"
}
has() { grep -qF -- "$1" "$work/out" || fail "\"$1\" is missing"; }
# look EXPRESSION: Python, of the JSON in `report`
look() {
  python3 - "$work/out" "$1" <<'PYTHON' || fail "not so: $1"
import json, sys
report = json.load(open(sys.argv[1]))
kinds = [finding["kind"] for finding in report["findings"]]
peers = [(member["rank"], peer) for member in report["members"] for peer in member["peers"]]
sys.exit(0 if eval(sys.argv[2]) else 1)
PYTHON
}

# Alone: it forms a job of its own, in the shell of a Slurm allocation too. Whether this machine is in order is not this
# test's business.
doctor '0 1' env SLURM_NTASKS=8 SLURM_JOB_ID=1 "$bin/cardea" doctor --json
look 'report["ok"] == all(finding["severity"] == "note" for finding in report["findings"])'
look 'not [kind for kind in kinds if kind.startswith(("job.", "environment."))]'
look 'len(report["members"]) == 4 and len(peers) == 8'
look 'sum(peer["path"] == "network" and peer["way"].startswith("ucx tcp/") for _, peer in peers) == 4'
look 'sum(peer["path"] == "node-mapped" and peer["way"] == "shm" for _, peer in peers) == 4'
look 'all(peer["seconds"] > 0 and peer["bytes_per_second"] > 0 and not peer["error"] for _, peer in peers)'
look '{"library", "machine", "kernel and limits", "environment"} <= set(report["sections"])'

# Under a launcher: rank 0 tells of all, the others nothing.
doctor '0 1' "$bin/cardea" run -n 4 --nodes 2 -- "$bin/cardea" doctor
has "the launcher's job: 4 ranks"
[[ $(grep -c '^library' "$work/out") == 1 ]] || fail "one rank tells, not several"
[[ $(grep -cE '^ +[0-3] +[0-3] +[0-9]+  .* network ' "$work/out") == 4 ]] || fail "not four paths over the network"
! ls "$work"/cardea-doctor-* >/dev/null 2>&1 || fail "UCX's logs are left behind"

# A rank that never comes: told in time, by those that came.
doctor '1' env CARDEA_WORLD_SIZE=2 CARDEA_RANK=0 CARDEA_ROOT=127.0.0.1:0 CARDEA_JOB=x "$bin/cardea-doctor" --timeout 8 --json
look '"job.form" in kinds'

# Environments that are wrong.
echo 'a secret of some length, for others to read' >"$work/secret"
chmod 644 "$work/secret"
doctor '1' env CARDEA_SECRET_FILE="$work/secret" CARDEA_CHUNKS_IN_FLIGT=4 CARDEA_LIVENESS_LIMIT=soon UCX_TLS=posix,self \
  UCX_NET_DEVICES=mlx5_77:1 CARDEA_ROOT=127.0.0.1:1 CARDEA_TOPO_FILE="$work/none.xml" \
  bash -c 'ulimit -S -n 200; exec "$0" "$@"' "$bin/cardea-doctor" --json --no-job
for kind in environment.secret environment.unknown-variable environment.settings environment.ucx-transports \
  environment.ucx-devices environment.root limits.descriptors machine.topology; do
  look "'$kind' in kinds"
done
look 'any("CARDEA_CHUNKS_IN_FLIGHT?" in finding["advice"] for finding in report["findings"])'
look 'report["ok"] is False and report["members"] == []'
# A setting that stops every job: the job of its own says so, too.
doctor '1' env CARDEA_CHUNK_BYTES=lots "$bin/cardea-doctor" --json
look '"job.form" in kinds and any("CARDEA_CHUNK_BYTES" in finding["what"] for finding in report["findings"])'

doctor '2' "$bin/cardea-doctor" --frobnicate
doctor '2' "$bin/cardea" frobnicate
doctor '2' "$bin/cardea"
doctor '0' "$bin/cardea" --help
has 'doctor'
doctor '0' "$bin/cardea" doctor --help
has 'Exit status'
exit $((failures != 0))
