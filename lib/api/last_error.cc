// SPDX-License-Identifier: Apache-2.0
#include "lib/api/last_error.h"

#include <boost/system/system_error.hpp>
#include <new>
#include <system_error>

namespace cardea::api {
namespace {

Status& slot() noexcept {
  static thread_local Status last;
  return last;
}

Status refused_by_system(int error, const char* what) {
  return {Status::from_errno(error, what).code(), what};
}

}  // namespace

cardea_status_t report(const Status& status) noexcept {
  if (status.code() < 0) slot() = status;
  return status.code();
}

const Status& last_error() noexcept {
  return slot();
}

Status caught() noexcept {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return {CARDEA_ERR_NO_MEMORY, "out of memory"};
  } catch (const boost::system::system_error& error) {
    if (error.code().category() != boost::system::system_category()) return {CARDEA_ERR_INTERNAL, error.what()};
    return refused_by_system(error.code().value(), error.what());
  } catch (const std::system_error& error) {  // a thread or a lock
    return refused_by_system(error.code().value(), error.what());
  } catch (const std::exception& error) {
    return {CARDEA_ERR_INTERNAL, error.what()};
  } catch (...) {
    return {CARDEA_ERR_INTERNAL, "an unknown exception"};
  }
}

}  // namespace cardea::api
