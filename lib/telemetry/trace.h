// SPDX-License-Identifier: Apache-2.0
// A trace of one rank that Perfetto (https://ui.perfetto.dev) and chrome://tracing open: Chrome's trace-event JSON, an event
// a line, written as it happens; a file that broke off opens too. The rank is a process; its tracks are
//
//   requests     a slice for each fetch, from its submission until nothing of it is outstanding
//   LANE         a slice for each chunk on the way, in as many rows as overlap
//   gpu ...      a slice for each batch of copies of the rank's GPU, by the device's own time: pulls, uploads, downloads
//   views        a slice for each view, from its delivery to its release
//   serving      a slice for each chunk that another rank is being sent
//   versions     moments: publish, finish, collect, what others told, losses
//
// and flows lead from each request by each chunk of an expert to its view, or straight to it if nothing of it moved for this
// fetch. Times are microseconds since the midnight (UTC) before the job began, so that the ranks of a job lie side by side
// when their files are put together (cardea-trace).
#pragma once

#include <array>
#include <deque>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "lib/telemetry/output_file.h"
#include "lib/telemetry/sink.h"

namespace cardea::telemetry {

class TraceSink final : public Sink {
 public:
  TraceSink(OutputFile file, const JobFacts& facts);
  void write(std::span<const Record> records) override;
  void lost(std::uint64_t records) override;
  void flush() override { file_.flush(); }
  void close() override;

 private:
  /// Slices of one kind that may overlap: each takes the lowest free row.
  struct Track {
    std::string name;
    std::uint32_t first_thread = 0;
    std::vector<bool> taken = {};
  };
  struct Fetch {
    std::uint32_t layer = 0, outstanding = 0;
    std::uint64_t version = 0;
    std::uint8_t urgency = 0;
    bool views = false, open = false;
    std::uint32_t thread = 0;
    std::int64_t since = 0;
    std::vector<std::uint32_t> experts;
    std::deque<std::pair<std::uint32_t, std::uint8_t>> ready;  // expert and path, not taken yet; path kFailed: none came
  };
  using ExpertKey = std::tuple<std::uint32_t, std::uint32_t, std::uint64_t>;  // layer, expert, version
  using Wanted = std::pair<std::uint64_t, std::uint32_t>;                     // fetch, expert
  struct Flows {
    std::vector<std::uint64_t> numbers;  // one, begun with the request, and then one more for each chunk but the first
    bool moved = false;                  // a chunk has come by
  };
  static constexpr std::uint8_t kFailed = 255;

  void one(const Record& record);
  void open_fetch(std::uint64_t id, Fetch& fetch);
  void close_fetch(Fetch& fetch, std::int64_t when);
  void outcome(const Record& record, std::uint8_t path);
  void take(const Record& record);
  void start(const Record& record);
  void copied(const Record& record);
  void pass(const Record& record, std::uint32_t thread);
  void forget_flow(std::uint64_t id, std::uint32_t expert, const Fetch& fetch);
  std::uint32_t enter(Track& track);
  void leave(std::uint32_t thread);
  void begin(std::int64_t when, std::uint32_t thread, const std::string& name, const std::string& arguments);
  void end(std::int64_t when, std::uint32_t thread, const std::string& arguments = {});
  void flow(std::int64_t when, std::uint32_t thread, char phase, std::uint64_t flow);
  void moment(std::int64_t when, const std::string& name, const std::string& arguments);
  void event(const std::string& body);
  void name_thread(std::uint32_t thread, const std::string& name);
  std::string time(std::int64_t when) const;

  OutputFile file_;
  const Rank self_;
  const std::size_t first_queue_;  // of tracks_, by GpuQueue
  const std::int64_t shift_;       // from the steady clock to what the trace counts
  std::vector<Track> tracks_;
  std::map<std::uint32_t, std::pair<std::size_t, std::size_t>> rows_;  // thread → track, row
  std::map<std::uint64_t, Fetch> fetches_;
  std::uint64_t filling_ = 0;  // the fetch whose experts are being listed
  std::map<Wanted, Flows> flows_;
  std::multimap<ExpertKey, std::uint64_t> wanted_;        // → fetch; as many as flows_
  std::map<std::uint64_t, std::uint32_t> chunks_, lent_;  // → thread
  std::map<Wanted, std::uint32_t> views_;                 // → thread
  std::uint64_t next_flow_ = 1;
  std::array<std::int64_t, 3> queue_until_{};  // by GpuQueue, when the last slice ends
};

}  // namespace cardea::telemetry
