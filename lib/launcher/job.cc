// SPDX-License-Identifier: Apache-2.0
#include "lib/launcher/job.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace cardea::launcher {
namespace {

constexpr std::chrono::seconds kGrace{5};

template <typename... Args>
void say(fmt::format_string<Args...> format, Args&&... args) {
  fmt::print(stderr, "cardea-run: {}\n", fmt::format(format, std::forward<Args>(args)...));
}

[[noreturn]] void system_error(const char* call) {
  throw std::runtime_error(fmt::format("{}: {}", call, std::strerror(errno)));
}

std::string random_hex() {
  std::array<unsigned char, 16> bytes{};
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) system_error("getrandom");
  std::string text;
  for (const unsigned char byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

std::string signal_name(int signal) {
  const char* name = sigabbrev_np(signal);
  return name != nullptr ? fmt::format("SIG{}", name) : fmt::format("signal {}", signal);
}

sigset_t supervised_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) sigaddset(&set, signal);
  return set;
}

}  // namespace

int Job::run() {
  make_secret();
  root_ = "unix:cardea-run-" + random_hex();
  job_ = random_hex();
  if (!make_room_for_pipes()) return 1;
  const sigset_t set = supervised_signals();
  sigprocmask(SIG_BLOCK, &set, nullptr);
  signals_.reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) system_error("signalfd");
  if (options_.timeout_seconds > 0) {
    timeout_ =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options_.timeout_seconds));
  }
  for (unsigned rank = 0; rank < options_.ranks; ++rank) {
    if (start(rank)) continue;
    result_ = kCannotStart;
    signal_all(SIGKILL);
    break;
  }
  supervise();
  return result_.value_or(passed_on_ != 0 ? 128 + passed_on_ : 0);
}

void Job::make_secret() {
  std::array<unsigned char, 32> secret{};
  if (getrandom(secret.data(), secret.size(), 0) != static_cast<ssize_t>(secret.size())) system_error("getrandom");
  secret_.reset(memfd_create("cardea-secret", MFD_CLOEXEC));
  if (!secret_ || fchmod(secret_.get(), 0600) != 0) system_error("memfd_create");
  if (::write(secret_.get(), secret.data(), secret.size()) != static_cast<ssize_t>(secret.size())) system_error("write");
  // By process id, not /proc/self: a rank may start programs that inherit no descriptors.
  secret_path_ = fmt::format("/proc/{}/fd/{}", getpid(), secret_.get());
}

bool Job::make_room_for_pipes() {
  getrlimit(RLIMIT_NOFILE, &original_limit_);
  rlimit wanted = original_limit_;
  const rlim_t needed = options_.tag_output ? 2 * rlim_t{options_.ranks} + 64 : 64;
  if (wanted.rlim_cur >= needed) return true;
  wanted.rlim_cur = needed;
  if (setrlimit(RLIMIT_NOFILE, &wanted) == 0) return true;
  say("--tag-output for {} ranks needs {} descriptors, the hard limit is {}", options_.ranks, needed,
      original_limit_.rlim_max);
  return false;
}

std::vector<std::pair<std::string, std::string>> Job::environment_of(unsigned rank) const {
  const unsigned node = rank / (options_.ranks / options_.nodes);
  std::vector<std::pair<std::string, std::string>> variables = {{"CARDEA_RANK", std::to_string(rank)},
                                                                {"CARDEA_WORLD_SIZE", std::to_string(options_.ranks)},
                                                                {"CARDEA_ROOT", root_},
                                                                {"CARDEA_JOB", job_},
                                                                {"CARDEA_SECRET_FILE", secret_path_},
                                                                {"CARDEA_NODE_ID", fmt::format("node{}", node)}};
  // Nodes that one machine plays must not reach each other through shared memory.
  if (options_.nodes > 1 && std::getenv("UCX_TLS") == nullptr) variables.emplace_back("UCX_TLS", "tcp,self");
  variables.insert(variables.end(), options_.environment.begin(), options_.environment.end());
  return variables;
}

bool Job::start(unsigned rank) {
  std::array<int, 2> out{-1, -1}, err{-1, -1}, failure{-1, -1};
  if (options_.tag_output && (pipe2(out.data(), O_CLOEXEC) != 0 || pipe2(err.data(), O_CLOEXEC) != 0)) system_error("pipe2");
  if (pipe2(failure.data(), O_CLOEXEC) != 0) system_error("pipe2");
  UniqueFd out_read(out[0]), out_write(out[1]), err_read(err[0]), err_write(err[1]), failure_read(failure[0]),
      failure_write(failure[1]);
  const pid_t launcher = getpid();
  const pid_t pid = fork();
  if (pid < 0) {
    say("cannot start rank {}: fork: {}", rank, std::strerror(errno));
    return false;
  }
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != launcher) _exit(kCannotStart);
    become_rank(rank, out_write.get(), err_write.get(), failure_write.get());
  }
  setpgid(pid, pid);  // the child does so too: whoever comes first
  ranks_.push_back(pid);
  ++left_;
  failure_write.reset();
  int error = 0;
  if (read(failure_read.get(), &error, sizeof error) == static_cast<ssize_t>(sizeof error)) {
    say("cannot start {}: {}", options_.command.front(), std::strerror(error));
    return false;
  }
  if (options_.tag_output) {
    outputs_.emplace_back(rank, std::move(out_read), STDOUT_FILENO);
    outputs_.emplace_back(rank, std::move(err_read), STDERR_FILENO);
  }
  return true;
}

