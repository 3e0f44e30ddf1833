// SPDX-License-Identifier: Apache-2.0
// What a rank's runtime does about peers that lie: places outside of their memory, things said twice, too early or by whom
// they do not concern, and questions for what is not there. The liar is lost, and named; nothing else happens.
#include <gtest/gtest.h>

#include "tests/engine/played_peers.h"

namespace cardea::engine {
namespace {

using core::Notice;
using test::ManualExecutor;
using test::Nobody;
using test::PlayedPeers;

constexpr Rank kSelf = 0, kNear = 1, kFar = 2;
constexpr std::uint64_t kRegion = 8192, kBytes = 1000, kStride = 1024;

class HostilePeer : public testing::Test {
 protected:
  HostilePeer() { renew(); }

  void renew() {
    executor_.forget();
    layer_.reset();
    runtime_.reset();
    wire_ = std::make_unique<PlayedPeers>(kRegion, [](bool kept, const char* promise) { EXPECT_TRUE(kept) << promise; });
    runtime_ = std::make_unique<Runtime>(executor_, nobody_, RuntimeOptions{.self = kSelf, .node_of = {0, 0, 1, 1}});
    runtime_->attach({nullptr, wire_.get(), wire_.get(), wire_.get()});
    LayerRequest request{.group = 1, .ranks = {kSelf, kNear, kFar}, .layer_id = 5, .num_experts = 4};
    request.layout = core::SegmentLayout::make({{"w", kBytes, 64}}).value();
    request.experts = {0};
    request.is_home = {1};
    request.places = {{own_.data(), kStride, {}}};
    const auto held = runtime_->lock();
    layer_ = *runtime_->begin_layer(std::move(request));
  }
  LayerAnnounce announcement(std::vector<ExpertIndex> experts) {
    LayerAnnounce announce;
    announce.layer = layer_->key;
    announce.num_experts = 4;
    announce.layout = layer_->layout;
    announce.is_home.assign(experts.size(), 1);
    announce.experts = std::move(experts);
    announce.places = {{true, {5, 0}, kStride, {}}};
    announce.regions = {{5, kRegion, Bytes(1)}, {6, 64, {}}};
    announce.stamp_region = 6;
    return announce;
  }
  void say(Rank from, const Message& message) {
    runtime_->on_message(from, encode(message));
    ASSERT_TRUE(executor_.drain());
  }
  void form() {
    say(kNear, announcement({1}));
    say(kFar, announcement({2, 3}));
    ASSERT_TRUE(layer_->formed);
  }
  void expect_lost(Rank liar, const char* word, const char* what) {
    const auto held = runtime_->lock();
    EXPECT_FALSE(runtime_->alive(liar)) << what;
    EXPECT_TRUE(wire_->disconnected.contains(liar)) << what;
    const Status why = runtime_->formed(*layer_);
    if (layer_->formed) return;
    EXPECT_EQ(why.code(), CARDEA_ERR_PROTOCOL) << what << ": " << why.message();
    EXPECT_EQ(why.detail().peer, liar) << what;
    EXPECT_NE(why.message().find(word), std::string::npos) << what << ": " << why.message();
  }

