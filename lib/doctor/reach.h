// SPDX-License-Identifier: Apache-2.0
// Whether a host and port can be reached, told apart by what to do about it. Waits no longer than told, whatever resolvers
// and firewalls do.
#pragma once

#include <string>

#include "lib/base/types.h"

namespace cardea::doctor {

struct Reach {
  enum class Outcome {
    kConnected,
    kMalformed,    // no host:port
    kUnresolved,   // the name is unknown, or the resolver does not answer
    kRefused,      // the host answers; nobody listens there, or a firewall rejects
    kTimedOut,     // nothing answers: packets are dropped on the way
    kUnreachable,  // no route
    kFailed,       // another error
  };
  Outcome outcome = Outcome::kFailed;
  std::string target;   // as it was given
  std::string address;  // the last that was tried
  std::string detail;   // the system's words
};

/// `target`: host:port or [v6]:port. Tries the addresses in turn, all within `patience`.
Reach reach(const std::string& target, Nanoseconds patience);

}  // namespace cardea::doctor
