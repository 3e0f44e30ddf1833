// SPDX-License-Identifier: Apache-2.0
// Control messages as bytes: what is written is read back, and what a hostile peer may send instead is refused.
#include "lib/engine/messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lib/base/wire.h"
#include "tests/engine/sample_messages.h"

namespace cardea::engine {
namespace {

using testing::HasSubstr;

/// A message of an announcement up to the number of its experts, which the caller adds.
WireWriter announcement_until_experts(std::uint32_t num_experts) {
  WireWriter out;
  out.number(std::uint8_t{1}).number(std::uint64_t{1}).number(std::uint32_t{2}).number(num_experts);
  announcement().layout.encode(out);
  return out;
}

cardea_status_t code_of(const Bytes& bytes) {
  const Result<Message> message = decode(bytes);
  return message.status().code();
}

TEST(Messages, AnnouncementComesBackAsItWasSent) {
  const LayerAnnounce sent = announcement();
  const Result<Message> message = decode(encode(sent));
  ASSERT_TRUE(message.ok()) << message.status().message();
  const auto& got = std::get<LayerAnnounce>(*message);
  EXPECT_EQ(got.layer, sent.layer);
  EXPECT_EQ(got.num_experts, sent.num_experts);
  EXPECT_EQ(got.layout.difference(sent.layout), "");
  EXPECT_EQ(got.experts, sent.experts);
  EXPECT_EQ(got.is_home, sent.is_home);
  ASSERT_EQ(got.places.size(), 2u);
  for (std::size_t s = 0; s < 2; ++s) {
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(got.places[s].of(i).region, sent.places[s].of(i).region);
      EXPECT_EQ(got.places[s].of(i).offset, sent.places[s].of(i).offset);
    }
  }
  ASSERT_EQ(got.regions.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(got.regions[i].region, sent.regions[i].region);
    EXPECT_EQ(got.regions[i].bytes, sent.regions[i].bytes);
    EXPECT_EQ(got.regions[i].descriptor, sent.regions[i].descriptor);
  }
  EXPECT_EQ(got.stamp_region, sent.stamp_region);
  EXPECT_EQ(got.stamp_offset, sent.stamp_offset);
  ASSERT_TRUE(got.slab.has_value());
  EXPECT_EQ(got.slab->number, 2u);
  EXPECT_EQ(got.slab->slots, 10u);
  ASSERT_EQ(got.slab->places.size(), 2u);
  for (std::size_t s = 0; s < 2; ++s) {
    EXPECT_EQ(got.slab->places[s].of(9).region, sent.slab->places[s].first.region);
    EXPECT_EQ(got.slab->places[s].of(9).offset, sent.slab->places[s].of(9).offset);
  }
}

TEST(Messages, AnAnnouncementNeedNotTellOfASlab) {
  LayerAnnounce sent = announcement();
  sent.slab.reset();
  const Result<Message> message = decode(encode(sent));
  ASSERT_TRUE(message.ok());
  EXPECT_FALSE(std::get<LayerAnnounce>(*message).slab.has_value());
}

TEST(Messages, OthersComeBackAsTheyWereSent) {
  const auto notice = std::get<LayerNotice>(*decode(encode(one_of_each()[1])));
  EXPECT_EQ(notice.layer, (LayerKey{1, 2}));
  EXPECT_EQ(notice.notice.kind, core::Notice::Kind::kNodeFinished);
  EXPECT_EQ(notice.notice.node, 6u);
  EXPECT_EQ(notice.notice.version, 77u);
  const auto left = std::get<LayerLeft>(*decode(encode(one_of_each()[2])));
  EXPECT_EQ(left.layer, (LayerKey{3, 4}));
  EXPECT_TRUE(left.why.ok());
  const auto gave_up = std::get<LayerLeft>(*decode(encode(one_of_each()[3])));
  EXPECT_EQ(gave_up.layer, (LayerKey{3, 4}));
  EXPECT_EQ(gave_up.why.code(), CARDEA_ERR_MISMATCH);
  EXPECT_EQ(gave_up.why.message(), "two homes");
  EXPECT_EQ(gave_up.why.detail().peer, 5u);
  EXPECT_EQ(gave_up.why.detail().expert, 6u);
  EXPECT_EQ(std::get<RegionsGone>(*decode(encode(one_of_each()[4]))).regions, (std::vector<std::uint32_t>{1, 2, 300000}));
  EXPECT_TRUE(std::holds_alternative<Goodbye>(*decode(encode(Goodbye{}))));
  EXPECT_EQ(std::get<RegionsUnmapped>(*decode(encode(RegionsUnmapped{{4, 700000}}))).regions,
            (std::vector<std::uint32_t>{4, 700000}));
}

TEST(Messages, LayerOfIsTheLayerSpokenOf) {
  const auto messages = one_of_each();
  EXPECT_EQ(layer_of(messages[0]), announcement().layer);
  EXPECT_EQ(layer_of(messages[1]), (LayerKey{1, 2}));
  EXPECT_EQ(layer_of(messages[2]), (LayerKey{3, 4}));
  EXPECT_EQ(layer_of(messages[3]), (LayerKey{3, 4}));
  EXPECT_EQ(layer_of(messages[4]), std::nullopt);
  EXPECT_EQ(layer_of(messages[5]), std::nullopt);
}

Bytes departure(std::uint32_t code, std::string_view text) {
  WireWriter out;
  out.number(std::uint8_t{3}).number(std::uint64_t{1}).number(std::uint32_t{2}).number(code);
  if (code != 0) out.number(std::uint32_t{0}).number(std::uint32_t{0}).text(text);
  return out.take();
}

TEST(Messages, AReasonIsAKnownErrorOfLimitedLengthWithoutControlCharacters) {
  EXPECT_EQ(code_of(departure(0, "")), CARDEA_OK);
  EXPECT_EQ(code_of(departure(21, "")), CARDEA_OK);
  EXPECT_EQ(code_of(departure(22, "")), CARDEA_ERR_PROTOCOL);
  EXPECT_EQ(code_of(departure(0xffffffff, "")), CARDEA_ERR_PROTOCOL);
  EXPECT_EQ(code_of(departure(0x80000000, "")), CARDEA_ERR_PROTOCOL);
  EXPECT_EQ(code_of(departure(1, std::string(kMaxReason, 'a'))), CARDEA_OK);
  EXPECT_EQ(code_of(departure(1, std::string(kMaxReason + 1, 'a'))), CARDEA_ERR_PROTOCOL);
  const auto shown = std::get<LayerLeft>(*decode(departure(1, "a\n\x1b[31mb\x7f")));
  EXPECT_EQ(shown.why.message(), "a??[31mb?");
  const LayerLeft talkative{{1, 2}, Status(CARDEA_ERR_TIMEOUT, std::string(5000, 'b'))};
  EXPECT_EQ(std::get<LayerLeft>(*decode(encode(talkative))).why.message(), std::string(kMaxReason, 'b'));
}

TEST(Messages, TruncatedAnywhereIsRefused) {
  for (const Message& message : one_of_each()) {
    const Bytes whole = encode(message);
    for (std::size_t length = 0; length < whole.size(); ++length)
      EXPECT_EQ(code_of(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length))), CARDEA_ERR_PROTOCOL)
          << "message " << message.index() << " cut to " << length;
  }
}

