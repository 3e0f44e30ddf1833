// SPDX-License-Identifier: Apache-2.0
// Measured figures, kept in a JSON file by the fingerprint of the machine they hold for:
//   {"version": 1, "machines": {"<fingerprint>": {"name": "…", "lanes": {"<lane>": {"bytes_per_second": 3.9e11,
//   "latency_ns": 1700}}}}}
// Thread-safe; two processes that save at once each write a whole file, the later one stays.
#pragma once

#include <string>
#include <vector>

#include "topology/machine.h"

namespace cardea::topology {

struct Measurement {
  std::string lane;
  double bandwidth = 0;  // bytes/s, 0 = not measured
  double latency = 0;    // ns, 0 = not measured
};

/// CARDEA_TOPO_MEASURED, else $XDG_CACHE_HOME/cardea/measured.json, else ~/.cache/cardea/measured.json; empty without a
/// home.
std::string default_measured_path();

/// Those of one machine; empty if the file is not there or has nothing on it. CONFIGURATION if it is not what this library
/// writes: not JSON, another version, over 8 MiB, figures that are negative or absurd.
Result<std::vector<Measurement>> load_measured(const std::string& path, const std::string& fingerprint);
/// Adds to the file, or replaces, what is known of one machine; others stay. Directories are made. SYSTEM if it can't be
/// written.
Status save_measured(const std::string& path, const Machine& machine, const std::vector<Measurement>& measurements);

/// Puts the figures into the machine; how many lanes got one.
std::size_t apply_measured(Machine& machine, const std::vector<Measurement>& measurements);

}  // namespace cardea::topology
