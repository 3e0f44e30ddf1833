#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs the fuzz targets; --help tells more.
set -euo pipefail

usage() {
  cat <<'END'
usage: tests/fuzz/run.sh [--seconds N] [--input-timeout N] [--jobs N] [--no-build] [--pack FILE] [--list] [TARGET...]

Builds the fuzz targets (preset fuzz: clang, libFuzzer, Address and Undefined Behavior Sanitizer), runs each of them, or
those named, for N seconds, --jobs at a time, and prints a table: seconds, inputs executed, findings. Corpora grow in
corpus/TARGET beside the programs' folder, from seeds that the targets make; inputs that failed are kept in findings/.

  --seconds N   for each target (default 60)
  --input-timeout N
                an input that takes longer than N seconds is a finding (default 10; more where the machine is shared)
  --jobs N      targets at a time (default: the number of cores)
  --no-build    runs what has been built, or what this script was unpacked with
  --pack FILE   instead of running, makes a .tar.gz to be run elsewhere: stripped programs, corpora, shared libraries and
                this script. There: tar xzf FILE && ./run.sh --no-build --seconds 600
  --list        the targets: name, largest input, what they read

Exit status: 0 without findings; 1 with some, or if a target ended early; 2: wrong options.
END
}
wrong() {
  echo "tests/fuzz/run.sh: $1 (--help lists the options)" >&2
  exit 2
}

seconds=60 input_timeout=10 jobs=$(nproc) build=1 pack= list= chosen=()
while (($#)); do
  case $1 in
    --seconds) [[ ${2-} =~ ^[1-9][0-9]*$ ]] || wrong "--seconds takes a number, not '${2-}'"; seconds=$2; shift 2 ;;
    --input-timeout) [[ ${2-} =~ ^[1-9][0-9]*$ ]] || wrong "--input-timeout takes a number, not '${2-}'"; input_timeout=$2; shift 2 ;;
    --jobs|-j) [[ ${2-} =~ ^[1-9][0-9]*$ ]] || wrong "--jobs takes a number, not '${2-}'"; jobs=$2; shift 2 ;;
    --no-build) build=; shift ;;
    --pack) [[ -n ${2-} ]] || wrong "--pack takes a file"; pack=$(realpath -m "$2"); shift 2 ;;
    --list) list=1; shift ;;
    --help|-h) usage; exit 0 ;;
    -*) wrong "unknown option '$1'" ;;
    *) chosen+=("$1"); shift ;;
  esac
done

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ -x $here/bin/cardea_fuzz ]]; then  # unpacked
  base=$here
  export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
else
  source_root=$(cd "$here/../.." && pwd)
  base=$source_root/build/fuzz
  if [[ $build ]]; then
    mkdir -p "$base"
    echo "building (the output is in $base/build.log)"
    (cd "$source_root" && cmake --preset fuzz && cmake --build --preset fuzz -j "$jobs" --target cardea_fuzz) >"$base/build.log" 2>&1 ||
      { tail -n 50 "$base/build.log" >&2; exit 1; }
  fi
fi
program=$base/bin/cardea_fuzz
[[ -x $program ]] || wrong "$program is not there: build it first"
if [[ $list ]]; then
  "$program" --list
  exit
fi

declare -A most=()
all=()
while read -r name bytes _; do
  all+=("$name")
  most[$name]=$bytes
done < <("$program" --list)
for name in "${chosen[@]}"; do [[ ${most[$name]-} ]] || wrong "there is no target '$name'"; done
((${#chosen[@]})) || chosen=("${all[@]}")

if [[ $pack ]]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  mkdir "$folder/bin" "$folder/lib" "$folder/corpus"
  strip -g -o "$folder/bin/cardea_fuzz" "$program"
  cp "${BASH_SOURCE[0]}" "$folder/run.sh"
  for name in "${chosen[@]}"; do
    ln -s cardea_fuzz "$folder/bin/${name}_fuzz"
    [[ ! -d $base/corpus/$name ]] || cp -r "$base/corpus/$name" "$folder/corpus/"
  done
  # What a machine with the same C library may lack; UCX loads its parts from a folder beside itself.
  ldd "$program" | awk '$3 ~ /^\// && $1 !~ /^(libc|libm|libdl|librt|libpthread|ld-linux.*)\.so/ {print $3}' |
    while read -r library; do cp -L "$library" "$folder/lib/"; done
  ucx_parts=$(dirname "$(ldd "$program" | awk '$1 ~ /^libuct/ {print $3}')")/ucx
  [[ ! -d $ucx_parts ]] || cp -rL "$ucx_parts" "$folder/lib/ucx"
  tar czf "$pack" -C "$folder" .
  du -h "$pack"
  exit
fi

findings=$base/findings
logs=$base/logs
mkdir -p "$findings" "$logs" "$base/corpus"

# fuzz NAME: one target; its log tells what became of it.
fuzz() {
  local name=$1
  rm -f "$logs/$name.log" "$logs/$name.status"
  mkdir -p "$base/corpus/$name"
  local status=0 leaks=1
  # UCX does not free all that it has allocated.
  [[ $name != ucx_receive ]] || leaks=0
  ASAN_OPTIONS=detect_odr_violation=0:detect_leaks=$leaks:${ASAN_OPTIONS-} "$base/bin/${name}_fuzz" -max_total_time="$seconds" \
    -max_len="${most[$name]}" -timeout="$input_timeout" -report_slow_units="$input_timeout" -rss_limit_mb=2048 -print_final_stats=1 -detect_leaks=$leaks \
    -artifact_prefix="$findings/$name-" "$base/corpus/$name" >"$logs/$name.log" 2>&1 || status=$?
  echo "$status" >"$logs/$name.status"
}
value() { sed -n "s/^stat::$2: *//p" "$logs/$1.log" 2>/dev/null | tail -1; }

# A finding ends its target, so each run has at most one; older ones stay in the folder, and are not counted.
find "$findings" -type f -name '*-*' -newermt '1970-01-01' -printf '%f\n' | sort >"$logs/before"
began=$SECONDS
running=0 done_count=0
for name in "${chosen[@]}"; do
  while (($(jobs -rp | wc -l) >= jobs)); do wait -n || true; done
  fuzz "$name" &
  printf '\r%d of %d targets begun, %d s ' "$((++done_count))" "${#chosen[@]}" "$((SECONDS - began))"
done
while running=$(jobs -rp | wc -l) && ((running > 0)); do
  printf '\r%d of %d targets run, %d s    ' "$running" "${#chosen[@]}" "$((SECONDS - began))"
  sleep 1
done
printf '\n\n%-22s %8s %12s %9s\n' target seconds executions findings
found=0 total=0
for name in "${chosen[@]}"; do
  count=$(find "$findings" -type f -name "$name-*" -printf '%f\n' | sort | comm -13 "$logs/before" - | wc -l)
  status=$(cat "$logs/$name.status" 2>/dev/null || echo 1)
  executed=$(value "$name" number_of_executed_units)
  spent=$(sed -n 's/^Done [0-9]* runs in \([0-9]*\) second.*/\1/p' "$logs/$name.log" | tail -1)
  note=
  if ((status != 0)); then
    note=" see $logs/$name.log"
    ((count > 0)) || note=" ended early (status $status):$note"
    found=$((found + (count > 0 ? count : 1)))
  fi
  total=$((total + ${executed:-0}))
  printf '%-22s %8s %12s %9d%s\n' "$name" "${spent:--}" "${executed:--}" "$count" "$note"
done
printf '%-22s %8d %12d %9d\n' "in all" "$((SECONDS - began))" "$total" "$found"
((found == 0))
