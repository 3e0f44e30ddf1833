// SPDX-License-Identifier: Apache-2.0
// A place that cannot be reached is told apart by how, and in time.
#include "lib/doctor/reach.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "lib/base/unique_fd.h"

namespace cardea::doctor {
namespace {

using Outcome = Reach::Outcome;
using std::chrono::milliseconds;
using std::chrono::seconds;

class Listening {
 public:
  explicit Listening(bool listens) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    if (bind(socket_.get(), reinterpret_cast<sockaddr*>(&at), sizeof at) != 0 ||
        (listens && listen(socket_.get(), 0) != 0) ||
        getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&at), &size) != 0)
      throw std::runtime_error("no socket");
    target = "127.0.0.1:" + std::to_string(ntohs(at.sin_port));
  }
  std::string target;

 private:
  UniqueFd socket_;
};

TEST(Reaching, WhoListensIsConnectedTo) {
  const Listening there(true);
  const Reach reached = reach(there.target, seconds(20));
  EXPECT_EQ(reached.outcome, Outcome::kConnected) << reached.detail;
  EXPECT_EQ(reached.address, "127.0.0.1");
}

TEST(Reaching, APortWhereNobodyListensRefuses) {
  const Listening bound(false);
  EXPECT_EQ(reach(bound.target, seconds(20)).outcome, Outcome::kRefused);
}

TEST(Reaching, WhoDoesNotAnswerIsGivenUpInTime) {
  // A queue of connections that is full drops what comes, as a firewall does.
  const Listening there(true);
  std::vector<UniqueFd> fillers;
  Reach reached;
  for (int i = 0; i < 8; ++i) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    at.sin_port = htons(static_cast<std::uint16_t>(std::stoi(there.target.substr(there.target.find(':') + 1))));
    fillers.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    ::connect(fillers.back().get(), reinterpret_cast<sockaddr*>(&at), sizeof at);
  }
  const auto began = Clock::now();
  reached = reach(there.target, milliseconds(300));
  EXPECT_EQ(reached.outcome, Outcome::kTimedOut) << reached.detail;
  EXPECT_GE(Clock::now() - began, milliseconds(290));
}

TEST(Reaching, WhatIsNoPlaceIsNotTried) {
  for (const char* const wrong : {"", "host", "host:", ":1", "host:x", "host:70000", "host:-1", "host:123456"})
    EXPECT_EQ(reach(wrong, seconds(1)).outcome, Outcome::kMalformed) << wrong;
}

TEST(Reaching, AnUnknownNameIsUnresolved) {
  const Reach reached = reach("no-such-host.invalid:80", seconds(10));
  EXPECT_EQ(reached.outcome, Outcome::kUnresolved);
  EXPECT_NE(reached.detail, "");
}

}  // namespace
}  // namespace cardea::doctor
