// SPDX-License-Identifier: Apache-2.0
// libFuzzer's program for all targets. The name by which it is called says which: NAME_fuzz runs the target NAME. With
// --list it prints them. Folders named on the command line that are empty get the target's seeds first.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "lib/base/log.h"
#include "tests/fuzz/target.h"

namespace {

using cardea::fuzz::Seed;
using cardea::fuzz::Target;
using cardea::fuzz::targets;
namespace fs = std::filesystem;

const Target* chosen = nullptr;

[[noreturn]] void list(int status) {
  for (const Target& target : targets()) std::printf("%-22s %6zu  %s\n", target.name, target.most, target.reads);
  std::exit(status);
}

void plant(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!fs::is_directory(folder, error) || !fs::is_empty(folder, error)) return;
  for (const Seed& seed : chosen->seeds()) {
    std::ofstream file(folder / seed.name, std::ios::binary);
    file.write(reinterpret_cast<const char*>(seed.bytes.data()), static_cast<std::streamsize>(seed.bytes.size()));
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  setenv("CARDEA_DEBUG", "ERROR", 0);
  if (!cardea::log::configure_from_environment().ok()) return 1;
  for (int i = 1; i < *argc; ++i) {
    if (std::string_view((*argv)[i]) == "--list") list(0);
  }
  const std::string name = fs::path((*argv)[0]).filename();
  for (const Target& target : targets()) {
    if (name == std::string(target.name) + "_fuzz") chosen = &target;
  }
  if (chosen == nullptr) {
    std::fprintf(stderr, "call it by the name of a target with _fuzz behind it, as the links beside it do; there are\n");
    list(2);
  }
  for (int i = 1; i < *argc; ++i) {
    const fs::path folder = (*argv)[i];
    if (folder.string().front() != '-' && !fs::is_regular_file(folder)) plant(folder);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  chosen->run({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
