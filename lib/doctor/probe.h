// SPDX-License-Identifier: Apache-2.0
// A small job, really formed, to see what path each peer gets and how fast it is. Each rank runs member(); what all have
// found is brought to rank 0 as experts of the job itself. Every step has a deadline; a job that does not form says why.
//
// UCX tells only its log which devices its connections use, and reads its variables when it is loaded: a program that wants
// to know calls log_ucx() first, which starts it again with those variables, unless the user has set them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/doctor/finding.h"

namespace cardea::doctor {

struct Peer {
  Rank rank = kNoRank;
  std::string host;
  unsigned node = 0;
  std::string path;             // "node-mapped", "network", …; empty: it was not reached
  std::string way;              // transport, and the devices that UCX uses: "shm", "ucx tcp/eth0"
  double seconds = 0;           // to one ready expert of kSmallBytes, least of several
  double bytes_per_second = 0;  // of experts of kLargeBytes into this rank's slots
  std::string error;
};

struct Member {
  Rank rank = kNoRank;
  std::string host;
  std::string node_id;  // CARDEA_NODE_ID: it was told to be another node
  unsigned node = 0;
  std::int64_t wall_ns = 0;  // its clock at a moment that all share, give or take milliseconds
  std::vector<Peer> peers;
  Findings findings;  // of its own checks
};

inline constexpr std::uint64_t kSmallBytes = 4096;
inline constexpr std::uint64_t kLargeBytes = std::uint64_t{4} << 20;
inline constexpr std::size_t kMostPeers = 16;  // that one rank probes

struct Probe {
  std::uint32_t ranks = 0;
  Rank self = kNoRank;
  std::vector<Member> members;  // rank 0: all; else this rank alone
  Findings findings;            // a job that does not form, peers that are not reached, clocks that differ
};

/// Executes this program again, with the same arguments, so that UCX logs into a file that member() reads and removes.
/// Returns if that was done before, if UCX_LOG_LEVEL or UCX_LOG_FILE is set, or if it cannot be done.
void log_ucx(char** argv);
/// Whether the variable is log_ucx's, and none of the user's.
bool set_by_log_ucx(const std::string& name, const std::string& value);

/// Joins the job of this environment. `own` are this rank's findings, for rank 0's report.
Probe member(const Findings& own, Nanoseconds patience);

/// The ranks that one probes: those of its node, and of each other node one, fewer than kMostPeers.
std::vector<Rank> peers_of(Rank self, const std::vector<unsigned>& node_of);
/// "tcp/eth0 tcp/lo" out of UCX's log, of any version that Cardea works with.
std::string devices_of(const std::string& ucx_log);

std::string to_json(const Member& member);
/// CONFIGURATION if it is none.
Result<Member> member_from_json(const std::string& text);

/// What the members together show: peers that could not be reached, clocks that differ by more than a second.
Findings judge(const std::vector<Member>& members);

}  // namespace cardea::doctor
