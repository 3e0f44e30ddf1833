// SPDX-License-Identifier: Apache-2.0
// Errors as values. A Status says what failed, and what is known of it: the peer, the layer and expert, the path, bytes.
// Value type; a success costs no allocation. Codes are those of the C API (cardea.h), where each is documented.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "cardea/cardea.h"
#include "lib/base/types.h"

namespace cardea {

/// What is known of a failure beside its code and message.
struct ErrorDetail {
  Rank peer = kNoRank;
  std::uint32_t layer = 0;
  ExpertIndex expert = kNoExpert;
  cardea_path_t path = CARDEA_PATH_NONE;
  std::uint64_t bytes = 0;
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(cardea_status_t code, std::string message, ErrorDetail detail = {});

  template <typename... Args>
  static Status error(cardea_status_t code, fmt::format_string<Args...> format, Args&&... args) {
    return Status(code, fmt::format(format, std::forward<Args>(args)...));
  }
  /// CARDEA_ERR_SYSTEM (NO_MEMORY for ENOMEM, ENOSPC, EMFILE, ENFILE) from an errno: "call: what: reason".
  static Status from_errno(int error, std::string_view call, std::string_view what = {});

  bool ok() const { return !state_; }
  cardea_status_t code() const { return state_ ? state_->code : CARDEA_OK; }
  const std::string& message() const;
  const ErrorDetail& detail() const;

  /// The same failure with more known of it; a success stays one.
  Status with_peer(Rank peer) const;
  Status with_detail(const ErrorDetail& detail) const;
  /// The same failure, its message preceded by `prefix` and ": ".
  Status within(std::string_view prefix) const;

 private:
  struct State {
    cardea_status_t code;
    std::string message;
    ErrorDetail detail;
  };
  std::shared_ptr<const State> state_;
};

/// A value, or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::in_place_index<0>, std::move(value)) {}         // NOLINT(google-explicit-constructor)
  Result(Status status) : value_(std::in_place_index<1>, std::move(status)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return value_.index() == 0; }
  Status status() const { return ok() ? Status() : std::get<1>(value_); }
  T& value() & { return std::get<0>(value_); }
  const T& value() const& { return std::get<0>(value_); }
  T&& value() && { return std::get<0>(std::move(value_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<T, Status> value_;
};

}  // namespace cardea
