// SPDX-License-Identifier: Apache-2.0
// Numbers the contexts that the ranks of a job make of the same environment, one after the other, so that those of one
// attempt find each other and no others. All ranks count alike as long as all count only what has formed: an attempt that
// fails, on whichever ranks and however early, gives its number back, and the next one takes it. Thread-safe; outlives its
// attempts.
#pragma once

#include <cstdint>
#include <mutex>
#include <set>

namespace cardea::bootstrap {

class Instances {
 public:
  /// One attempt, which holds its number: the lowest that is neither used up nor held by another.
  class Attempt {
   public:
    explicit Attempt(Instances& instances) : instances_(instances), number_(instances.take()) {}
    ~Attempt() {
      if (!formed_) instances_.give_back(number_);
    }
    Attempt(const Attempt&) = delete;
    Attempt& operator=(const Attempt&) = delete;

    std::uint64_t number() const { return number_; }
    /// The job is there: the number is used up.
    void formed() { formed_ = true; }

   private:
    Instances& instances_;
    const std::uint64_t number_;
    bool formed_ = false;
  };

 private:
  std::uint64_t take();
  void give_back(std::uint64_t number);

  std::mutex mutex_;
  std::uint64_t next_ = 0;              // all from here on are free
  std::set<std::uint64_t> given_back_;  // below next_
};

}  // namespace cardea::bootstrap
