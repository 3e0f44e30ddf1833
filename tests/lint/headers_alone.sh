#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# headers_alone.sh CC CXX JOBS FLAG...: every header compiles when it is all that a file includes (and twice in it), and
# cardea.h also as C. Checks the syntax only: nothing is written.
set -euo pipefail
cc=$1 cxx=$2 jobs=$3
shift 3
cd "$(dirname "$0")/../.."
folders=()
for folder in include lib topology tests/support; do [[ ! -d $folder ]] || folders+=("$folder"); done
mapfile -d '' headers < <(find "${folders[@]}" \( -name '*.h' -o -name '*.hpp' \) ! -path lib/precompiled.h -print0 | sort -z)
((${#headers[@]})) || { echo "found no header"; exit 1; }

for standard in c99 c11 gnu17; do
  printf '#include <cardea/cardea.h>\n%.0s' 1 2 |
    "$cc" -x c -std="$standard" -Wall -Wextra -Wpedantic -Werror -fsyntax-only -Iinclude - || { echo "cardea.h is not $standard"; exit 1; }
done

check() {
  local header=$1
  shift
  printf "#include \"$header\"\n%.0s" 1 2 | "$@" - || { echo "does not compile alone: $header"; return 1; }
}
export -f check
printf '%s\0' "${headers[@]}" | xargs -0 -P "$jobs" -I '{}' bash -c 'check "$@"' check '{}' \
  "$cxx" -x c++ -std=c++20 -Wall -Wextra -Werror -fsyntax-only "$@" || exit 1
echo "${#headers[@]} headers compile alone"
