/* SPDX-License-Identifier: Apache-2.0 */
/* The least that a C program does with an installed Cardea: the header's version is the library's, statuses have names. */
#include <cardea/cardea.h>
#include <stdio.h>
#include <string.h>

int main(void) {
  cardea_version_info_t info = CARDEA_VERSION_INFO_INIT;
  cardea_status_t status = cardea_version(&info);
  if (status != CARDEA_OK) {
    fprintf(stderr, "cardea_version: %s\n", cardea_status_string(status));
    return 1;
  }
  if (info.major != CARDEA_VERSION_MAJOR || info.minor != CARDEA_VERSION_MINOR || info.patch != CARDEA_VERSION_PATCH) {
    fprintf(stderr, "the library says %u.%u.%u, its header %d.%d.%d\n", (unsigned)info.major, (unsigned)info.minor,
            (unsigned)info.patch, CARDEA_VERSION_MAJOR, CARDEA_VERSION_MINOR, CARDEA_VERSION_PATCH);
    return 1;
  }
  if (strcmp(cardea_status_string(CARDEA_ERR_STALE), "CARDEA_ERR_STALE") != 0) {
    fprintf(stderr, "CARDEA_ERR_STALE is called %s\n", cardea_status_string(CARDEA_ERR_STALE));
    return 1;
  }
  printf("Cardea %u.%u.%u over UCX %s\n", (unsigned)info.major, (unsigned)info.minor, (unsigned)info.patch, info.ucx);
  return 0;
}