  ManualExecutor executor_;
  Nobody nobody_;
  Bytes own_ = Bytes(kStride);
  std::unique_ptr<PlayedPeers> wire_;
  std::unique_ptr<Runtime> runtime_;
  std::shared_ptr<LayerRecord> layer_;
};

TEST_F(HostilePeer, OffsetsAndLengthsThatOverflowOrLeaveTheirRegionAreRefused) {
  const std::uint64_t far_offsets[] = {kRegion - kBytes + 1, kRegion,   kRegion + 1, std::uint64_t{1} << 31,
                                       UINT64_MAX - kBytes,  UINT64_MAX};
  for (const std::uint64_t offset : far_offsets) {
    renew();
    LayerAnnounce liar = announcement({1});
    liar.places[0].first.offset = offset;
    say(kNear, liar);
    expect_lost(kNear, "outside of its regions", "a stacked segment");
    renew();
    liar.places[0] = {false, {}, 0, {{5, offset}}};
    say(kNear, liar);
    expect_lost(kNear, "outside of its regions", "a pointer");
    renew();
    liar = announcement({1});
    liar.stamp_offset = offset;
    say(kNear, liar);
    expect_lost(kNear, "stamp", "a stamp");
    renew();
    liar = announcement({1});
    liar.slab = SlabPlace{1, 2, {{true, {5, offset}, kBytes, {}}}};
    say(kNear, liar);
    expect_lost(kNear, "slab", "a slab");
  }
  for (const std::uint64_t stride :
       {std::uint64_t{0}, std::uint64_t{1}, kBytes - 1, kRegion, std::uint64_t{1} << 63, UINT64_MAX}) {
    renew();
    LayerAnnounce liar = announcement({1, 2, 3});
    liar.places[0].stride = stride;
    say(kNear, liar);
    expect_lost(kNear, "", "a stride");
  }
  for (const std::uint32_t region : {0u, 7u, 1u << 31, UINT32_MAX}) {
    renew();
    LayerAnnounce liar = announcement({1});
    liar.places[0].first.region = region;
    say(kNear, liar);
    expect_lost(kNear, "outside of its regions", "a region that was not offered");
  }
}

TEST_F(HostilePeer, RegionsOfOddSizesAndTheSameTwiceAreRefused) {
  for (const std::uint64_t bytes : {std::uint64_t{0}, kRegion + 1, std::uint64_t{1} << 31, UINT64_MAX}) {
    renew();
    LayerAnnounce liar = announcement({1});
    liar.regions[0].bytes = bytes;
    say(kNear, liar);
    expect_lost(kNear, "", "a region's size");
  }
  renew();
  LayerAnnounce liar = announcement({1});
  liar.regions.push_back(liar.regions[0]);
  say(kNear, liar);
  expect_lost(kNear, "a region twice", "the same region again");
}

TEST_F(HostilePeer, WhatIsSaidTwiceTooEarlyOrByAStrangerIsRefused) {
  say(kNear, announcement({1}));
  say(kNear, announcement({1}));
  expect_lost(kNear, "a second time", "an announcement");
  renew();
  say(kNear, LayerNotice{layer_->key, {kNoRank, Notice::Kind::kPublished, 0, 1}});
  expect_lost(kNear, "before announcing itself", "a notice");
  renew();
  say(3, announcement({1}));
  const auto held = runtime_->lock();
  EXPECT_FALSE(runtime_->alive(3)) << "it is no member of the layer's group";
  EXPECT_EQ(runtime_->formed(*layer_).code(), CARDEA_IN_PROGRESS) << "and the layer is none of its business";
}

TEST_F(HostilePeer, NoticesThatASenderMayNotGiveAreRefused) {
  const Notice wrong[] = {{kNoRank, Notice::Kind::kNodeFinished, 0, 1},  // of a node that is not its own
                          {kNoRank, Notice::Kind::kNodeFinished, 7, 1},  // of a node that there is not
                          {kNoRank, Notice::Kind::kNodeFinished, UINT32_MAX, 1},
                          {kNoRank, Notice::Kind::kRankFinished, 0, 1}};  // to a leader that is not its own
  for (const Notice& notice : wrong) {
    renew();
    form();
    say(kFar, LayerNotice{layer_->key, notice});
    expect_lost(kFar, "", "a notice");
  }
  renew();
  form();
  say(kFar, NodeNotice{0, 0});
  expect_lost(kFar, "", "word of another node's cache");
  renew();
  form();
  for (const std::uint32_t number : {0u, 1u, 1u << 31, UINT32_MAX}) say(kNear, NodeNotice{number, number});
  EXPECT_TRUE(runtime_->alive(kNear)) << "entries and NICs that there are not are passed over";
}

TEST_F(HostilePeer, StaleAndRepeatedVersionsOfAPeerChangeNothing) {
  form();
  say(kFar, LayerNotice{layer_->key, {kNoRank, Notice::Kind::kPublished, 0, 5}});
  EXPECT_EQ(runtime_->core().published(layer_->number, kFar), 5u);
  for (const Version stale : {Version{5}, Version{4}, Version{0}}) {
    renew();
    form();
    say(kFar, LayerNotice{layer_->key, {kNoRank, Notice::Kind::kPublished, 0, 5}});
    say(kFar, LayerNotice{layer_->key, {kNoRank, Notice::Kind::kPublished, 0, stale}});
    EXPECT_TRUE(!runtime_->alive(kFar) || runtime_->core().published(layer_->number, kFar) == 5) << stale;
  }
}

TEST_F(HostilePeer, AskingForWhatIsNotHereIsRefusedAndLendsNothing) {
  form();
  {
    const auto held = runtime_->lock();
    ASSERT_TRUE(runtime_->publish(*layer_, 3).ok());
  }
  const transport::ExpertAddress right{layer_->key, 0, 3};
  const auto lend = [&](Rank asker, const transport::ExpertAddress& expert, std::uint64_t offset, std::uint64_t bytes) {
    return runtime_->lend(asker, expert, offset, bytes).status().code();
  };
  const auto good = runtime_->lend(kFar, right, 0, kBytes);
  ASSERT_TRUE(good.ok()) << good.status().message();
  runtime_->give_back(good->id, kBytes);
  for (const std::uint64_t number : {kBytes, kBytes + 1, std::uint64_t{1} << 31, UINT64_MAX}) {
    EXPECT_EQ(lend(kFar, right, number, 1), CARDEA_ERR_INVALID_ARGUMENT) << number;
    EXPECT_EQ(lend(kFar, right, 1, number), CARDEA_ERR_INVALID_ARGUMENT) << number;
  }
  EXPECT_EQ(lend(kFar, right, 0, 0), CARDEA_ERR_INVALID_ARGUMENT);
  for (const Version version : {Version{0}, Version{2}, Version{4}, kNoVersion})
    EXPECT_NE(lend(kFar, {layer_->key, 0, version}, 0, 1), CARDEA_OK) << version;
  for (const ExpertIndex expert : {1u, 4u, 1u << 31, UINT32_MAX})
    EXPECT_EQ(lend(kFar, {layer_->key, expert, 3}, 0, 1), CARDEA_ERR_INVALID_ARGUMENT) << expert;
  EXPECT_EQ(lend(kFar, {{layer_->key.group + 1, 5}, 0, 3}, 0, 1), CARDEA_ERR_STALE);
  EXPECT_EQ(lend(3, right, 0, 1), CARDEA_ERR_INVALID_ARGUMENT) << "the asker is no member";
  const auto held = runtime_->lock();
  EXPECT_FALSE(runtime_->core().lent(layer_->number));
}

TEST_F(HostilePeer, AnAnswerForAChunkThatIsNotOnItsWayIsPassedOver) {
  form();
  for (const transport::ChunkToken token : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 31, UINT64_MAX})
    runtime_->on_chunk_done(token, {});
  runtime_->give_back(77, 5);
  const auto held = runtime_->lock();
  EXPECT_EQ(runtime_->core().chunks_in_flight(), 0u);
}

TEST_F(HostilePeer, WhoSaysThatHeLetGoOfMemoryThatIsNotFreedIsRefused) {
  form();
  say(kNear, RegionsUnmapped{{1000, UINT32_MAX}});
  EXPECT_TRUE(runtime_->alive(kNear)) << "regions that there are not are passed over";
  say(kNear, RegionsUnmapped{{layer_->stamp.region}});
  expect_lost(kNear, "has not been freed", "let go of too early");
}

TEST_F(HostilePeer, WhatTheOwnerFreesIsAnsweredOnceAndAlsoByWhoNeverHadIt) {
  const auto answers = [&] {
    std::vector<std::uint32_t> regions;
    for (const auto& [to, message] : std::exchange(wire_->sent, {})) {
      const auto* const unmapped = std::get_if<RegionsUnmapped>(&message);
      if (unmapped == nullptr) continue;
      EXPECT_EQ(to, kNear);
      regions.insert(regions.end(), unmapped->regions.begin(), unmapped->regions.end());
    }
    return regions;
  };
  const auto device_offer = [](std::uint32_t region) {
    cuda::Export told;
    told.kind = cuda::Export::Kind::kIpcHandle;
    told.allocation = kRegion;
    return RegionOffer{region, kRegion, told.encode()};
  };
  // A region of device memory that this rank's layer lies in (it has no GPU), one that was never offered, one of another
  // node.
  LayerAnnounce near = announcement({1});
  near.regions[0] = device_offer(5);
  say(kNear, near);
  say(kFar, announcement({2, 3}));
  ASSERT_TRUE(layer_->formed);
  say(kNear, RegionsGone{{5, 77}});
  say(kFar, RegionsGone{{99}});
  EXPECT_EQ(answers(), (std::vector<std::uint32_t>{77})) << "region 5 is in use";
  {
    const auto held = runtime_->lock();
    ASSERT_TRUE(runtime_->end_layer(*layer_).ok());
  }
  ASSERT_TRUE(executor_.drain());
  EXPECT_EQ(answers(), (std::vector<std::uint32_t>{5}));

  // Offered for layers that are not begun here, and freed: answered at once, and not taken up when they begin.
  for (const std::uint32_t id : {50, 51}) {
    LayerRequest request{.group = 1, .ranks = {kSelf, kNear, kFar}, .layer_id = id, .num_experts = 4};
    request.layout = layer_->layout;
    renew();
    {
      const auto held = runtime_->lock();
      layer_ = *runtime_->begin_layer(request);
    }
    const LayerKey key = layer_->key;
    renew();
    near = announcement({1});
    near.layer = key;
    near.regions[0] = device_offer(5);
    say(kNear, near);
    say(kNear, RegionsGone{{5}});
    EXPECT_EQ(answers(), (std::vector<std::uint32_t>{5}));
    {
      const auto held = runtime_->lock();
      layer_ = *runtime_->begin_layer(request);
    }
    ASSERT_TRUE(executor_.drain());
    EXPECT_TRUE(runtime_->alive(kNear));
    ASSERT_TRUE(layer_->sources.contains(kNear)) << "the early announcement was read";
    say(kNear, LayerLeft{key, Status(CARDEA_ERR_TIMEOUT, "nobody came")});
    const auto held = runtime_->lock();
    EXPECT_FALSE(runtime_->formed(*layer_).ok());
    EXPECT_TRUE(runtime_->end_layer(*layer_).ok());
  }
}

TEST_F(HostilePeer, AMessageTruncatedAnywhereLosesItsSender) {
  const Bytes whole = encode(announcement({1}));
  for (std::size_t length = 0; length < whole.size(); length += length < 16 ? 1 : 7) {
    renew();
    runtime_->on_message(kNear, ByteView(whole).first(length));
    expect_lost(kNear, "", "truncated");
  }
}

}  // namespace
}  // namespace cardea::engine
