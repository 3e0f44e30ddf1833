// SPDX-License-Identifier: Apache-2.0
// cardea-run as its users see it: what it starts, prints, passes on, and leaves behind.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "lib/base/unique_fd.h"

namespace cardea {
namespace {

using std::chrono::seconds;
using std::chrono::steady_clock;

struct Outcome {
  int code = -1;  // 128 + signal if killed
  std::string output;
};

/// Runs cardea-run; `meanwhile` gets its process id and what it has printed so far, until it returns true.
Outcome run(std::vector<std::string> arguments, const std::function<bool(pid_t, const std::string&)>& meanwhile = {}) {
  int ends[2];
  EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  arguments.insert(arguments.begin(), CARDEA_RUN);
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(write_end.get(), STDOUT_FILENO);
    dup2(write_end.get(), STDERR_FILENO);
    for (const char* name : {"UCX_TLS", "CARDEA_NODE_ID"}) unsetenv(name);
    std::vector<char*> raw;
    for (std::string& argument : arguments) raw.push_back(argument.data());
    raw.push_back(nullptr);
    execv(raw[0], raw.data());
    _exit(126);
  }
  write_end.reset();
  Outcome outcome;
  bool told = false;
  char buffer[4096];
  for (ssize_t count; (count = read(read_end.get(), buffer, sizeof buffer)) > 0;) {
    outcome.output.append(buffer, static_cast<std::size_t>(count));
    if (meanwhile && !told) told = meanwhile(pid, outcome.output);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

std::vector<std::string> shell(const std::string& ranks, const std::string& script, std::vector<std::string> options = {}) {
  std::vector<std::string> arguments = {"-n", ranks};
  arguments.insert(arguments.end(), options.begin(), options.end());
  arguments.insert(arguments.end(), {"sh", "-c", script});
  return arguments;
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++found;
  return found;
}

/// Processes that carry `mark` on their command line.
std::set<pid_t> processes_with(const std::string& mark) {
  std::set<pid_t> found;
  DIR* directory = opendir("/proc");
  while (const dirent* entry = readdir(directory)) {
    std::ifstream file(std::string("/proc/") + entry->d_name + "/cmdline");
    const std::string line((std::istreambuf_iterator<char>(file)), {});
    if (has(line, mark) && std::atoi(entry->d_name) > 0) found.insert(std::atoi(entry->d_name));
  }
  closedir(directory);
  return found;
}

bool nothing_left_of(const std::string& mark) {
  const auto deadline = steady_clock::now() + seconds(30);
  while (steady_clock::now() < deadline) {
    if (processes_with(mark).empty()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

/// A number of seconds to sleep that no other process sleeps.
std::string odd_sleep(int salt) {
  return "600." + std::to_string(getpid()) + std::to_string(salt);
}

TEST(Launcher, RanksOfTheLibraryJoin) {
  const Outcome outcome = run({"-n", "4", "--nodes", "2", RANK_PROGRAM});
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_EQ(count(outcome.output, "joined 4\n"), 4u) << outcome.output;
}

TEST(Launcher, ARankThatIsTwoProcessesDeepStillReachesTheSecret) {
  // A shell that closes all descriptors first, as Python's subprocess does.
  const Outcome outcome = run(shell("2", "exec 3>&- 4>&- 5>&- 6>&- 7>&-; sh -c 'cat $CARDEA_SECRET_FILE | wc -c'"));
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_EQ(count(outcome.output, "32\n"), 2u) << outcome.output;
}

TEST(Launcher, GivesEachRankItsEnvironment) {
  const Outcome outcome = run(shell("4", "echo \"$CARDEA_RANK/$CARDEA_WORLD_SIZE $CARDEA_NODE_ID $UCX_TLS $MINE\"",
                                    {"--nodes", "2", "--env", "MINE=a=b"}));
  EXPECT_EQ(outcome.code, 0);
  for (const char* line :
       {"0/4 node0 tcp,self a=b\n", "1/4 node0 tcp,self a=b\n", "2/4 node1 tcp,self a=b\n", "3/4 node1 tcp,self a=b\n"}) {
    EXPECT_TRUE(has(outcome.output, line)) << outcome.output;
  }
  EXPECT_TRUE(has(run(shell("1", "echo \"<$UCX_TLS>\"")).output, "<>")) << "one node: UCX chooses";
  EXPECT_TRUE(has(run(shell("2", "echo \"<$UCX_TLS>\"", {"--nodes", "2", "--env", "UCX_TLS=all"})).output, "<all>"));
}

TEST(Launcher, SaysWhichRankFailedAndHow) {
  const Outcome exited = run(shell("3", "[ $CARDEA_RANK = 1 ] && exit 7; exit 0"));
  EXPECT_EQ(exited.code, 7);
  EXPECT_TRUE(has(exited.output, "rank 1 (process ")) << exited.output;
  EXPECT_TRUE(has(exited.output, "exited with code 7")) << exited.output;
  const Outcome killed = run(shell("3", "[ $CARDEA_RANK = 2 ] && kill -SEGV $$; exit 0"));
  EXPECT_EQ(killed.code, 128 + SIGSEGV);
  EXPECT_TRUE(has(killed.output, "was killed by SIGSEGV")) << killed.output;
}

TEST(Launcher, KillsTheOthersWhenOneFails) {
  const std::string nap = odd_sleep(1);
  const auto start = steady_clock::now();
  const Outcome outcome = run(shell("3", "[ $CARDEA_RANK = 0 ] && exit 3; trap '' TERM; sleep " + nap));
  EXPECT_EQ(outcome.code, 3);
  EXPECT_TRUE(has(outcome.output, "killing 2 ranks")) << outcome.output;
  EXPECT_GE(steady_clock::now() - start, seconds(4)) << "the others were given time";
  EXPECT_TRUE(nothing_left_of(nap));
}

TEST(Launcher, PassesASignalOn) {
  const Outcome outcome = run(shell("2", "trap 'echo got; exit 0' TERM; echo up; while :; do sleep 0.05; done"),
                              [](pid_t pid, const std::string& output) {
                                if (count(output, "up\n") < 2) return false;
                                kill(pid, SIGTERM);
                                return true;
                              });
  EXPECT_EQ(count(outcome.output, "got\n"), 2u) << outcome.output;
  EXPECT_EQ(outcome.code, 128 + SIGTERM);
}

TEST(Launcher, KillsRanksThatIgnoreTheSignal) {
  const std::string nap = odd_sleep(2);
  const Outcome outcome =
      run(shell("2", "trap '' INT; echo up; sleep " + nap + "; sleep " + nap), [](pid_t pid, const std::string& output) {
        if (count(output, "up\n") < 2) return false;
        kill(pid, SIGINT);
        return true;
      });
  EXPECT_EQ(outcome.code, 128 + SIGKILL) << outcome.output;
  EXPECT_TRUE(nothing_left_of(nap));
}

TEST(Launcher, RanksDieWithItAndNothingIsLeft) {
  const std::string nap = odd_sleep(3);
  const Outcome outcome =
      run({"-n", "3", "sh", "-c", "echo up; exec sleep " + nap}, [&](pid_t pid, const std::string& output) {
        if (count(output, "up\n") < 3) return false;
        EXPECT_FALSE(processes_with(nap).empty());
        kill(pid, SIGKILL);
        return true;
      });
  EXPECT_EQ(outcome.code, 128 + SIGKILL);
  EXPECT_TRUE(nothing_left_of(nap));
}

TEST(Launcher, EndsAfterItsTimeout) {
  const std::string nap = odd_sleep(4);
  const Outcome outcome = run(shell("2", "exec sleep " + nap, {"--timeout", "0.3"}));
  EXPECT_EQ(outcome.code, 124) << outcome.output;
  EXPECT_TRUE(has(outcome.output, "did not end within 0.3 s")) << outcome.output;
  EXPECT_TRUE(nothing_left_of(nap));
}

TEST(Launcher, TagsWholeLines) {
  const Outcome outcome = run(shell("2", "echo out; echo err >&2; printf unfinished", {"--tag-output"}));
  EXPECT_EQ(outcome.code, 0);
  for (const char* line : {"[0] out\n", "[1] out\n", "[0] err\n", "[1] err\n", "[0] unfinished\n", "[1] unfinished\n"}) {
    EXPECT_TRUE(has(outcome.output, line)) << outcome.output;
  }
}

TEST(Launcher, WrongCommandLinesAreExplained) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{"true"}, "-n RANKS is missing"},
      {{"-n", "0", "true"}, "-n is \"0\""},
      {{"-n", "4097", "true"}, "-n is \"4097\""},
      {{"-n", "two", "true"}, "-n is \"two\""},
      {{"-n", "4", "--nodes", "3", "true"}, "cannot be divided evenly among 3 nodes"},
      {{"-n", "4", "--nodes", "0", "true"}, "--nodes is \"0\""},
      {{"-n", "1", "--timeout", "soon", "true"}, "--timeout is \"soon\""},
      {{"-n", "1", "--env", "X", "true"}, "is not NAME=VALUE"},
      {{"-n", "1", "--bogus", "true"}, "unknown option --bogus"},
      {{"-n", "1"}, "no program"}};
  for (const auto& [arguments, message] : cases) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << message;
    EXPECT_TRUE(has(outcome.output, message)) << outcome.output;
  }
  const Outcome missing = run({"-n", "2", "/nonexistent/program"});
  EXPECT_EQ(missing.code, 127);
  EXPECT_TRUE(has(missing.output, "cannot start /nonexistent/program: No such file")) << missing.output;
  const Outcome help = run({"--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_TRUE(has(help.output, "--tag-output")) << help.output;
}

TEST(Launcher, PassesTheProgramsOwnOptions) {
  EXPECT_EQ(run({"-n", "1", "echo", "-n", "5", "--nodes"}).output, "5 --nodes");
  EXPECT_EQ(run({"-n", "1", "--", "echo", "x"}).output, "x\n");
}

}  // namespace
}  // namespace cardea
