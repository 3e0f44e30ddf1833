#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The tests that README.md names are there, and so are all targets in it.
set -euo pipefail
cd "$(dirname "$0")"
wrong=0
say() { echo "$1"; wrong=1; }
while read -r suite name; do
  if [[ $name == '*' ]]; then
    grep -rqE "TEST(_F|_P)?\($suite, " ../ --include='*.cc' || say "there is no test of $suite"
  else
    grep -rqE "TEST(_F|_P)?\($suite, $name\)" ../ --include='*.cc' || say "there is no test $suite.$name"
  fi
done < <(grep -oE '`[A-Z][A-Za-z0-9]+\.([A-Z][A-Za-z0-9]+|\*)`' README.md | tr -d '`' | sed 's/\./ /')
for target in targets/*.cc; do
  name=$(basename "$target" .cc)
  grep -q "^|.*\`$name\`" README.md || say "README.md does not tell of the target $name"
done
exit "$wrong"
