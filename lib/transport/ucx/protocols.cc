// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/ucx/protocols.h"

#include <ucp/api/ucp.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "lib/base/wire.h"
#include "lib/transport/ucx/lanes.h"
#include "lib/transport/ucx/worker.h"

namespace cardea::transport {
namespace ucx {
namespace {

constexpr unsigned kFirstWithNewer = 16;  // by default

ProtocolWish::Forced forced_here() {
  const char* const value = std::getenv("UCX_PROTO_ENABLE");
  if (value == nullptr) return ProtocolWish::Forced::kNo;
  const std::string_view text(value);
  const auto is = [&](std::initializer_list<std::string_view> words) {
    return std::find(words.begin(), words.end(), text) != words.end();
  };
  if (is({"y", "yes", "on", "1", "try"})) return ProtocolWish::Forced::kNew;
  if (is({"n", "no", "off", "0"})) return ProtocolWish::Forced::kOld;
  return ProtocolWish::Forced::kNo;  // UCX refuses it
}

bool rdma_here() {
  if (!enough_descriptors().ok()) return false;  // whoever makes the transport hears why, here as below
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_RMA;
  ucp_context_h context = nullptr;
  if (ucp_init(&params, nullptr, &context) != UCS_OK) return false;
  const bool found = has_rdma(context);
  ucp_cleanup(context);
  return found;
}

}  // namespace

unsigned ucx_minor_version() {
  unsigned major = 0, minor = 0, release = 0;
  ucp_get_version(&major, &minor, &release);
  return minor;
}

ProtocolWish protocol_wish(const UcxOptions& options) {
  ProtocolWish wish;
  wish.minor = static_cast<std::uint8_t>(std::min(ucx_minor_version(), 255u));
  wish.needed = options.device_memory || options.get == GetPolicy::kAlways;
  wish.forced = forced_here();
  if (wish.minor > kFirstWithNewer && wish.forced == ProtocolWish::Forced::kNo) wish.rdma = rdma_here();
  return wish;
}

Bytes encode_wish(const ProtocolWish& wish) {
  WireWriter out;
  out.number(wish.minor);
  out.number<std::uint8_t>(wish.rdma ? 1 : 0);
  out.number<std::uint8_t>(wish.needed ? 1 : 0);
  out.number(static_cast<std::uint8_t>(wish.forced));
  return out.take();
}

Result<ProtocolWish> decode_wish(ByteView bytes, Rank rank) {
  WireReader in(bytes);
  ProtocolWish wish;
  wish.minor = in.number<std::uint8_t>();
  wish.rdma = in.number_in<std::uint8_t>(0, 1) != 0;
  wish.needed = in.number_in<std::uint8_t>(0, 1) != 0;
  constexpr auto kMost = static_cast<std::uint8_t>(ProtocolWish::Forced::kNew);
  wish.forced = static_cast<ProtocolWish::Forced>(in.number_in<std::uint8_t>(0, kMost));
  if (const Status status = in.finish("choice of UCX's protocols"); !status.ok())
    return status.within(fmt::format("rank {}", rank)).with_peer(rank);
  return wish;
}

Result<bool> agree_on_old_protocols(std::span<const ProtocolWish> wishes) {
  using Forced = ProtocolWish::Forced;
  const auto first = [&](Forced what) {
    return std::find_if(wishes.begin(), wishes.end(), [&](const ProtocolWish& wish) { return wish.forced == what; });
  };
  const auto old = first(Forced::kOld), newer = first(Forced::kNew);
  if (old != wishes.end() && newer != wishes.end()) {
    return Status::error(CARDEA_ERR_CONFIGURATION,
                         "UCX_PROTO_ENABLE is off at rank {} and on at rank {}: they could not exchange experts",
                         old - wishes.begin(), newer - wishes.begin());
  }
  if (old != wishes.end() || newer != wishes.end()) return old != wishes.end();
  const auto any = [&](auto which) { return std::any_of(wishes.begin(), wishes.end(), which); };
  if (any([](const ProtocolWish& wish) { return wish.minor <= kFirstWithNewer; })) return true;
  return !any([](const ProtocolWish& wish) { return wish.rdma || wish.needed; });
}

}  // namespace ucx

Bytes ucx_protocol_wish(const UcxOptions& options) {
  return ucx::encode_wish(ucx::protocol_wish(options));
}

Result<bool> agree_on_ucx_protocols(std::span<const Bytes> wishes) {
  std::vector<ucx::ProtocolWish> all;
  for (Rank rank = 0; rank < wishes.size(); ++rank) {
    const Result<ucx::ProtocolWish> wish = ucx::decode_wish(wishes[rank], rank);
    if (!wish.ok()) return wish.status();
    all.push_back(*wish);
  }
  return ucx::agree_on_old_protocols(all);
}

}  // namespace cardea::transport
