#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# soname.sh LIBDIR SONAME: the library says SONAME, and the links lead from libcardea.so over it to one real file.
set -euo pipefail
libdir=$1 expected=$2
found=$(objdump -p "$libdir/libcardea.so" | awk '$1 == "SONAME" {print $2}')
[[ $found == "$expected" ]] || { echo "SONAME is '$found', not $expected"; exit 1; }
[[ -L $libdir/libcardea.so && -L $libdir/$expected ]] || { echo "libcardea.so or $expected is not a link"; ls -l "$libdir"; exit 1; }
[[ $(realpath "$libdir/libcardea.so") == "$(realpath "$libdir/$expected")" ]] || { ls -l "$libdir"; exit 1; }
echo "$found -> $(basename "$(realpath "$libdir/$expected")")"
