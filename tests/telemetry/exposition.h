// SPDX-License-Identifier: Apache-2.0
// A strict reader of Prometheus's text exposition format 0.0.4, for tests. Pure function.
#pragma once

#include <cstdlib>
#include <map>
#include <set>
#include <sstream>
#include <string>

namespace cardea::test {

/// Samples by "name{labels}". `wrong` tells the first line that breaks the format's rules; empty if none does.
inline std::map<std::string, double> parse_exposition(const std::string& text, std::string& wrong) {
  std::map<std::string, double> samples;
  std::map<std::string, std::string> type_of;
  std::set<std::string> helped, closed;
  std::map<std::string, double> last_bucket, counts;  // histograms, by name and labels but le
  std::map<std::string, bool> has_infinity;
  std::string family;
  const auto refuse = [&](const std::string& line, const char* why) {
    if (wrong.empty()) wrong = std::string(why) + ": " + line;
  };
  if (!text.empty() && text.back() != '\n') refuse("the end", "no line feed");
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (line.empty()) continue;
    if (line[0] == '#') {
      std::istringstream words(line);
      std::string hash, kind, name, rest;
      words >> hash >> kind >> name;
      std::getline(words, rest);
      if (kind == "HELP") {
        if (!helped.insert(name).second) refuse(line, "a second HELP");
        if (!family.empty()) closed.insert(family);
        family = name;
        if (closed.contains(name)) refuse(line, "the family is not together");
      } else if (kind == "TYPE") {
        if (name != family) refuse(line, "TYPE of another family than HELP before it");
        type_of[name] = rest.substr(1);
        if (rest != " counter" && rest != " gauge" && rest != " histogram") refuse(line, "no type");
      } else {
        refuse(line, "neither HELP nor TYPE");
      }
      continue;
    }
    // name{label="value",…} number
    std::size_t at = line.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_:");
    if (at == std::string::npos || at == 0) {
      refuse(line, "no name");
      continue;
    }
    const std::string name = line.substr(0, at);
    std::string le, others;
    if (line[at] == '{') {
      ++at;
      while (at < line.size() && line[at] != '}') {
        const std::size_t equals = line.find("=\"", at);
        if (equals == std::string::npos) break;
        const std::string label = line.substr(at, equals - at);
        std::string value;
        for (at = equals + 2; at < line.size() && line[at] != '"'; ++at) {
          if (line[at] == '\\' && ++at == line.size()) break;
          value += line[at];
        }
        if (at >= line.size()) break;
        ++at;
        if (at < line.size() && line[at] == ',') ++at;
        if (label == "le") {
          le = value;
        } else {
          others += label + "=" + value + ",";
        }
      }
      if (at >= line.size() || line[at] != '}') {
        refuse(line, "labels do not end");
        continue;
      }
      ++at;
    }
    const std::string key = line.substr(0, at);
    if (at >= line.size() || line[at] != ' ') {
      refuse(line, "no value");
      continue;
    }
    char* end = nullptr;
    const double value = std::strtod(line.c_str() + at + 1, &end);
    if (end == line.c_str() + at + 1 || *end != '\0') refuse(line, "the value is no number");
    if (!samples.emplace(key, value).second) refuse(line, "a second sample of the name");

    const bool histogram = type_of[family] == "histogram";
    if (!histogram && name != family) refuse(line, "a sample outside of its family");
    if (!histogram) continue;
    if (name == family + "_bucket") {
      if (value < last_bucket[others]) refuse(line, "buckets do not grow");
      last_bucket[others] = value;
      has_infinity[others] |= le == "+Inf";
    } else if (name == family + "_count") {
      if (!has_infinity[others] || last_bucket[others] != value) refuse(line, "buckets do not add up");
    } else if (name != family + "_sum") {
      refuse(line, "a sample outside of its family");
    }
  }
  for (const auto& [name, type] : type_of) {
    if (!helped.contains(name)) refuse(name, "no HELP");
  }
  return samples;
}

}  // namespace cardea::test
