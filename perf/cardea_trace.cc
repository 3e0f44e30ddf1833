// SPDX-License-Identifier: Apache-2.0
// cardea-trace [-o OUT] FILE...: puts the traces of a job's ranks (CARDEA_TRACE=NAME.%r.json) together into one that
// Perfetto opens with the ranks as processes side by side. Takes files that broke off. Exits with 0, or with 2 if a file
// is none of these, naming it.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace {

constexpr int kFailed = 2;
constexpr double kDay = 86'400e6;  // microseconds

using Json = nlohmann::json;

int fail(const std::string& what) {
  fmt::print(stderr, "cardea-trace: {}\n", what);
  return kFailed;
}

struct File {
  std::string name;
  std::int64_t day = 0;  // since 1970, from whose midnight its times count
};

/// Passes each event of a file to `visit`; false if a line before the last is none.
template <typename Visit>
bool for_each_event(const std::string& name, Visit visit) {
  std::ifstream in(name);
  std::string line;
  if (!std::getline(in, line) || line != "[") return false;
  while (std::getline(in, line)) {
    if (line == "]" || line.empty()) continue;
    if (line.back() == ',') line.pop_back();
    const Json event = Json::parse(line, nullptr, false);
    if (event.is_discarded()) return in.peek() == std::ifstream::traits_type::eof();  // the last one broke off
    if (!event.is_object()) return false;
    visit(event);
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Puts the traces of a job's ranks together into one that Perfetto opens");
  std::string out_name;
  std::vector<std::string> names;
  app.add_option("-o,--output", out_name, "where to write; standard output if not given");
  app.add_option("files", names, "traces of ranks, as CARDEA_TRACE=NAME.%r.json makes them")->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kFailed;
  }
  std::vector<File> files;
  std::int64_t first_day = std::numeric_limits<std::int64_t>::max();
  for (const std::string& name : names) {
    bool found = false;
    File file{name};
    const bool right = for_each_event(name, [&](const Json& event) {
      if (event.value("name", "") != "cardea_job" || !event.contains("args")) return;
      found = true;
      file.day = event["args"].value("day", std::int64_t{0});
    });
    if (!right || !found) return fail(fmt::format("{} is no trace of a rank", name));
    first_day = std::min(first_day, file.day);
    files.push_back(std::move(file));
  }
  std::FILE* const out = out_name.empty() ? stdout : std::fopen(out_name.c_str(), "w");
  if (out == nullptr) return fail(fmt::format("cannot write {}", out_name));
  const char* separator = "[\n";
  for (const File& file : files) {
    const double shift = static_cast<double>(file.day - first_day) * kDay;
    for_each_event(file.name, [&](Json event) {
      if (shift != 0 && event.contains("ts") && event["ts"].is_number()) event["ts"] = event["ts"].get<double>() + shift;
      fmt::print(out, "{}{}", separator, event.dump());
      separator = ",\n";
    });
  }
  fmt::print(out, "\n]\n");
  if (std::fflush(out) != 0 || std::ferror(out) != 0 || (out != stdout && std::fclose(out) != 0))
    return fail(fmt::format("cannot write {}", out_name));
  return 0;
}
