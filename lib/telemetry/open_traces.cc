// SPDX-License-Identifier: Apache-2.0
#include "lib/telemetry/open_traces.h"

#include "lib/base/log.h"
#include "lib/base/path_pattern.h"
#include "lib/telemetry/event_log.h"
#include "lib/telemetry/trace.h"

namespace cardea::telemetry {
namespace {

class LogSink final : public Sink {
 public:
  explicit LogSink(const JobFacts& facts) : who_(fmt::to_string(facts.self)), text_(facts.self, facts.began) {}
  void write(std::span<const Record> records) override {
    for (const Record& record : records) text_.add(record, lines_);
    flush();
  }
  void lost(std::uint64_t records) override { lines_ += fmt::format("# lost {}\n", records); }
  void flush() override {
    log::write_lines(log::Level::kTrace, who_, "events", lines_);
    lines_.clear();
  }
  void close() override {
    text_.flush(lines_);
    flush();
  }

 private:
  std::string who_;
  EventText text_;
  std::string lines_;
};

}  // namespace

Result<std::vector<std::unique_ptr<Sink>>> open_traces(const std::vector<TraceTarget>& targets, const JobFacts& facts) {
  std::vector<std::unique_ptr<Sink>> sinks;
  for (const TraceTarget& target : targets) {
    const Result<std::string> path = expand_path(target.pattern, facts.self);
    if (!path.ok()) return path.status();
    if (facts.node_of.size() > 1 && !names_rank(target.pattern)) {
      return Status::error(CARDEA_ERR_CONFIGURATION, "\"{}\" is one file for {} ranks; put %r into its name", target.pattern,
                           facts.node_of.size());
    }
    Result<OutputFile> file = OutputFile::create(*path, facts.self);
    if (!file.ok()) return file.status();
    if (target.kind == TraceTarget::Kind::kPerfetto) {
      sinks.push_back(std::make_unique<TraceSink>(std::move(*file), facts));
    } else {
      sinks.push_back(std::make_unique<EventLogSink>(std::move(*file), facts));
    }
  }
  return sinks;
}

std::unique_ptr<Sink> log_sink(const JobFacts& facts) {
  return std::make_unique<LogSink>(facts);
}

}  // namespace cardea::telemetry