TEST(Messages, OneByteTooManyIsRefused) {
  for (const Message& message : one_of_each()) {
    Bytes longer = encode(message);
    longer.push_back(std::byte{0});
    EXPECT_EQ(code_of(longer), CARDEA_ERR_PROTOCOL) << message.index();
  }
}

TEST(Messages, AnyByteChangedIsReadOrRefusedButNeverWorse) {
  for (const Message& message : one_of_each()) {
    const Bytes whole = encode(message);
    for (std::size_t at = 0; at < whole.size(); ++at) {
      for (const unsigned value : {0x00u, 0x01u, 0x7Fu, 0x80u, 0xFFu}) {
        Bytes changed = whole;
        changed[at] = static_cast<std::byte>(value);
        const cardea_status_t code = code_of(changed);
        EXPECT_TRUE(code == CARDEA_OK || code == CARDEA_ERR_PROTOCOL) << code;
      }
    }
  }
}

TEST(Messages, UnknownOpcodeIsNamed) {
  const Bytes unknown{std::byte{200}};
  EXPECT_THAT(decode(unknown).status().message(), HasSubstr("200"));
  EXPECT_EQ(code_of(Bytes{std::byte{0}}), CARDEA_ERR_PROTOCOL);
  EXPECT_EQ(code_of({}), CARDEA_ERR_PROTOCOL);
}

