#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# naming.sh BUILD_DIR JOBS: clang-tidy's naming rules (.clang-tidy) over every source that BUILD_DIR compiles.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$1 jobs=$2
command -v clang-tidy >/dev/null || { echo "clang-tidy is not installed"; exit 1; }
# The compiler's precompiled headers mean nothing to clang; the headers that they stand for are included in any case.
database=$(mktemp -d)
trap 'rm -rf "$database"' EXIT
sed -E 's# -Winvalid-pch##g; s# -include [^ "]*cmake_pch\.hxx##g; s# -fpch-preprocess##g; s# -Wno-tsan##g' \
  "$build/compile_commands.json" >"$database/compile_commands.json"
sed -nE 's/^ *"file": "(.*)",?$/\1/p' "$database/compile_commands.json" | sort -u |
  grep -E "^$PWD/(lib|topology|examples|perf|tests)/" >"$database/files"
[[ -s $database/files ]] || { echo "$build compiles none of our files"; exit 1; }
xargs -P "$jobs" -n 4 clang-tidy --quiet -p "$database" <"$database/files" >"$database/said" 2>/dev/null || true
# Old clangs reject some of C++20 (captured structured bindings, for one) and pass over such a piece; that is not a name.
grep -A 2 'readability-identifier-naming' "$database/said" && exit 1
errors=$(sed -nE 's/^([^ ]+):[0-9]+:[0-9]+: error: .*/\1/p' "$database/said" | sort -u)
[[ -z $errors ]] || printf 'not wholly understood by this clang:\n%s\n' "$errors"
echo "$(wc -l <"$database/files") files"