void Job::become_rank(unsigned rank, int out, int err, int failure) {
  setpgid(0, 0);
  const sigset_t set = supervised_signals();
  sigprocmask(SIG_UNBLOCK, &set, nullptr);
  setrlimit(RLIMIT_NOFILE, &original_limit_);
  if (const UniqueFd null(open("/dev/null", O_RDONLY | O_CLOEXEC)); null) dup2(null.get(), STDIN_FILENO);
  if (out >= 0) dup2(out, STDOUT_FILENO);
  if (err >= 0) dup2(err, STDERR_FILENO);
  for (const auto& [name, value] : environment_of(rank)) setenv(name.c_str(), value.c_str(), 1);
  std::vector<char*> arguments;
  for (const std::string& argument : options_.command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  execvp(arguments.front(), arguments.data());
  const int error = errno;
  [[maybe_unused]] const auto written = ::write(failure, &error, sizeof error);
  _exit(kCannotStart);
}

void Job::supervise() {
  while (left_ > 0) {
    int wait_ms = -1;
    if (const auto& next = kill_at_ ? kill_at_ : timeout_) {
      wait_ms = static_cast<int>(std::clamp<long long>(
          std::chrono::duration_cast<std::chrono::milliseconds>(*next - Clock::now()).count() + 1, 0, 60000));
    }
    pump_outputs(wait_ms);
    signalfd_siginfo info{};
    while (read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info))
      on_signal(static_cast<int>(info.ssi_signo));
    reap();
    if (timeout_ && !kill_at_ && Clock::now() >= *timeout_) {
      say("the job did not end within {} s", options_.timeout_seconds);
      if (!result_) result_ = kTimedOut;
      signal_all(SIGTERM);
      end_within_grace();
    }
    if (kill_at_ && Clock::now() >= *kill_at_) {
      if (left_ > 0)
        say("killing {} that {} still there", left_ == 1 ? "a rank" : fmt::format("{} ranks", left_),
            left_ == 1 ? "is" : "are");
      signal_all(SIGKILL);
      kill_at_ = Clock::now() + kGrace;
    }
  }
  // Every writer in the ranks' groups is gone; one that left its group does not keep us.
  const auto until = Clock::now() + std::chrono::seconds(1);
  while (!outputs_.empty() && Clock::now() < until) pump_outputs(50);
}

void Job::pump_outputs(int timeout_ms) {
  std::vector<pollfd> polled = {{.fd = signals_.get(), .events = POLLIN, .revents = 0}};
  for (const TaggedOutput& output : outputs_) polled.push_back({.fd = output.descriptor(), .events = POLLIN, .revents = 0});
  if (poll(polled.data(), polled.size(), timeout_ms) <= 0) return;
  std::vector<TaggedOutput> open;
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    if (polled[i + 1].revents == 0 || outputs_[i].pump()) open.push_back(std::move(outputs_[i]));
  }
  outputs_ = std::move(open);
}

void Job::on_signal(int signal) {
  if (signal == SIGCHLD) return;
  if (passed_on_ != 0) return signal_all(SIGKILL);
  passed_on_ = signal;
  say("{}: passing it on to the ranks", signal_name(signal));
  signal_all(signal);
  end_within_grace();
}

void Job::end_within_grace() {
  if (!kill_at_) kill_at_ = Clock::now() + kGrace;
}

void Job::signal_all(int signal) {
  for (const pid_t pid : ranks_) {
    if (pid != 0) kill(-pid, signal);
  }
}

void Job::reap() {
  for (unsigned rank = 0; rank < ranks_.size(); ++rank) {
    const pid_t pid = ranks_[rank];
    siginfo_t ended{};
    if (pid == 0 || waitid(P_PID, static_cast<id_t>(pid), &ended, WEXITED | WNOHANG | WNOWAIT) != 0 || ended.si_pid != pid)
      continue;
    kill(-pid, SIGKILL);  // what it left behind; while it is not reaped, its group's number is nobody else's
    int status = 0;
    waitpid(pid, &status, 0);
    ranks_[rank] = 0;
    --left_;
    judge(rank, pid, status);
  }
}

void Job::judge(unsigned rank, pid_t pid, int status) {
  const bool exited = WIFEXITED(status);
  const int code = exited ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (code == 0 || result_) return;  // later ends are consequences
  result_ = code;
  say("rank {} (process {}) {}", rank, pid,
      exited ? fmt::format("exited with code {}", code) : fmt::format("was killed by {}", signal_name(WTERMSIG(status))));
  end_within_grace();
}

}  // namespace cardea::launcher
