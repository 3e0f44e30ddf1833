// SPDX-License-Identifier: Apache-2.0
// The thread that brings records from a recorder to sinks. It looks every few milliseconds, so that recording needs no
// wake-up; files are written at least once a second, so that little is missing from those of a rank that dies.
//
// Ownership: owns its sinks; the recorder must outlive it. Made with the recorder's mutex held or before anybody records.
// stop(), not with that mutex held, drains what is left and closes the sinks; the destructor does the same.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "lib/telemetry/recorder.h"
#include "lib/telemetry/sink.h"

namespace cardea::telemetry {

class Consumer {
 public:
  Consumer(Recorder& recorder, std::vector<std::unique_ptr<Sink>> sinks);
  ~Consumer() { stop(); }
  Consumer(const Consumer&) = delete;
  Consumer& operator=(const Consumer&) = delete;
  void stop();

 private:
  void run();
  bool drain();

  Recorder& recorder_;
  std::vector<std::unique_ptr<Sink>> sinks_;
  std::vector<Record> batch_;
  std::uint64_t lost_ = 0;  // told to the sinks so far
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace cardea::telemetry
