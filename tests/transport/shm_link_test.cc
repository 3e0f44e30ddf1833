// SPDX-License-Identifier: Apache-2.0
// The shared-memory transport against peers that misbehave: the test holds the other end of the link by hand. And peers
// that are killed, as real processes.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <thread>

#include "lib/base/asio.h"
#include "lib/base/wire.h"
#include "lib/transport/shm/ancillary.h"
#include "lib/transport/shm/factory.h"
#include "lib/transport/shm/frames.h"
#include "lib/transport/shm/region_table.h"

namespace cardea::shm {
namespace {

using transport::ChunkOrder;
using transport::Lease;

constexpr Rank kPeer = 1;

class Notes : public transport::Listener {
 public:
  void on_message(Rank, ByteView message) override { messages.emplace_back(message.begin(), message.end()); }
  void on_chunk_done(transport::ChunkToken token, const Status& status) override {
    EXPECT_FALSE(done.contains(token));
    EXPECT_TRUE(losses.empty()) << "a chunk completed after its peer was lost";
    done[token] = status;
  }
  void on_peer_lost(Rank peer, const Status& why) override {
    EXPECT_EQ(peer, kPeer);
    losses.push_back(why);
  }
  Result<Lease> lend(Rank, const transport::ExpertAddress&, std::uint64_t, std::uint64_t bytes) override {
    lent.resize(bytes, std::byte{5});
    ++leases;
    return Lease{1, {{lent.data(), lent.size()}}};
  }
  void give_back(std::uint64_t, std::uint64_t) override { --leases; }

  std::vector<Bytes> messages;
  std::map<transport::ChunkToken, Status> done;
  std::vector<Status> losses;
  Bytes lent;
  int leases = 0;
};

// Rank 0 with the transport; the test is rank 1.
class ShmLink : public ::testing::Test {
 protected:
  ShmLink() { open({}, 0); }

