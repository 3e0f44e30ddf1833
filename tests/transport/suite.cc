// SPDX-License-Identifier: Apache-2.0
#include "tests/transport/suite.h"

#include "lib/base/wire.h"

namespace cardea::test {
namespace {

using transport::ChunkOrder;
using transport::RegionKey;
using transport::Transport;

constexpr unsigned kFirstBarrier = 512;

/// Tells the recorder what the scenario asks of the transport, and when it is inside of it.
class WatchedTransport : public Transport {
 public:
  WatchedTransport(Transport& inner, Recorder& recorder) : inner_(inner), recorder_(recorder) {}

  std::string_view name() const override { return inner_.name(); }
  Bytes address() const override { return inner_.address(); }
  Status connect(std::span<const std::pair<Rank, Bytes>> peers) override {
    const Inside inside(recorder_);
    return inner_.connect(peers);
  }
  void send(Rank peer, Bytes message) override {
    const Inside inside(recorder_);
    inner_.send(peer, std::move(message));
  }
  Result<Bytes> offer(std::uint32_t region, void* base, std::uint64_t bytes, int memfd,
                      std::span<const Rank> peers) override {
    const Inside inside(recorder_);
    return inner_.offer(region, base, bytes, memfd, peers);
  }
  void withdraw(std::uint32_t region) override {
    const Inside inside(recorder_);
    inner_.withdraw(region);
  }
  Status accept(RegionKey region, std::uint64_t bytes, ByteView descriptor) override {
    const Inside inside(recorder_);
    return inner_.accept(region, bytes, descriptor);
  }
  void forget(RegionKey region) override {
    const Inside inside(recorder_);
    inner_.forget(region);
  }
  const std::byte* mapped(RegionKey region) const override { return inner_.mapped(region); }
  void start(ChunkOrder order) override {
    const Inside inside(recorder_);
    recorder_.note_started(order.token, order.source);
    order.rail = static_cast<std::uint32_t>(order.token % 2);  // for transports that have several
    inner_.start(std::move(order));
  }
  void disconnect(Rank peer) override {
    const Inside inside(recorder_);
    inner_.disconnect(peer);
  }
  void close(std::function<void()> done) override {
    const Inside inside(recorder_);
    inner_.close([this, done = std::move(done)] {
      recorder_.note_closed();
      done();
    });
  }

 private:
  struct Inside {
    explicit Inside(Recorder& recorder) : recorder_(recorder) { recorder_.enter_call(); }
    ~Inside() { recorder_.leave_call(); }
    Recorder& recorder_;
  };

  Transport& inner_;
  Recorder& recorder_;
};

}  // namespace

RankHarness::RankHarness(Rank rank, unsigned ranks, const Traits& traits)
    : rank_(rank), ranks_(ranks), traits_(traits), recorder_(rank) {}

RankHarness::~RankHarness() = default;

std::vector<Rank> RankHarness::others() const {
  std::vector<Rank> out;
  for (Rank r = 0; r < ranks_; ++r) {
    if (r != rank_) out.push_back(r);
  }
  return out;
}

Transport& RankHarness::transport() {
  return *watched_;
}

void RankHarness::set_transport(Transport& transport) {
  watched_ = std::make_unique<WatchedTransport>(transport, recorder_);
}

void RankHarness::run_for(Nanoseconds duration) {
  (void)run_until([] { return false; }, duration);
}

bool RankHarness::barrier(unsigned count) {
  const unsigned index = kFirstBarrier + barriers_++;
  const unsigned long expected = count == 0 ? ranks_ : count;
  add(index, 1);
  const bool met = run_until([&] { return get(index) >= expected; });
  EXPECT_TRUE(met) << "rank " << rank_ << ": only " << get(index) << " ranks came to barrier " << index - kFirstBarrier;
  return met;
}

Region& RankHarness::make_region(std::uint32_t id, std::uint64_t bytes, Memory kind) {
  regions_.push_back(std::make_unique<Region>(rank_, id, bytes, kind));
  return *regions_.back();
}

void RankHarness::offer(const Region& region, std::span<const Rank> peers) {
  Result<Bytes> descriptor = transport().offer(region.id(), region.base(), region.bytes(), region.memfd(), peers);
  ASSERT_TRUE(descriptor.ok()) << descriptor.status().message();
  for (const Rank peer : peers) {
    transport().send(peer, WireWriter().number(region.id()).number(region.bytes()).blob(*descriptor).take());
  }
}

bool RankHarness::accept_from(Rank owner) {
  const Bytes message = next_message(owner);
  WireReader reader(message);
  const auto id = reader.number<std::uint32_t>();
  const auto bytes = reader.number<std::uint64_t>();
  const ByteView descriptor = reader.blob(1 << 20);
  if (const Status status = reader.finish("descriptor"); !status.ok()) {
    ADD_FAILURE() << "rank " << rank_ << ": from rank " << owner << ": " << status.message();
    return false;
  }
  const Status status = transport().accept({.owner = owner, .region = id}, bytes, descriptor);
  EXPECT_TRUE(status.ok()) << "rank " << rank_ << " cannot accept a region of rank " << owner << ": " << status.message();
  return status.ok();
}

Bytes RankHarness::next_message(Rank from) {
  auto& waiting = recorder_.messages(from);
  if (!run_until([&] { return !waiting.empty(); })) {
    ADD_FAILURE() << "rank " << rank_ << ": no message came from rank " << from;
    return {};
  }
  Bytes message = std::move(waiting.front());
  waiting.pop_front();
  return message;
}

bool RankHarness::close() {
  if (recorder_.count(Recorder::Event::kClosed) == 0) {
    transport().close([] {});
  }
  const bool closed = run_until([&] { return recorder_.count(Recorder::Event::kClosed) > 0; });
  EXPECT_TRUE(closed) << "rank " << rank_ << ": close() did not end";
  return closed;
}

void TransportSuite::run_for_each_memory(unsigned ranks, const std::function<void(RankHarness&, Memory)>& body,
                                         const std::vector<unsigned>& victims) {
  for (const Memory kind : {Memory::kMappable, Memory::kPrivate}) {
    SCOPED_TRACE(kind == Memory::kMappable ? "memory with a memfd" : "private memory");
    run(
        ranks, [&](RankHarness& rank) { body(rank, kind); }, victims);
  }
}

std::string backend_name(const ::testing::TestParamInfo<BackendParam>& info) {
  return info.param.name;
}

}  // namespace cardea::test
