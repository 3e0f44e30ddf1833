// SPDX-License-Identifier: Apache-2.0
// What ranks of a doctor's job tell rank 0, and what UCX logs of its devices.
#include "lib/doctor/own_job.h"
#include "lib/doctor/probe.h"
#include "lib/doctor/report.h"
#include "tests/doctor/sample.h"
#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

using namespace doctor;  // NOLINT(google-build-using-namespace)

bool run(ByteView input) {
  const std::string text(as_text(input));
  bool taken = !devices_of(text).empty();
  if (const Result<Probe> probe = probe_from_line(text); probe.ok()) {
    taken = true;
    require(probe_from_line(probe_line(*probe)).ok(), "a report of a job reads as it was written");
    static_cast<void>(judge(probe->members));
  }
  const Result<Member> member = member_from_json(text);
  if (!member.ok()) {
    require(member.status().code() == CARDEA_ERR_CONFIGURATION, "a bad report is one error");
    return taken;
  }
  const Result<Member> again = member_from_json(to_json(*member));
  require(again.ok() && to_json(*again) == to_json(*member), "a report reads as it was written");
  Report report;
  report.members = {*member, *again};
  report.findings = judge(report.members);
  static_cast<void>(to_text(report));
  static_cast<void>(to_json(report));
  return true;
}

std::vector<Seed> seeds() {
  const Member member = sample_member();
  Probe probe;
  probe.ranks = 2;
  probe.members = {member};
  probe.findings = member.findings;
  return {{"member", as_bytes(to_json(member))},
          {"job", as_bytes(probe_line(probe))},
          {"log", as_bytes("x UCX  INFO    ep_cfg[0]: rma_am(tcp/lo) am(rc_mlx5/mlx5_0:1 tcp/lo)\n")}};
}

}  // namespace

Target doctor_report() {
  return {"doctor_report", "what ranks tell rank 0 of a doctor's job", run, seeds, 8192};
}

}  // namespace cardea::fuzz
