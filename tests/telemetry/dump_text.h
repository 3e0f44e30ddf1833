// SPDX-License-Identifier: Apache-2.0
// Reads dumps back (docs/telemetry.md describes them), out of cardea_dump_text's answer or out of a log, where each line has
// the log's head. Strict: what it does not know makes `wrong`, which names the line.
#pragma once

#include <cstdio>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace cardea::test {

struct DumpText {
  struct Fault {
    unsigned rank = 0, experts = 0;
    double seconds = 0;
    std::string why;
  };
  using Fields = std::map<std::string, std::string>;

  std::string reason;
  unsigned rank = 0, ranks = 0, node = 0;
  std::vector<Fault> faults;
  std::vector<Fields> outstanding, lent;
  std::vector<std::string> lost, recent;
  std::size_t outstanding_in_all = 0;
  bool ended = false;
  std::string wrong;
};

inline DumpText::Fields dump_fields(const std::string& line) {
  DumpText::Fields fields;
  std::istringstream words(line);
  for (std::string word; words >> word;) {
    const std::size_t equals = word.find('=');
    if (equals != std::string::npos) fields[word.substr(0, equals)] = word.substr(equals + 1);
  }
  return fields;
}

/// All dumps of a text; a last one that is still being written has `ended` false.
inline std::vector<DumpText> parse_dumps(const std::string& text) {
  enum class Part { kNone, kHead, kFaults, kOutstanding, kLent, kLost, kRecent };
  std::vector<DumpText> dumps;
  Part part = Part::kNone;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t head = line.find("] WARN engine: ");
    if (line.rfind("cardea[", 0) == 0) {
      if (head == std::string::npos) continue;
      line = line.substr(head + 15);
    }
    const std::string start = "cardea dump: ";
    if (line.rfind(start, 0) == 0) {
      dumps.emplace_back().reason = line.substr(start.size());
      part = Part::kHead;
      continue;
    }
    if (part == Part::kNone) continue;  // another message
    DumpText& dump = dumps.back();
    const bool inside = line.rfind("  ", 0) == 0;
    unsigned count = 0;
    DumpText::Fault fault;
    int at = 0;
    if (part == Part::kHead &&
        std::sscanf(line.c_str(), "rank %u of %u on node %u, ", &dump.rank, &dump.ranks, &dump.node) == 3) {
      part = Part::kFaults;
    } else if (part == Part::kFaults && std::sscanf(line.c_str(), "at fault: rank %u (%u experts, for %lf s: %n",
                                                    &fault.rank, &fault.experts, &fault.seconds, &at) == 3) {
      fault.why = line.substr(static_cast<std::size_t>(at), line.size() - static_cast<std::size_t>(at) - 1);
      dump.faults.push_back(fault);
    } else if (part == Part::kFaults && line.rfind("at fault: nobody", 0) == 0) {
    } else if (part == Part::kFaults && std::sscanf(line.c_str(), "outstanding: %u experts", &count) == 1) {
      dump.outstanding_in_all = count;
      part = Part::kOutstanding;
    } else if (part == Part::kOutstanding && line.rfind("  and ", 0) == 0) {
    } else if (part == Part::kOutstanding && inside) {
      dump.outstanding.push_back(dump_fields(line));
    } else if (part == Part::kOutstanding && line.rfind("lent: ", 0) == 0) {
      part = Part::kLent;
    } else if (part == Part::kLent && inside) {
      dump.lent.push_back(dump_fields(line));
    } else if (part == Part::kLent && line.rfind("lost: ", 0) == 0) {
      part = Part::kLost;
    } else if (part == Part::kLost && inside) {
      dump.lost.push_back(line.substr(2));
    } else if (part == Part::kLost && line.rfind("recent: ", 0) == 0) {
      part = Part::kRecent;
    } else if (part == Part::kRecent && line == "end of dump") {
      dump.ended = true;
      part = Part::kNone;
    } else if (part == Part::kRecent) {
      dump.recent.push_back(line);
    } else if (dump.wrong.empty()) {
      dump.wrong = line;
    }
  }
  return dumps;
}

}  // namespace cardea::test
