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
sed -nE 's/^ *"file": "(.*)",?$/\1/p' "$database/compile_commands.json" | sort -u | grep -E "^$PWD/(lib|topology|examples|perf|tests)/" |
  xargs -P "$jobs" -n 4 clang-tidy --quiet -p "$database"
