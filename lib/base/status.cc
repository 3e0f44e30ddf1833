// SPDX-License-Identifier: Apache-2.0
#include "lib/base/status.h"

#include <cerrno>
#include <system_error>

namespace cardea {

Status::Status(cardea_status_t code, std::string message, ErrorDetail detail) {
  if (code != CARDEA_OK) state_ = std::make_shared<const State>(State{code, std::move(message), detail});
}

Status Status::from_errno(int error, std::string_view call, std::string_view what) {
  const bool exhausted = error == ENOMEM || error == ENOSPC || error == EMFILE || error == ENFILE;
  const std::string reason = std::generic_category().message(error);
  return {exhausted ? CARDEA_ERR_NO_MEMORY : CARDEA_ERR_SYSTEM,
          what.empty() ? fmt::format("{}: {}", call, reason) : fmt::format("{}: {}: {}", call, what, reason)};
}

const std::string& Status::message() const {
  static const std::string none;
  return state_ ? state_->message : none;
}

const ErrorDetail& Status::detail() const {
  static const ErrorDetail none;
  return state_ ? state_->detail : none;
}

Status Status::with_peer(Rank peer) const {
  ErrorDetail changed = detail();
  changed.peer = peer;
  return with_detail(changed);
}

Status Status::with_detail(const ErrorDetail& detail) const {
  return ok() ? Status() : Status(code(), message(), detail);
}

Status Status::within(std::string_view prefix) const {
  return ok() ? Status() : Status(code(), fmt::format("{}: {}", prefix, message()), detail());
}

}  // namespace cardea
