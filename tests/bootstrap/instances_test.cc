// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/instances.h"

#include <gtest/gtest.h>

#include <optional>

namespace cardea::bootstrap {
namespace {

using Attempt = Instances::Attempt;

TEST(Instances, WhatFormsIsCounted) {
  Instances instances;
  for (std::uint64_t number = 0; number < 3; ++number) {
    Attempt attempt(instances);
    EXPECT_EQ(attempt.number(), number);
    attempt.formed();
  }
}

// A rank that failed before it could ask anybody, and one that waited for it in vain, meet in their next attempts.
TEST(Instances, WhatFailsIsNot) {
  Instances instances;
  Attempt(instances).formed();
  for (int failure = 0; failure < 3; ++failure) EXPECT_EQ(Attempt(instances).number(), 1u);
  Attempt(instances).formed();
  EXPECT_EQ(Attempt(instances).number(), 2u);
}

TEST(Instances, AttemptsAtATimeAreDifferentAndWhatOneGivesBackIsTakenFirst) {
  Instances instances;
  std::optional<Attempt> first(std::in_place, instances);
  Attempt second(instances);
  EXPECT_EQ(first->number(), 0u);
  EXPECT_EQ(second.number(), 1u);
  first.reset();
  EXPECT_EQ(Attempt(instances).number(), 0u);
  second.formed();
  Attempt third(instances), fourth(instances);
  EXPECT_EQ(third.number(), 0u);
  EXPECT_EQ(fourth.number(), 2u);
}

}  // namespace
}  // namespace cardea::bootstrap