  void open(const ShmOptions& options, pid_t peer_process) {
    transport_.reset();
    int pair[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    peer_.reset(pair[1]);
    std::vector<NodeLink> links(1);
    links[0].rank = kPeer;
    links[0].socket.reset(pair[0]);
    links[0].process.pid = peer_process;
    if (peer_process > 0) links[0].process.descriptor.reset(static_cast<int>(syscall(SYS_pidfd_open, peer_process, 0)));
    transport_ = make_shm_transport(io_, notes_, 0, std::move(links), options);
    const std::pair<Rank, Bytes> peers[] = {{kPeer, {}}};
    ASSERT_TRUE(transport_->connect(peers).ok());
  }

  template <typename F>
  bool run_until(F done) {
    const auto end = Clock::now() + std::chrono::seconds(30);
    while (!done()) {
      if (Clock::now() > end) return false;
      io_.restart();
      io_.run_one_for(std::chrono::milliseconds(5));
    }
    return true;
  }

  void peer_sends(ByteView bytes, int descriptor = -1) {
    const iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
    EXPECT_EQ(shm::send(peer_.get(), {&piece, 1}, descriptor).bytes, bytes.size());
  }
  void peer_sends_frame(FrameType type, ByteView body, int descriptor = -1) {
    const FrameHeader header = encode_header(type, body.size());
    Bytes frame(header.begin(), header.end());
    frame.insert(frame.end(), body.begin(), body.end());
    peer_sends(frame, descriptor);
  }
  void expect_protocol_error(std::string_view text) {
    ASSERT_TRUE(run_until([&] { return !notes_.losses.empty(); })) << text;
    EXPECT_EQ(notes_.losses[0].code(), CARDEA_ERR_PROTOCOL) << notes_.losses[0].message();
    EXPECT_EQ(notes_.losses[0].detail().peer, kPeer);
    EXPECT_NE(notes_.losses[0].message().find(text), std::string::npos) << notes_.losses[0].message();
  }
  // A chunk that must be asked for; its destination is `landing_`.
  void ask(std::size_t bytes) {
    landing_.assign(bytes + 64, std::byte{0xEE});
    transport_->start({.token = 7, .source = kPeer, .bytes = bytes, .destination = {{landing_.data(), bytes}}});
  }
  static Bytes data_for(std::uint64_t request, std::size_t bytes) {
    Bytes body = WireWriter().number(request).take();
    body.resize(body.size() + bytes, std::byte{0x11});
    return body;
  }

  boost::asio::io_context io_;
  Notes notes_;
  UniqueFd peer_;
  Bytes landing_;
  std::unique_ptr<transport::Transport> transport_;
};

TEST_F(ShmLink, AnUnknownFrameTypeIsAProtocolError) {
  peer_sends(WireWriter().number(std::uint32_t{4}).number(std::uint32_t{99}).take());
  expect_protocol_error("unknown type 99");
}

TEST_F(ShmLink, AnOversizedLengthIsAProtocolErrorBeforeItsBytesCome) {
  peer_sends(WireWriter().number(std::uint32_t{transport::Transport::kMaxMessage + 1}).number(std::uint32_t{1}).take());
  expect_protocol_error("4194305 bytes");
}

TEST_F(ShmLink, DataAndEndsForRequestsNeverMadeAreProtocolErrors) {
  peer_sends_frame(FrameType::kData, data_for(12345, 10));
  expect_protocol_error("not made");
}

TEST_F(ShmLink, MoreDataThanAskedForWritesNothingBeyondTheDestination) {
  ask(1000);
  peer_sends_frame(FrameType::kData, data_for(1, 900));
  peer_sends_frame(FrameType::kData, data_for(1, 101));
  expect_protocol_error("more than the 1000 bytes");
  EXPECT_EQ(notes_.done.at(7).code(), CARDEA_ERR_PEER_LOST);
  EXPECT_EQ(landing_[899], std::byte{0x11});
  EXPECT_EQ(landing_[900], std::byte{0xEE});
  EXPECT_EQ(landing_[1000], std::byte{0xEE});
}

TEST_F(ShmLink, AnEndBeforeAllBytesCameIsAProtocolError) {
  ask(1000);
  peer_sends_frame(FrameType::kData, data_for(1, 900));
  peer_sends_frame(FrameType::kEnd, encode(EndFrame{1, {}}));
  expect_protocol_error("ended after 900");
}

TEST_F(ShmLink, AnOwnersRefusalReachesTheChunkAndKeepsTheLink) {
  ask(1000);
  peer_sends_frame(FrameType::kEnd, encode(EndFrame{1, Status(CARDEA_ERR_STALE, "version 3 was retired")}));
  ASSERT_TRUE(run_until([&] { return notes_.done.contains(7); }));
  EXPECT_EQ(notes_.done.at(7).code(), CARDEA_ERR_STALE);
  EXPECT_EQ(notes_.done.at(7).message(), "version 3 was retired");
  peer_sends_frame(FrameType::kMessage, Bytes(3));
  EXPECT_TRUE(run_until([&] { return notes_.messages.size() == 1; }));
}

TEST_F(ShmLink, ARegionWithoutItsDescriptorAndADescriptorWithoutARegionAreProtocolErrors) {
  peer_sends_frame(FrameType::kRegion, encode(RegionFrame{1, 4096}));
  expect_protocol_error("without a descriptor");
  notes_ = {};
  open({}, 0);
  UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  peer_sends_frame(FrameType::kMessage, Bytes(3), null.get());
  expect_protocol_error("belongs to no region");
}

TEST_F(ShmLink, TwoDescriptorsInOneMessageAreAProtocolErrorAndBothAreClosed) {
  const auto open_now = [] {
    int probe = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    ::close(probe);
    return probe;  // the lowest free number
  };
  const int before = open_now();
  const FrameHeader header = encode_header(FrameType::kMessage, 0);
  iovec piece{const_cast<std::byte*>(header.data()), header.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* const rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(2 * sizeof(int));
  const int both[2] = {0, 1};
  std::memcpy(CMSG_DATA(rights), both, sizeof both);
  ASSERT_EQ(sendmsg(peer_.get(), &message, 0), static_cast<ssize_t>(header.size()));
  expect_protocol_error("more descriptors");
  EXPECT_LE(open_now(), before);
}

TEST_F(ShmLink, DescriptorsThatNobodyClaimsAreBounded) {
  SharedMemory memory = std::move(SharedMemory::create("test", 4096)).value();
  for (std::uint32_t region = 0; region <= RegionTable::kMaxUnclaimed && notes_.losses.empty(); ++region) {
    peer_sends_frame(FrameType::kRegion, encode(RegionFrame{region, 4096}), memory.descriptor());
    io_.restart();
    io_.poll();
  }
  expect_protocol_error("not announced");
}

TEST_F(ShmLink, ARegionCanBeAcceptedAsItsOwnersOnlyAndAtItsSizeOnly) {
  SharedMemory memory = std::move(SharedMemory::create("test", 8192)).value();
  peer_sends_frame(FrameType::kRegion, encode(RegionFrame{4, 8192}), memory.descriptor());
  peer_sends_frame(FrameType::kMessage, {});
  ASSERT_TRUE(run_until([&] { return notes_.messages.size() == 1; }));
  const Bytes descriptor = encode(RegionDescriptor{.mappable = true});
  EXPECT_EQ(transport_->accept({2, 4}, 8192, descriptor).code(), CARDEA_ERR_INVALID_ARGUMENT);
  EXPECT_EQ(transport_->accept({kPeer, 5}, 8192, descriptor).code(), CARDEA_ERR_PROTOCOL);
  EXPECT_EQ(transport_->accept({kPeer, 4}, 8193, descriptor).code(), CARDEA_ERR_PROTOCOL);
  EXPECT_EQ(transport_->accept({kPeer, 4}, 8192, Bytes(3)).code(), CARDEA_ERR_PROTOCOL);
  EXPECT_EQ(transport_->mapped({kPeer, 4}), nullptr);
  EXPECT_TRUE(transport_->accept({kPeer, 4}, 8192, descriptor).ok());
  EXPECT_TRUE(transport_->accept({kPeer, 4}, 8192, descriptor).ok());
  EXPECT_NE(transport_->mapped({kPeer, 4}), nullptr);
  transport_->forget({kPeer, 4});
  EXPECT_EQ(transport_->mapped({kPeer, 4}), nullptr);
}

TEST_F(ShmLink, UnreadableMemoryOfAPeerIsAnErrorAndNoCrash) {
  open({}, getpid());
  void* hole = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(static_cast<char*>(hole) + 4096, 4096);
  ASSERT_TRUE(
      transport_->accept({kPeer, 1}, 8192, encode(RegionDescriptor{false, reinterpret_cast<std::uintptr_t>(hole)})).ok());
  landing_.resize(8192);
  transport_->start({.token = 1,
                     .source = kPeer,
                     .bytes = 8192,
                     .destination = {{landing_.data(), 8192}},
                     .source_pieces = {{{kPeer, 1}, 0, 8192}}});
  ASSERT_TRUE(run_until([&] { return notes_.done.contains(1); }));
  EXPECT_EQ(notes_.done.at(1).code(), CARDEA_ERR_SYSTEM);
  EXPECT_NE(notes_.done.at(1).message().find("process_vm_readv"), std::string::npos);
  EXPECT_TRUE(notes_.losses.empty());
  munmap(hole, 4096);
}

TEST_F(ShmLink, AStampThatChangedWhileCopyingIsStale) {
  open({}, getpid());
  std::vector<std::uint64_t> memory(1 << 20, 4);  // 8 MiB: many turns
  const std::uint64_t bytes = memory.size() * 8;
  ASSERT_TRUE(
      transport_->accept({kPeer, 1}, bytes, encode(RegionDescriptor{false, reinterpret_cast<std::uintptr_t>(memory.data())}))
          .ok());
  landing_.resize(bytes);
  for (const bool changes : {false, true}) {
    transport_->start({.token = changes ? 2u : 1u,
                       .source = kPeer,
                       .expert = {.version = 4},
                       .bytes = bytes,
                       .destination = {{landing_.data(), bytes}},
                       .source_pieces = {{{kPeer, 1}, 0, bytes}},
                       .stamp = {{kPeer, 1}, 0, 8}});
    io_.restart();
    io_.run_one();
    EXPECT_FALSE(notes_.done.contains(changes ? 2 : 1)) << "the engine did not get its turn";
    if (changes) memory[0] = 5;
    ASSERT_TRUE(run_until([&] { return notes_.done.contains(changes ? 2 : 1); }));
    EXPECT_EQ(notes_.done.at(changes ? 2 : 1).code(), changes ? CARDEA_ERR_STALE : CARDEA_OK);
  }
}

TEST_F(ShmLink, ALoanIsGivenBackWhenItsBorrowerDies) {
  peer_sends_frame(FrameType::kAsk, encode(AskFrame{.request = 1, .bytes = 64 << 20}));
  ASSERT_TRUE(run_until([&] { return notes_.leases == 1; }));
  std::byte some[100];
  ASSERT_TRUE(run_until([&] { return recv(peer_.get(), some, sizeof some, 0) > 0; }));  // mid-transfer
  peer_.reset();
  ASSERT_TRUE(run_until([&] { return notes_.losses.size() == 1; }));
  EXPECT_EQ(notes_.losses[0].code(), CARDEA_ERR_PEER_LOST);
  EXPECT_EQ(notes_.leases, 0);
}

TEST_F(ShmLink, CloseGivesUpOnAPeerThatDoesNotRead) {
  for (int i = 0; i < 8; ++i) transport_->send(kPeer, Bytes(1 << 20));
  ask(1000);
  bool closed = false;
  const auto before = Clock::now();
  transport_->close([&] { closed = true; });
  EXPECT_FALSE(closed);
  ASSERT_TRUE(run_until([&] { return closed; }));
  EXPECT_GE(Clock::now() - before, std::chrono::milliseconds(200));
  EXPECT_EQ(notes_.done.at(7).code(), CARDEA_ERR_CANCELED);
  EXPECT_TRUE(notes_.losses.empty());
}

// The owner is killed while a chunk from its private memory moves; what is mapped stays readable.
TEST_F(ShmLink, AKilledPeersChunksFailAndItsMappedMemoryStaysReadable) {
  constexpr std::uint64_t kBytes = 64 << 20;
  auto* const priv =
      static_cast<std::byte*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  SharedMemory memory = std::move(SharedMemory::create("test", kBytes)).value();
  const pid_t child = fork();
  if (child == 0) {
    std::memset(priv, 2, kBytes);
    std::memset(memory.data(), 3, kBytes);
    ::kill(getpid(), SIGSTOP);
    for (;;) pause();
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, WUNTRACED), child);
  ASSERT_TRUE(WIFSTOPPED(status));
  // The test keeps the socket open: only the process's end can tell of the death.
  open({}, child);
  peer_sends_frame(FrameType::kRegion, encode(RegionFrame{4, kBytes}), memory.descriptor());
  peer_sends_frame(FrameType::kMessage, {});
  ASSERT_TRUE(run_until([&] { return notes_.messages.size() == 1; }));
  ASSERT_TRUE(transport_->accept({kPeer, 4}, kBytes, encode(RegionDescriptor{.mappable = true})).ok());
  ASSERT_TRUE(
      transport_->accept({kPeer, 5}, kBytes, encode(RegionDescriptor{false, reinterpret_cast<std::uintptr_t>(priv)})).ok());
  memory = {};  // the owner's mapping is gone with it, and so is ours

  landing_.assign(kBytes, std::byte{0});
  transport_->start({.token = 1,
                     .source = kPeer,
                     .bytes = kBytes,
                     .destination = {{landing_.data(), kBytes}},
                     .source_pieces = {{{kPeer, 5}, 0, kBytes}}});
  ASSERT_TRUE(run_until([&] { return landing_[0] == std::byte{2}; }));
  EXPECT_FALSE(notes_.done.contains(1));
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_EQ(landing_[kBytes - 1], std::byte{0}) << "the fault came too late";
  ASSERT_TRUE(run_until([&] { return notes_.losses.size() == 1; }));
  EXPECT_EQ(notes_.done.at(1).code(), CARDEA_ERR_PEER_LOST) << notes_.done.at(1).message();
  EXPECT_EQ(notes_.done.at(1).detail().peer, kPeer);
  const std::byte* const mapped = transport_->mapped({kPeer, 4});
  ASSERT_NE(mapped, nullptr);
  for (std::uint64_t at = 0; at < kBytes; at += 4096) ASSERT_EQ(mapped[at], std::byte{3}) << at;
  munmap(priv, kBytes);
}

}  // namespace
}  // namespace cardea::shm
