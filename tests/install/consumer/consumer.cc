// SPDX-License-Identifier: Apache-2.0
// The least that a C++ program does with an installed Cardea; includes the C++ face too, where it is installed.
#include <cardea/cardea.h>
#if __has_include(<cardea/cardea.hpp>)
#include <cardea/cardea.hpp>
#endif

#include <iostream>
#include <string_view>

int main() {
  cardea_version_info_t info = CARDEA_VERSION_INFO_INIT;
  if (const cardea_status_t status = cardea_version(&info); status != CARDEA_OK) {
    std::cerr << "cardea_version: " << cardea_status_string(status) << '\n';
    return 1;
  }
  if (info.major != CARDEA_VERSION_MAJOR || info.minor != CARDEA_VERSION_MINOR || info.patch != CARDEA_VERSION_PATCH) {
    std::cerr << "the library is of another version than its header\n";
    return 1;
  }
  if (std::string_view(cardea_status_string(CARDEA_ERR_STALE)) != "CARDEA_ERR_STALE") {
    std::cerr << "CARDEA_ERR_STALE is called " << cardea_status_string(CARDEA_ERR_STALE) << '\n';
    return 1;
  }
  std::cout << "Cardea " << info.major << '.' << info.minor << '.' << info.patch << '\n';
}
