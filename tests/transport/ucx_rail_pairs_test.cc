// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/ucx/rail_pairs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace cardea::transport::ucx {
namespace {

using ::testing::ElementsAre;

std::vector<RailAddress> in(std::initializer_list<const char*> networks) {
  std::vector<RailAddress> rails;
  for (const char* const network : networks) rails.push_back({"nic", network, {}});
  return rails;
}

/// As rank 0 computes it, and the same from rank 1's side.
std::vector<RailPair> pairs(const std::vector<RailAddress>& low, const std::vector<RailAddress>& high) {
  std::vector<RailPair> here = pair_rails(0, low, 1, high);
  std::vector<RailPair> there = pair_rails(1, high, 0, low);
  for (RailPair& pair : there) std::swap(pair.mine, pair.theirs);
  EXPECT_EQ(here, there) << "both must find the same, in the same order";
  return here;
}

TEST(RailPairs, OfOneNetworkSpeakToEachOther) {
  EXPECT_THAT(pairs(in({"a", "b"}), in({"a", "b"})), ElementsAre(RailPair{0, 0}, RailPair{1, 1}));
  EXPECT_THAT(pairs(in({"a", "b"}), in({"b", "a"})), ElementsAre(RailPair{0, 1}, RailPair{1, 0}))
      << "another rank of the node may begin with another NIC";
  EXPECT_THAT(pairs(in({"a", "a"}), in({"a", "a"})), ElementsAre(RailPair{0, 0}, RailPair{1, 1}));
}

TEST(RailPairs, APeerWithFewerIsReachedByThoseThatBothHave) {
  EXPECT_THAT(pairs(in({"a", "b"}), in({"b"})), ElementsAre(RailPair{1, 0}));
  EXPECT_THAT(pairs(in({"b"}), in({"a", "b"})), ElementsAre(RailPair{0, 1}));
  EXPECT_THAT(pairs(in({"a", "b", "c"}), in({"c", "d", "a"})), ElementsAre(RailPair{0, 2}, RailPair{2, 0}))
      << "b and d have no network in common";
  EXPECT_THAT(pairs(in({"a", "a", "a"}), in({"a"})), ElementsAre(RailPair{0, 0}));
}

TEST(RailPairs, ANetworkThatNobodyTellsIsAnyNetwork) {
  EXPECT_THAT(pairs(in({"", ""}), in({"", ""})), ElementsAre(RailPair{0, 0}, RailPair{1, 1}));
  EXPECT_THAT(pairs(in({"a", "b"}), in({""})), ElementsAre(RailPair{0, 0})) << "UCX chooses there";
  EXPECT_THAT(pairs(in({"a", "b"}), in({"", "a"})), ElementsAre(RailPair{0, 1}, RailPair{1, 0}));
}

TEST(RailPairs, WithoutANetworkInCommonTheyArePairedByNumber) {
  EXPECT_THAT(pairs(in({"a", "b"}), in({"c", "d", "e"})), ElementsAre(RailPair{0, 0}, RailPair{1, 1}));
}

TEST(RailPairs, LanesAreTheLongestRunOfThem) {
  using Run = RailRun;
  EXPECT_EQ(run_of({{0, 0}, {1, 1}}), (Run{0, 2}));
  EXPECT_EQ(run_of({{1, 0}}), (Run{1, 1}));
  EXPECT_EQ(run_of({{1, 0}, {0, 1}}), (Run{0, 2}));
  EXPECT_EQ(run_of({{0, 0}, {2, 1}, {3, 2}}), (Run{2, 2}));
  EXPECT_EQ(run_of({{2, 0}, {0, 1}}), (Run{2, 1})) << "the main one, if no other is longer";
}

}  // namespace
}  // namespace cardea::transport::ucx
