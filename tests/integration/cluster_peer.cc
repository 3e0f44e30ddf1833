// SPDX-License-Identifier: Apache-2.0
// One rank of the test of perf/cluster.sh: rank 1 sends bytes to rank 0 at CARDEA_ROOT by a plain socket and gets rank 0's
// host name back. Knows nothing of Cardea, so that it tells faults of the emulated cluster from the library's.
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr int kAttempts = 200;
constexpr useconds_t kPause = 100'000;

int fail(std::string_view what) {
  std::cerr << "cluster_peer: " << what << '\n';
  return 1;
}

std::string host_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

int receive(const sockaddr* address, socklen_t length, std::size_t bytes) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(listener, address, length) != 0 || listen(listener, 1) != 0) return fail("cannot listen at CARDEA_ROOT");
  const int peer = accept(listener, nullptr, nullptr);
  std::vector<char> buffer(1 << 16);
  std::size_t received = 0;
  while (received < bytes) {
    const ssize_t part = recv(peer, buffer.data(), buffer.size(), 0);
    if (part <= 0) return fail("the peer ended early");
    received += static_cast<std::size_t>(part);
  }
  const std::string name = host_name();
  return send(peer, name.data(), name.size(), 0) == static_cast<ssize_t>(name.size()) ? 0 : fail("cannot answer");
}

int deliver(const sockaddr* address, socklen_t length, std::size_t bytes) {
  int peer = -1;
  for (int attempt = 0; peer < 0; ++attempt) {
    if (attempt == kAttempts) return fail("cannot reach CARDEA_ROOT");
    peer = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(peer, address, length) == 0) break;
    close(peer);
    peer = -1;
    usleep(kPause);
  }
  const std::vector<char> data(bytes, 'x');
  if (send(peer, data.data(), bytes, MSG_NOSIGNAL) != static_cast<ssize_t>(bytes)) return fail("cannot send");
  std::array<char, 256> name{};
  if (recv(peer, name.data(), name.size() - 1, 0) <= 0) return fail("no answer");
  std::cout << host_name() << " reached " << name.data() << '\n';
  return name.data() == host_name() ? fail("both ranks are on one host") : 0;
}

}  // namespace

int main(int argc, char** argv) {
  const char* rank = std::getenv("CARDEA_RANK");
  const char* root = std::getenv("CARDEA_ROOT");
  if (argc != 2 || rank == nullptr || root == nullptr)
    return fail("usage: cluster_peer BYTES, with CARDEA_RANK and CARDEA_ROOT");
  const std::string place = root;
  const std::size_t colon = place.rfind(':');
  addrinfo* found = nullptr;
  if (colon == std::string::npos ||
      getaddrinfo(place.substr(0, colon).c_str(), place.substr(colon + 1).c_str(), nullptr, &found) != 0) {
    return fail("CARDEA_ROOT is not address:port");
  }
  const std::size_t bytes = std::stoul(argv[1]);
  const int status = std::string_view(rank) == "0" ? receive(found->ai_addr, found->ai_addrlen, bytes)
                                                   : deliver(found->ai_addr, found->ai_addrlen, bytes);
  freeaddrinfo(found);
  return status;
}
