#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Prints the project's own files, each ended by a zero byte: what git tracks or would, else (in a release archive) all
# that is not built.
set -euo pipefail
cd "$(dirname "$0")/../.."
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
  git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    [[ ! -f $file ]] || printf '%s\0' "$file"
  done
else
  find . -path ./build -prune -o -type f -printf '%P\0'
fi
