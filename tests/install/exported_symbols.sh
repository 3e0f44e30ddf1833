#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# exported_symbols.sh LIBRARY HEADER: the library exports each function that the header declares, and nothing else.
set -euo pipefail
library=$1 header=$2
declared=$(grep -v '^ *#' "$header" | tr '\n' ' ' | grep -oE 'CARDEA_API [^;()]*\(' | sed -E 's/ *\($//; s/.*[ *]//' | LC_ALL=C sort)
exported=$(nm --dynamic --defined-only --format=posix "$library" | awk '{print $1}' | LC_ALL=C sort)
[[ -n $declared ]] || { echo "found no declaration in $header"; exit 1; }
missing=$(LC_ALL=C comm -23 <(echo "$declared") <(echo "$exported"))
leaked=$(LC_ALL=C comm -13 <(echo "$declared") <(echo "$exported") | c++filt)
[[ -z $missing ]] || printf 'declared in cardea.h, but not exported:\n%s\n' "$missing"
[[ -z $leaked ]] || printf 'exported, but not declared in cardea.h:\n%s\n' "$leaked"
[[ -z $missing && -z $leaked ]] || exit 1
echo "exports $(wc -l <<<"$exported") functions"
