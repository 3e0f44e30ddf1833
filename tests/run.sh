#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Sets up, builds and tests Cardea; --help tells more.
set -euo pipefail

usage() {
  cat <<'END'
usage: tests/run.sh [--preset NAME]... [--lint] [--gpu] [--full] [-j JOBS] [-R REGEX]
       tests/run.sh --chaos SECONDS [--seed N] [--preset NAME]

Installs what is missing (Debian 12, Ubuntu 24.04; as root or by sudo), then configures, builds and tests each preset in
build/NAME. Shows each phase, what fails, what is skipped, and ctest's summary of each preset at the end.

  --preset NAME  release, debug, asan or tsan; may be given several times (default: release)
  --lint         also check the names in every source file by clang-tidy (a few minutes; must be installed)
  --gpu          only the tests that use the machine's GPUs, one at a time
  --full         then runs every case of the kill matrix, not only those of each run (a few minutes)
  -j JOBS        how many compilers and tests run at once (default: the number of cores)
  -R REGEX       only tests whose names match, as for ctest
  --chaos SECONDS  instead of the tests, random jobs under random kills, stops and cancels for so long, every byte of
                 every view checked (the tests have a minute of it); prints its seed, by which it can be repeated
  --seed N       of the chaos run

Exit status: 0 if every preset was built, at least one test ran in each and none failed; else 1; 2: wrong options.
END
}
wrong() {
  echo "tests/run.sh: $1 (--help lists the options)" >&2
  exit 2
}

presets=()
lint= full=
chaos=
seed=()
jobs=$(nproc)
jobs_of_tests=
select=()
while (($#)); do
  case $1 in
    --preset) [[ ${2-} =~ ^(release|debug|asan|tsan)$ ]] || wrong "--preset takes release, debug, asan or tsan, not '${2-}'"
              presets+=("$2"); shift 2 ;;
    -j) [[ ${2-} =~ ^[1-9][0-9]*$ ]] || wrong "-j takes a number, not '${2-}'"
        jobs=$2; shift 2 ;;
    -j[1-9]*) set -- -j "${1#-j}" "${@:2}" ;;
    -R) [[ -n ${2-} ]] || wrong "-R takes a regular expression"
        select+=(-R "$2"); shift 2 ;;
    --lint) lint=1; shift ;;
    --gpu) select+=(-L '^gpu$'); jobs_of_tests=1; shift ;;
    --chaos) [[ ${2-} =~ ^[1-9][0-9]*$ ]] || wrong "--chaos takes seconds, not '${2-}'"
             chaos=$2; shift 2 ;;
    --seed) [[ ${2-} =~ ^[1-9][0-9]*$ ]] || wrong "--seed takes a number, not '${2-}'"
            seed=(--seed "$2"); shift 2 ;;
    --full) full=1; shift ;;
    --help|-h) usage; exit 0 ;;
    *) wrong "unknown option '$1'" ;;
  esac
done
((${#presets[@]})) || presets=(release)

cd "$(dirname "$0")/.."
# shellcheck source=../cmake/setup.sh
source cmake/setup.sh

# Prints as it runs what needs to be seen: failures with their output, and skips. The summary comes at the very end.
show() { awk '/tests passed(, .* failed)? out of|^No tests were found/ {over = 1}
              over || /^ *Start +[0-9]+:/ || /^ *[0-9]+\/[0-9]+ Test +#.* Passed / || /^Test project / || /^$/ {next}
              {print; fflush()}'; }

# Thread Sanitizer of these compilers cannot map its shadow when the kernel randomizes more than 28 bits of an address.
fixed_addresses=()
if (($(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 28) > 28)) && setarch -R true 2>/dev/null; then
  fixed_addresses=(setarch -R)
fi

# test_preset NAME: 1 if it does not build, no test ran or one failed.
test_preset() {
  local preset=$1 under=() log=build/$1/ctest.log
  rm -f "$log"
  [[ $preset != tsan ]] || under=("${fixed_addresses[@]}")
  cardea_quiet "build/$preset/configure.log" "$preset: configuring" cmake --preset "$preset" || return 1
  cardea_quiet "build/$preset/build.log" "$preset: building" \
    "${under[@]}" cmake --build --preset "$preset" -j "$jobs" || return 1
  echo "$preset: testing"
  "${under[@]}" ctest --preset "$preset" -j "${jobs_of_tests:-$jobs}" --no-tests=error "${select[@]}" 2>&1 | tee "$log" | show
}

cardea_install "${cardea_build_packages[@]}" "${cardea_test_packages[@]}"
if [[ $chaos ]]; then
  preset=${presets[0]}
  cardea_quiet "build/$preset/configure.log" "$preset: configuring" cmake --preset "$preset"
  cardea_quiet "build/$preset/build.log" "$preset: building" cmake --build --preset "$preset" -j "$jobs" --target chaos
  exec "build/$preset/bin/chaos" --seconds "$chaos" "${seed[@]}"
fi
((!${#seed[@]})) || wrong "--seed goes with --chaos"
failed=()
for preset in "${presets[@]}"; do
  test_preset "$preset" || failed+=("$preset")
done
if [[ $full ]]; then
  for preset in "${presets[@]}"; do
    [[ $preset != tsan ]] || continue  # its ranks fork from threads
    echo "$preset: the whole kill matrix"
    "build/$preset/bin/kill_matrix" --full || failed+=("$preset: kill matrix")
  done
fi
if [[ $lint ]]; then
  cardea_quiet build/release/configure.log "names: configuring" cmake --preset release &&
    cardea_quiet build/release/naming.log "names: checking" tests/lint/naming.sh build/release "$jobs" || failed+=(lint)
fi

# What ctest itself said, preset by preset.
for preset in "${presets[@]}"; do
  printf '\n%s:\n' "$preset"
  summary=$(sed -nE '/tests passed(, .* failed)? out of|^No tests were found/,$p' "build/$preset/ctest.log" 2>/dev/null || true)
  printf '%s\n' "${summary:-was not tested}"
done
if ((${#failed[@]})); then
  printf '\nFAILED: %s\n' "${failed[*]}"
  exit 1
fi
