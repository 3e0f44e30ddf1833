// SPDX-License-Identifier: Apache-2.0
// Links with delay, jitter and loss, for kernels without netem (tests/fault/network_test.sh):
//
//   delay_link --delay-ms D [--jitter-ms J] [--loss P] [--seed S] A B [A B]...
//       makes each pair of TAP devices and forwards frames between the two, both ways, each D plus or minus up to J
//       milliseconds later, in order, but for a part P that it drops. Says "ready" when the devices are there, and what it
//       has counted when it gets SIGUSR1 and when SIGTERM ends it. TAP devices take no offloads: what comes out of one is
//       segmented and has its checksums.
//   delay_link --rtt ADDRESS PORT
//       the least of five round trips in milliseconds, by connecting to a port where nobody listens
//
// Exit status: 0; 1 with a message if a call fails; 77 if there can be no TAP devices here.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <random>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

volatile sig_atomic_t ended = 0, asked = 0;

struct Options {
  double delay_ms = 0, jitter_ms = 0, loss = 0;
  unsigned seed = 1;
  std::vector<std::string> devices;
};

struct Frame {
  Clock::time_point due;
  std::vector<char> bytes;
};

/// One way of a link: out of one device, into another.
struct Way {
  int from = -1, to = -1;
  std::deque<Frame> waiting;
};

struct Counts {
  unsigned long forwarded = 0, lost = 0, overflowed = 0;
};

[[noreturn]] void die(const char* what, int status = 1) {
  std::fprintf(stderr, "delay_link: %s: %s\n", what, std::strerror(errno));
  std::exit(status);
}

int make_tap(const std::string& name) {
  const int device = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (device < 0) die("/dev/net/tun", 77);
  ifreq request{};
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  std::snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name.c_str());
  if (ioctl(device, TUNSETIFF, &request) != 0) die("TUNSETIFF", 77);
  return device;
}

class Forwarder {
 public:
  explicit Forwarder(const Options& options) : options_(options), random_(options.seed) {
    for (std::size_t i = 0; i + 1 < options.devices.size(); i += 2) {
      const int a = make_tap(options.devices[i]), b = make_tap(options.devices[i + 1]);
      ways_.push_back({a, b, {}});
      ways_.push_back({b, a, {}});
    }
  }

  void run() {
    std::vector<pollfd> readable;
    for (const Way& way : ways_) readable.push_back({way.from, POLLIN, 0});
    while (ended == 0) {
      const timespec timeout = until_next();
      sigset_t none;
      sigemptyset(&none);
      if (ppoll(readable.data(), readable.size(), &timeout, &none) < 0 && errno != EINTR) die("ppoll");
      for (std::size_t i = 0; i < ways_.size(); ++i) {
        if (readable[i].revents != 0) take(ways_[i]);
      }
      for (Way& way : ways_) send_due(way);
      if (asked != 0) say();
      asked = 0;
    }
  }
  void say() const {
    std::printf("%lu frames forwarded, %lu lost by chance, %lu for want of room\n", counts_.forwarded, counts_.lost,
                counts_.overflowed);
    std::fflush(stdout);
  }

 private:
  static constexpr std::size_t kMostWaiting = 20000;

  timespec until_next() const {
    Clock::time_point next = Clock::now() + std::chrono::milliseconds(200);
    for (const Way& way : ways_) {
      if (!way.waiting.empty()) next = std::min(next, way.waiting.front().due);
    }
    const auto left = std::max<std::int64_t>(0, std::chrono::nanoseconds(next - Clock::now()).count());
    return {static_cast<time_t>(left / 1'000'000'000), static_cast<long>(left % 1'000'000'000)};
  }

  void take(Way& way) {
    std::array<char, 65536> buffer;
    for (int i = 0; i < 64; ++i) {  // then the others have their turn
      const ssize_t bytes = read(way.from, buffer.data(), buffer.size());
      if (bytes <= 0) return;  // a device that is not up yet gives nothing
      if (std::bernoulli_distribution(options_.loss)(random_)) {
        ++counts_.lost;
        continue;
      }
      if (way.waiting.size() >= kMostWaiting) {
        ++counts_.overflowed;
        continue;
      }
      const double jitter = std::uniform_real_distribution(-options_.jitter_ms, options_.jitter_ms)(random_);
      const double milliseconds = std::max(0.0, options_.delay_ms + jitter);
      Clock::time_point due = Clock::now() + std::chrono::nanoseconds(static_cast<std::int64_t>(milliseconds * 1e6));
      if (!way.waiting.empty()) due = std::max(due, way.waiting.back().due);
      way.waiting.push_back({due, {buffer.data(), buffer.data() + bytes}});
    }
  }

  void send_due(Way& way) {
    const Clock::time_point now = Clock::now();
    while (!way.waiting.empty() && way.waiting.front().due <= now) {
      const std::vector<char>& bytes = way.waiting.front().bytes;
      if (write(way.to, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size())) ++counts_.forwarded;
      way.waiting.pop_front();
    }
  }

  const Options options_;
  std::mt19937 random_;
  std::vector<Way> ways_;
  Counts counts_;
};

/// A round trip: the answer to a connection that nobody takes.
double round_trip_ms(const sockaddr_in& to) {
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (socket < 0) die("socket");
  const Clock::time_point began = Clock::now();
  const int result = connect(socket, reinterpret_cast<const sockaddr*>(&to), sizeof to);
  const double took = std::chrono::duration<double, std::milli>(Clock::now() - began).count();
  if (result != 0 && errno != ECONNREFUSED) die("connect");
  close(socket);
  return took;
}

int measure(const char* address, const char* port) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<std::uint16_t>(std::atoi(port)));
  if (inet_pton(AF_INET, address, &to.sin_addr) != 1) return 1;
  double least = round_trip_ms(to);
  for (int i = 0; i < 4; ++i) least = std::min(least, round_trip_ms(to));
  std::printf("%.3f\n", least);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 4 && std::strcmp(argv[1], "--rtt") == 0) return measure(argv[2], argv[3]);
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto value = [&] { return i + 1 < argc ? std::atof(argv[++i]) : 0.0; };
    if (word == "--delay-ms") {
      options.delay_ms = value();
    } else if (word == "--jitter-ms") {
      options.jitter_ms = value();
    } else if (word == "--loss") {
      options.loss = value();
    } else if (word == "--seed") {
      options.seed = static_cast<unsigned>(value());
    } else {
      options.devices.push_back(word);
    }
  }
  if (options.devices.empty() || options.devices.size() % 2 != 0) {
    std::fprintf(stderr, "delay_link: it takes pairs of names of devices\n");
    return 1;
  }
  // Heard only while it waits.
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  sigaddset(&blocked, SIGUSR1);
  sigprocmask(SIG_BLOCK, &blocked, nullptr);
  signal(SIGTERM, [](int) { ended = 1; });
  signal(SIGUSR1, [](int) { asked = 1; });
  Forwarder forwarder(options);
  std::printf("ready\n");
  std::fflush(stdout);
  forwarder.run();
  forwarder.say();
  return 0;
}
