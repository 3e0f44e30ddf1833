// SPDX-License-Identifier: Apache-2.0
// A file that is written from its beginning to its end, whole blocks at a time. Own buffer, no stdio: a forked child that
// ends writes nothing twice. A failed write is told once, in the log, and ends the writing. Not thread-safe.
#pragma once

#include <string>

#include "lib/base/status.h"
#include "lib/base/unique_fd.h"

namespace cardea::telemetry {

class OutputFile {
 public:
  /// Made anew. SYSTEM names the path and the reason.
  static Result<OutputFile> create(const std::string& path, Rank self);

  /// Append here, then call flush, or write_if_full.
  std::string& buffer() { return buffer_; }
  void write_if_full() {
    if (buffer_.size() >= kBlock) flush();
  }
  void flush();
  const std::string& path() const { return path_; }

 private:
  static constexpr std::size_t kBlock = std::size_t{256} << 10;
  OutputFile(UniqueFd file, std::string path, Rank self) : file_(std::move(file)), path_(std::move(path)), self_(self) {}

  UniqueFd file_;
  std::string path_;
  Rank self_;
  std::string buffer_;
};

}  // namespace cardea::telemetry
