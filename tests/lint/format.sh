#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every C and C++ file is as clang-format 14 writes it. Other versions differ, so without it the check is skipped (77).
set -euo pipefail
cd "$(dirname "$0")/../.."
for format in clang-format-14 clang-format; do
  [[ $("$format" --version 2>/dev/null) =~ version\ 14\. ]] && break
  format=
done
[[ -n $format ]] || { echo "skipped: no clang-format 14 here"; exit 77; }
# The C header is set by hand, as tables.
mapfile -d '' files < <(tests/lint/files.sh | grep -zE '\.(c|cc|h|hpp|cu|cuh)$' | grep -zvx 'include/cardea/cardea\.h')
((${#files[@]})) || { echo "found no source file"; exit 1; }
wrong=()
for file in "${files[@]}"; do
  "$format" "$file" | cmp -s - "$file" || wrong+=("$file")
done
((!${#wrong[@]})) || { printf 'run: %s -i %s\n' "$format" "${wrong[*]}"; exit 1; }
echo "${#files[@]} files"
