#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# pkg_config.sh LIBDIR WORKDIR CC CXX: builds and runs the consumer programs by pkg-config alone; then once more from a
# copy of the installed tree, which must not refer to the place it was installed to.
set -euo pipefail
libdir=$1 work=$2 cc=$3 cxx=$4
here=$(cd "$(dirname "$0")" && pwd)
prefix=$(PKG_CONFIG_PATH=$libdir/pkgconfig pkg-config --variable=prefix cardea)
prefix=$(realpath "$prefix")
relative_libdir=$(realpath --relative-to="$prefix" "$libdir")
rm -rf "$work"
mkdir -p "$work/moved"

# build_and_run LIBDIR
build_and_run() {
  local lib=$1 flags
  export PKG_CONFIG_PATH=$lib/pkgconfig
  read -ra flags <<<"$(pkg-config --cflags --libs cardea)"
  [[ $(realpath "$(pkg-config --variable=libdir cardea)") == "$(realpath "$lib")" ]] ||
    { echo "cardea.pc in $lib names the library directory $(pkg-config --variable=libdir cardea)"; exit 1; }
  "$cc" -std=c11 -Wall -Wextra -Werror "$here/consumer/consumer.c" -o "$work/consumer_c" "${flags[@]}"
  "$cxx" -std=c++20 -Wall -Wextra -Werror "$here/consumer/consumer.cc" -o "$work/consumer_cxx" "${flags[@]}"
  LD_LIBRARY_PATH=$lib "$work/consumer_c"
  LD_LIBRARY_PATH=$lib "$work/consumer_cxx"
}

build_and_run "$libdir"
cp -a "$prefix/." "$work/moved/"
build_and_run "$work/moved/$relative_libdir"
