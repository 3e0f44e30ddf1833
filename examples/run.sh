#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Sets up, builds and runs Cardea's main example; --help tells more.
set -euo pipefail

usage() {
  cat <<'END'
usage: examples/run.sh [OPTION... for moe_forward]

Installs what is missing (Debian 12, Ubuntu 24.04; as root or by sudo), builds build/release, and runs a real
Mixture-of-Experts layer on this machine as four ranks on two nodes:

  build/release/bin/cardea-run -n 4 --nodes 2 build/release/bin/moe_forward OPTION...

Every option goes to moe_forward; after a first run, build/release/bin/moe_forward --help lists them.
Exit status: that of cardea-run, 0 if the result was right; 1 if set-up or build failed.
END
}
if [[ ${1-} == --help || ${1-} == -h ]]; then
  usage
  exit 0
fi

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
# shellcheck source=../cmake/setup.sh
source cmake/setup.sh

cardea_install "${cardea_build_packages[@]}"
cardea_quiet build/release/configure.log "configuring build/release" cmake --preset release || exit 1
cardea_quiet build/release/build.log "building the library, the launcher and the example" \
  cmake --build --preset release --target cardea cardea-run moe_forward || exit 1

run=(build/release/bin/cardea-run -n 4 --nodes 2 build/release/bin/moe_forward "$@")
printf '%s\n' "${run[*]}"
exec "${run[@]}"