TEST(Messages, NumbersOverTheirCapsAreRefusedBeforeAnythingIsAllocated) {
  for (const std::uint32_t experts : {0u, kMaxExperts + 1, std::uint32_t{1} << 31, UINT32_MAX}) {
    EXPECT_EQ(code_of(announcement_until_experts(experts).number(std::uint32_t{0}).take()), CARDEA_ERR_PROTOCOL) << experts;
  }
  for (const std::uint32_t local : {9u, std::uint32_t{1} << 31})  // of 8
    EXPECT_EQ(code_of(announcement_until_experts(8).number(local).take()), CARDEA_ERR_PROTOCOL) << local;
  for (const std::uint32_t regions : {kMaxRegions, kMaxRegions + 1, std::uint32_t{1} << 31}) {
    EXPECT_EQ(code_of(announcement_until_experts(8).number(std::uint32_t{0}).number(regions).take()), CARDEA_ERR_PROTOCOL);
    for (const std::uint8_t opcode : {4, 9})
      EXPECT_EQ(code_of(WireWriter().number(opcode).number(regions).take()), CARDEA_ERR_PROTOCOL);
  }
}

TEST(Messages, DescriptorMayBeAsLongAsItsCapAndNoLonger) {
  LayerAnnounce announce = announcement();
  announce.regions[0].descriptor.assign(kMaxDescriptor, std::byte{1});
  EXPECT_EQ(code_of(encode(announce)), CARDEA_OK);
  announce.regions[0].descriptor.push_back(std::byte{1});
  EXPECT_EQ(code_of(encode(announce)), CARDEA_ERR_PROTOCOL);
}

TEST(Messages, LargestCountsAreRead) {
  LayerAnnounce announce = announcement();
  announce.num_experts = kMaxExperts;
  announce.experts = {kMaxExperts - 1};
  announce.is_home = {1};
  announce.places[1].spots.resize(1);
  EXPECT_EQ(code_of(encode(announce)), CARDEA_OK);
  announce.experts = {kMaxExperts};
  EXPECT_EQ(code_of(encode(announce)), CARDEA_ERR_PROTOCOL) << "an expert that there is not";
  EXPECT_EQ(code_of(encode(RegionsGone{std::vector<std::uint32_t>(kMaxRegions)})), CARDEA_OK);
  EXPECT_EQ(code_of(encode(RegionsUnmapped{std::vector<std::uint32_t>(kMaxRegions)})), CARDEA_OK);
}

TEST(Messages, NoExpertsMeansNoPlaces) {
  LayerAnnounce announce = announcement();
  announce.experts.clear();
  announce.is_home.clear();
  announce.places.clear();
  const Result<Message> message = decode(encode(announce));
  ASSERT_TRUE(message.ok()) << message.status().message();
  EXPECT_TRUE(std::get<LayerAnnounce>(*message).places.empty());
}

TEST(Messages, ExpertNamedTwiceIsRefused) {
  LayerAnnounce announce = announcement();
  announce.experts = {2, 5, 2};
  const Result<Message> message = decode(encode(announce));
  EXPECT_EQ(message.status().code(), CARDEA_ERR_PROTOCOL);
  EXPECT_THAT(message.status().message(), HasSubstr("expert 2 twice"));
}

TEST(Messages, FlagsAndKindsHaveOnlyTheirValues) {
  LayerAnnounce announce = announcement();
  announce.is_home[1] = 2;
  EXPECT_EQ(code_of(encode(announce)), CARDEA_ERR_PROTOCOL);
  for (const std::uint8_t kind : {0, 4, 255}) {
    const core::Notice notice{kNoRank, static_cast<core::Notice::Kind>(kind), 0, 1};
    EXPECT_EQ(code_of(encode(LayerNotice{{1, 2}, notice})), CARDEA_ERR_PROTOCOL) << unsigned{kind};
  }
}

}  // namespace
}  // namespace cardea::engine
