// SPDX-License-Identifier: Apache-2.0
// The job forms while strangers do to its port what strangers do.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <random>

#include "lib/base/unique_fd.h"
#include "lib/bootstrap/frames.h"
#include "lib/bootstrap/handshake.h"
#include "lib/bootstrap/meeting_point.h"
#include "tests/bootstrap/joining.h"

namespace cardea::bootstrap {
namespace {

using std::chrono::milliseconds;

UniqueFd connect_to(std::uint16_t port) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) fd.reset();
  const timeval patience{.tv_sec = 20, .tv_usec = 0};
  if (fd) setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  return fd;
}

void reset(UniqueFd fd) {
  const linger hard{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
}

/// Waits until the other side has closed; false if it sends a byte first, or nothing happens for 20 s.
bool dropped(int fd) {
  char byte;
  const ssize_t count = recv(fd, &byte, 1, 0);
  return count == 0 || (count < 0 && errno == ECONNRESET);
}

void send_bytes(int fd, ByteView bytes) {
  static_cast<void>(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL));
}

struct Point {
  explicit Point(std::uint32_t world_size) : job(fresh_job(world_size)) {
    auto opened = MeetingPoint::open({.host = "127.0.0.1"},
                                     {.job = job_tag(job.job, 0), .secret = job.secret, .deadline = in_seconds(120)});
    EXPECT_TRUE(opened.ok()) << opened.status().message();
    meeting_point = std::move(*opened);
    job.roots = {meeting_point->endpoint()};
    job.runs_meeting_point = false;
  }
  std::uint16_t port() const { return meeting_point->endpoint().port; }
  Options job;
  std::unique_ptr<MeetingPoint> meeting_point;
};

TEST(Strangers, SixteenRanksFormInRandomOrderAmongThem) {
  Point point(16);
  std::atomic<bool> formed{false};
  std::atomic<unsigned> resets{0}, garbage{0}, silent{0};
  std::thread strangers([&] {
    std::mt19937 random(7);
    std::vector<UniqueFd> silents;
    for (unsigned turn = 0; turn < 150 || !formed; ++turn) {
      UniqueFd fd = connect_to(point.port());
      if (!fd) break;
      if (turn % 3 == 0) {
        reset(std::move(fd));
        ++resets;
      } else if (turn % 3 == 1) {
        Bytes noise(1 + random() % 600);
        for (std::byte& byte : noise) byte = static_cast<std::byte>(random());
        send_bytes(fd.get(), noise);
        ++garbage;
      } else if (silents.size() < 40) {
        silents.push_back(std::move(fd));
        ++silent;
      }
      std::this_thread::sleep_for(milliseconds(2));
    }
  });
  std::mt19937 random(11);
  std::vector<milliseconds> delays(16);
  for (milliseconds& delay : delays) delay = milliseconds(random() % 400);
  as_threads(16, [&](Rank rank) {
    std::this_thread::sleep_for(delays[rank]);
    auto exchange = join(as_rank(point.job, rank), in_seconds(100));
    ASSERT_TRUE(exchange.ok()) << exchange.status().message();
    for (int round = 0; round < 5; ++round) expect_everybodys_name(**exchange);
    if (rank == 0) formed = true;
  });
  formed = true;
  strangers.join();
  EXPECT_GT(resets, 10u);
  EXPECT_GT(garbage, 10u);
  EXPECT_GT(silent, 10u);
  EXPECT_GT(point.meeting_point->strangers_dropped(), 20u) << "the meeting point did meet them";
}

TEST(Strangers, ThousandsInSequenceAreDropped) {
  Point point(2);
  for (int i = 0; i < 3000; ++i) {
    UniqueFd fd = connect_to(point.port());
    ASSERT_TRUE(fd) << i;
    if (i % 2 == 0) reset(std::move(fd));
  }
  as_threads(2, [&](Rank rank) { EXPECT_TRUE(join(as_rank(point.job, rank), in_seconds(60)).ok()); });
  EXPECT_GE(point.meeting_point->strangers_dropped(), 1000u);
}

TEST(Strangers, MoreSilentOnesThanAreToleratedDoNotKeepRanksOut) {
  Point point(2);
  std::vector<UniqueFd> silents;
  for (std::size_t i = 0; i < 3 * MeetingPoint::kMaxStrangers / 2; ++i) silents.push_back(connect_to(point.port()));
  as_threads(2, [&](Rank rank) {
    const auto exchange = join(as_rank(point.job, rank), in_seconds(60));
    EXPECT_TRUE(exchange.ok()) << exchange.status().message();
  });
  EXPECT_TRUE(dropped(silents.front().get())) << "the oldest went first";
}

TEST(Strangers, ASilentOneIsDroppedAfterItsDeadline) {
  Point point(2);
  const UniqueFd fd = connect_to(point.port());
  const auto start = Clock::now();
  EXPECT_TRUE(dropped(fd.get()));
  EXPECT_GE(Clock::now() - start, kHandshakeDeadline - milliseconds(100));
}

TEST(Strangers, LengthsOfZeroAboveTheCapAndHugeAreDroppedAtOnce) {
  Point point(2);
  for (const std::uint32_t length : {0u, 253u, 1u << 31, UINT32_MAX}) {
    const UniqueFd fd = connect_to(point.port());
    Bytes head;
    for (unsigned i = 0; i < 4; ++i) head.push_back(static_cast<std::byte>(length >> (8 * i)));
    const auto start = Clock::now();
    send_bytes(fd.get(), head);
    EXPECT_TRUE(dropped(fd.get())) << length;
    EXPECT_LT(Clock::now() - start, kHandshakeDeadline) << length;
  }
}

TEST(Strangers, AReplayedAndAReflectedProofAreRefused) {
  Point point(2);
  const auto read_frame = [](int fd) {
    std::array<std::byte, 4> head{};
    EXPECT_EQ(recv(fd, head.data(), 4, MSG_WAITALL), 4);
    Bytes body(std::min<std::uint32_t>(decode_length(head), 4096));
    EXPECT_EQ(recv(fd, body.data(), body.size(), MSG_WAITALL), static_cast<ssize_t>(body.size()));
    return body;
  };
  Hello hello{.rank = 1, .world_size = 2, .patience_ms = 60000, .job = job_tag(point.job.job, 0), .place = "here"};
  const Bytes hello_bytes = encode(hello);

  // A recorded, right proof of another connection: the root's fresh nonce makes it wrong.
  const UniqueFd first = connect_to(point.port()), second = connect_to(point.port());
  send_bytes(first.get(), frame(hello_bytes));
  const Bytes recorded = encode_proof(prove(point.job.secret, Role::kMember, hello_bytes, read_frame(first.get())));
  send_bytes(second.get(), frame(hello_bytes));
  const Bytes challenge = read_frame(second.get());
  send_bytes(second.get(), frame(recorded));
  const Bytes answer = read_frame(second.get());
  ASSERT_TRUE(is_refusal(answer));
  EXPECT_EQ(decode_refusal(answer).value(), Refused::kWrongSecret);

  // The root's own kind of proof, sent back to it.
  const UniqueFd third = connect_to(point.port());
  send_bytes(third.get(), frame(hello_bytes));
  send_bytes(third.get(), frame(encode_proof(prove(point.job.secret, Role::kRoot, hello_bytes, read_frame(third.get())))));
  EXPECT_TRUE(is_refusal(read_frame(third.get())));

  as_threads(2, [&](Rank rank) { EXPECT_TRUE(join(as_rank(point.job, rank), in_seconds(60)).ok()); });
}

}  // namespace
}  // namespace cardea::bootstrap
