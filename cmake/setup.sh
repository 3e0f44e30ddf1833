# SPDX-License-Identifier: Apache-2.0
# What a fresh Debian 12 or Ubuntu 24.04 lacks for Cardea, and how to get it. Sourced (bash) by examples/run.sh and
# tests/run.sh; changes nothing by being sourced.

# The one list of packages. "a|b": either will do, a is installed if neither is there.
cardea_build_packages=(
  g++ cmake ninja-build pkg-config
  libboost-dev libucx-dev libhwloc-dev libssl-dev libfmt-dev libxxhash-dev
  libgtest-dev libgmock-dev libbenchmark-dev
  libcli11-dev nlohmann-json3-dev libpugixml-dev "libopenblas-serial-dev|libopenblas-dev"
)
cardea_test_packages=(iproute2 iperf3 python3)  # the emulated cluster, what its goodput is measured against, and what reads JSON

# cardea_missing_packages PACKAGE...: prints those that are not installed.
cardea_missing_packages() {
  local installed wanted
  installed=$(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' 2>/dev/null | sed -n 's/^.i *//p')
  for wanted in "$@"; do
    grep -qxE "${wanted//+/\\+}" <<<"$installed" || echo "${wanted%%|*}"
  done
}

# cardea_apt ARGUMENT...: apt-get as root or by sudo, quiet unless it fails.
cardea_apt() {
  local as_root=() output
  [[ $EUID -eq 0 ]] || as_root=(sudo)
  if ! output=$("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" 2>&1); then
    printf '%s\n' "$output" >&2
    return 1
  fi
}

# cardea_install PACKAGE...: installs what is missing; returns at once, without touching apt, when nothing is. Ends the
# script with the line to run when this user may not install.
cardea_install() {
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "no apt here: taking it that what Cardea needs is installed (see README.md)"
    return
  fi
  local missing
  mapfile -t missing < <(cardea_missing_packages "$@")
  ((${#missing[@]})) || return 0
  if [[ $EUID -ne 0 ]] && ! { command -v sudo >/dev/null && { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; }; then
    echo "Packages are missing, and this user may not install them. Run as root, then start again:" >&2
    echo "  apt-get update && apt-get install --no-install-recommends -y ${missing[*]}" >&2
    exit 1
  fi
  cardea_phase "installing ${missing[*]}"
  # Lists that apt has already may do; if not, fetch them and try again.
  if ! apt-cache show "${missing[@]}" >/dev/null 2>&1 ||
     ! cardea_apt install --no-install-recommends -y "${missing[@]}" 2>/dev/null; then
    cardea_apt update && cardea_apt install --no-install-recommends -y "${missing[@]}" || exit 1
  fi
  cardea_phase_done
}

# cardea_phase TEXT, cardea_phase_done: "TEXT ... 12 s" on one line.
cardea_phase() {
  cardea_phase_began=$SECONDS
  printf '%s ... ' "$*"
}
cardea_phase_done() { printf '%d s\n' $((SECONDS - cardea_phase_began)); }

# cardea_quiet LOG TEXT COMMAND...: runs the command with its output in LOG; shows the output only if it fails.
cardea_quiet() {
  local log=$1 text=$2
  shift 2
  mkdir -p "$(dirname "$log")"
  cardea_phase "$text"
  if "$@" >"$log" 2>&1; then
    cardea_phase_done
  else
    local status=$?
    echo "FAILED"
    tail -n 200 "$log" >&2
    echo "the whole output: $log" >&2
    return "$status"
  fi
}
