// SPDX-License-Identifier: Apache-2.0
// What every trace must fulfil, whatever it shows; for tests.
#pragma once

#include <fmt/format.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace cardea::test {

struct TraceFacts {
  std::string wrong;                                     // the first rule that is broken; empty: none
  std::map<std::string, std::uint64_t> slices;           // by track, rows together, of all processes
  std::map<std::string, std::uint64_t> bytes_in_slices;  // by track, of slices that are told whole
  std::map<std::string, std::uint64_t> moments;          // by first word
  std::set<std::uint64_t> processes;
  std::uint64_t flows = 0, flows_by_chunk = 0;  // complete ones, and those of them that pass a chunk
};

inline std::string read_file(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

/// Every thread is named, has no number that could be a rank's, and its times never go back; slices begin and end in pairs
/// and do not overlap on a thread; every flow begins in a request, and ends in a view, passing chunks only in between;
/// nothing happens outside of a slice's time.
inline TraceFacts check_trace(const std::string& text) {
  TraceFacts facts;
  const auto refuse = [&](const std::string& why) {
    if (facts.wrong.empty()) facts.wrong = why;
  };
  const nlohmann::json trace = nlohmann::json::parse(text, nullptr, false);
  if (!trace.is_array()) {
    refuse("it is no JSON array");
    return facts;
  }
  using Thread = std::pair<std::uint64_t, std::uint64_t>;
  std::map<Thread, std::string> track;
  std::map<Thread, double> time;
  std::map<Thread, std::string> open;  // slice
  struct Flow {
    bool begun = false, ended = false, by_chunk = false;
    double last = 0;
  };
  std::map<std::string, Flow> flows;
  for (const auto& event : trace) {
    const std::string phase = event.at("ph");
    const Thread thread{event.at("pid"), event.at("tid")};
    facts.processes.insert(thread.first);
    if (phase == "M") {
      if (event.at("name") != "thread_name") continue;
      std::string name = event.at("args").at("name");
      if (const auto number = name.find_last_not_of("0123456789"); name[number] == ' ') name.resize(number);
      track[thread] = name;
      continue;
    }
    const double now = event.at("ts");
    if (!track.contains(thread)) refuse("a thread has no name: " + event.dump());
    if (thread.second < 65536) refuse("a thread has a number that a process may have: " + event.dump());
    if (now < time[thread]) refuse("time goes back: " + event.dump());
    time[thread] = now;
    const std::string& of = track[thread];
    if (phase == "B") {
      if (open.contains(thread)) refuse("slices overlap: " + event.dump());
      open[thread] = event.at("name");
      ++facts.slices[of];
    } else if (phase == "X") {
      if (open.contains(thread)) refuse("slices overlap: " + event.dump());
      time[thread] = now + event.at("dur").get<double>();
      ++facts.slices[of];
      facts.bytes_in_slices[of] += event.at("args").value("bytes", std::uint64_t{0});
    } else if (phase == "E") {
      if (open.erase(thread) == 0) refuse("an end without a beginning: " + event.dump());
    } else if (phase == "i") {
      const std::string name = event.at("name");
      ++facts.moments[name.substr(0, name.find(' '))];
    } else if (phase == "s" || phase == "t" || phase == "f") {
      if (!open.contains(thread)) refuse("a flow outside of a slice: " + event.dump());
      Flow& flow = flows[event.at("id")];
      if (now < flow.last) refuse("a flow goes back in time: " + event.dump());
      flow.last = now;
      if (phase == "s") {
        if (std::exchange(flow.begun, true) || of != "requests") refuse("a flow begins wrong: " + event.dump());
      } else if (!flow.begun || flow.ended) {
        refuse("a flow that is not open: " + event.dump());
      } else if (phase == "t") {
        flow.by_chunk = true;
        if (of == "requests" || of == "views" || of == "serving") refuse("a flow passes what is no lane: " + event.dump());
      } else {
        flow.ended = true;
        if (of != "views") refuse("a flow ends in no view: " + event.dump());
      }
    } else {
      refuse("an unknown phase: " + event.dump());
    }
  }
  if (!open.empty()) refuse("a slice has no end: " + open.begin()->second);
  for (const auto& [id, flow] : flows) {
    facts.flows += flow.ended;
    facts.flows_by_chunk += flow.ended && flow.by_chunk;
  }
  return facts;
}

}  // namespace cardea::test
