// SPDX-License-Identifier: Apache-2.0
#include "lib/api/context.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <atomic>
#include <future>

#include "lib/api/info.h"
#include "lib/api/registry.h"
#include "lib/api/structs.h"
#include "lib/base/asio.h"
#include "lib/base/log.h"
#include "lib/base/own_thread.h"
#include "lib/base/short_slices.h"
#include "lib/base/wire.h"
#include "lib/bootstrap/callback_exchange.h"
#include "lib/bootstrap/environment.h"
#include "lib/bootstrap/unique_id.h"
#include "lib/cuda/driver.h"
#include "lib/engine/asio_executor.h"
#include "lib/telemetry/nvtx.h"
#include "lib/telemetry/open_traces.h"
#include "lib/transport/shm/factory.h"
#include "lib/transport/shm/life_lock.h"
#include "lib/transport/shm/membership.h"
#include "lib/transport/shm/node_arena.h"
#include "lib/transport/ucx/factory.h"

namespace cardea::api {
namespace {

constexpr std::size_t kRecentRecords = 4096;     // of 64 bytes, for dumps
constexpr std::size_t kTracedRecords = 1 << 17;  // so that what writes them may be late

Result<std::unique_ptr<bootstrap::Exchange>> make_exchange(const cardea_config_t& config, Clock::time_point deadline) {
  switch (number_of(config.bootstrap)) {
    case CARDEA_BOOTSTRAP_ENVIRONMENT: {
      Result<bootstrap::Options> options = bootstrap::from_environment();
      if (!options.ok()) return options.status();
      bootstrap::Instances::Attempt attempt(Registry::get().environment_instances());
      options->instance = attempt.number();
      auto joined = bootstrap::join(*options, deadline);
      if (joined.ok()) attempt.formed();
      return joined;
    }
    case CARDEA_BOOTSTRAP_UNIQUE_ID: {
      if (config.unique_id == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "config.unique_id is null");
      Result<bootstrap::Options> options = bootstrap::from_unique_id(*config.unique_id, config.rank, config.world_size);
      if (!options.ok()) return options.status();
      return bootstrap::join(*options, deadline);
    }
    case CARDEA_BOOTSTRAP_EXCHANGE:
      if (config.exchange == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "config.exchange is null");
      return bootstrap::callback_exchange(config.exchange, config.exchange_user, config.rank, config.world_size, deadline);
  }
  return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "config.bootstrap is {}", number_of(config.bootstrap));
}

/// Two ranks that use different ones of UCX's protocols would wait for each other for ever.
Status agree_on_protocols(bootstrap::Exchange& exchange, transport::UcxOptions& options, Clock::time_point deadline) {
  Result<std::vector<Bytes>> all = exchange.allgather(transport::ucx_protocol_wish(options), deadline);
  if (!all.ok()) return all.status();
  const Result<bool> old = transport::agree_on_ucx_protocols(*all);
  if (!old.ok()) return old.status();
  options.old_protocols = *old;
  return {};
}

}  // namespace

struct Context::Engine {
  boost::asio::io_context io{1};
  // Has the reactor made here, where what the system refuses becomes a status. In the engine's thread nobody could catch it.
  boost::asio::steady_timer first{io};
  std::optional<boost::asio::executor_work_guard<boost::asio::io_context::executor_type>> work{io.get_executor()};
  engine::AsioExecutor executor{io};
  std::unique_ptr<transport::Transport> shm, ucx;
  std::optional<cache::Arena> arena;
  SharedMemory segment;  // holds this process's life lock
};

Context::Context(ContextNumber number, Settings settings)
    : number_(number), settings_(std::move(settings)), engine_(std::make_unique<Engine>()) {}

Context::~Context() {
  if (thread_.joinable()) shut_down();
}

Result<std::shared_ptr<Context>> Context::join(ContextNumber number, const cardea_config_t& config) {
  if (const Status status = log::configure_from_environment(); !status.ok()) return status;
  Result<Settings> settings = settings_of(config, bootstrap::process_environment());
  if (!settings.ok()) return settings.status();
  const std::shared_ptr<Context> context(new Context(number, std::move(*settings)));
  if (const Status status = context->know_machine(); !status.ok()) return status;
  const auto deadline = Clock::now() + context->settings_.setup_timeout;
  Result<std::unique_ptr<bootstrap::Exchange>> exchange = make_exchange(config, deadline);
  if (!exchange.ok()) return exchange.status();
  if (const Status status = log::open_file((*exchange)->rank()); !status.ok()) return status;
  if (const Status status = context->form(**exchange, deadline); !status.ok()) return status;
  return context;
}

Status Context::know_machine() {
  if (settings_.affinity == "off") return {};
  topology::Sources sources = topology::Sources::from_environment();
  sources.driver = cuda::Driver::loaded();  // a process that uses no GPU need not wait for them
  sources.measured.clear();                 // figures measured here change no place
  Result<std::shared_ptr<const topology::Machine>> machine = Registry::get().machine(sources);
  if (machine.ok()) {
    machine_ = std::move(*machine);
  } else if (machine.status().code() == CARDEA_ERR_CONFIGURATION) {
    return machine.status();
  } else {
    log::print(log::Level::kWarn, "?", "api", "the machine is not known, so nothing is bound: {}",
               machine.status().message());
  }
  return {};
}

Status Context::find_place(const std::vector<Rank>& node_ranks) {
  if (machine_ == nullptr) return {};
  std::vector<Rank> here = node_ranks;
  if (!settings_.node_id.empty()) {
    // Nodes that one machine plays share its cores.
    here.clear();
    for (Rank rank = 0; rank < hosts_.size(); ++rank) {
      if (hosts_[rank] == hosts_[self_]) here.push_back(rank);
    }
  }
  const auto local = static_cast<unsigned>(std::find(here.begin(), here.end(), self_) - here.begin());
  Result<RankPlace> place = place_rank(*machine_, local, static_cast<unsigned>(here.size()), settings_.affinity,
                                       [](const std::string& device) { return topology::find_port(device); });
  if (!place.ok()) return place.status();
  place_ = std::move(*place);
  log::print(log::Level::kInfo, std::to_string(self_), "api", "{}: {}", machine_->name(), place_.text());
  const char* const wish = std::getenv("UCX_NET_DEVICES");
  if (wish == nullptr || place_.nics.empty()) return {};
  log::print(log::Level::kWarn, std::to_string(self_), "api",
             "UCX_NET_DEVICES is {}, so UCX uses that, for all chunks alike, and not the NICs {}", wish,
             fmt::join(place_.nics, ","));
  place_.nics.clear();
  place_.gpus_near_nics.clear();  // it is the user's choice that counts, and CARDEA_GPU_DIRECT
  return {};
}

void Context::bind_engine() {
  if (place_.cpus.empty() || bind_thread(thread_.native_handle(), place_.cpus)) return;
  log::print(log::Level::kWarn, std::to_string(self_), "api", "the engine thread cannot be bound as wanted: {}",
             place_.text());
}

Status Context::form(bootstrap::Exchange& exchange, Clock::time_point deadline) {
  self_ = exchange.rank();
  event_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event_) return Status::from_errno(errno, "eventfd");
  Result<shm::Membership> membership = shm::prove_membership(exchange, settings_.node_id, deadline);
  if (!membership.ok()) return membership.status();
  node_of_ = membership->node_of;
  hosts_ = membership->host_names;
  if (const Status status = find_place(membership->node_ranks); !status.ok()) return status;

  engine_->segment = std::move(membership->segment);
  make_node_cache(*membership, deadline);
  engine::RuntimeOptions options{self_, node_of_, settings_.chunk_bytes, settings_.chunks_in_flight};
  const bool records = !settings_.traces.empty() || log::enabled(log::Level::kTrace, "events");
  options.record = records ? kTracedRecords : kRecentRecords;
  options.cuda_device = settings_.cuda_device;
  options.gpu_direct = settings_.gpu_direct;
  options.gpus_near_nics = place_.gpus_near_nics;
  options.watch = settings_.watch;
  if (node_cache_) {
    options.cache = node_cache_.get();
    options.node_ranks = membership->node_ranks;
    options.back = [arena = &*engine_->arena, numa = place_.numa](std::uint64_t offset, std::uint64_t bytes) {
      const NumaPreference near(numa);  // of the arena, this rank's part is what it fills first
      return arena->back(offset, bytes);
    };
  }
  options.numa = place_.numa;
  const std::vector<std::string> rails = place_.nics.empty() ? std::vector<std::string>{""} : place_.nics;
  options.rails = rails;
  runtime_ = std::make_unique<engine::Runtime>(engine_->executor, *this, std::move(options));
  if (const Status status = start_recording(*membership); !status.ok()) return status;
  std::vector<Rank> shm_peers;
  for (const shm::NodeLink& link : membership->links) shm_peers.push_back(link.rank);
  if (!shm_peers.empty()) {
    engine_->shm = shm::make_shm_transport(engine_->io, *runtime_, self_, std::move(membership->links));
  }
  Status made;
  if (shm_peers.size() + 1 < node_of_.size()) {
    transport::UcxOptions ucx;
    ucx.self = self_;
    ucx.job_id = exchange.job_id();
    ucx.secret = exchange.secret();
    ucx.device_memory = settings_.gpu_direct == engine::GpuDirect::kOn;
    // While chunks are on their way, the next completion is nearer than a sleep and a wake-up.
    ucx.spin = std::chrono::microseconds(50);
    if (const Status status = agree_on_protocols(exchange, ucx, deadline); !status.ok()) return status;
    // A rank is lost when it is silent for its limit, and then no rail of it is to blame.
    Result<std::unique_ptr<transport::Transport>> transport =
        transport::make_ucx_rails(engine_->io, *runtime_, ucx, rails, 2 * settings_.watch.liveness.limit);
    made = transport.status();
    if (transport.ok()) engine_->ucx = std::move(*transport);
  }
  Result<std::vector<std::uint32_t>> nics = connect_ucx(exchange, made, rails, deadline);
  if (!nics.ok()) return nics.status();

  std::vector<transport::Transport*> route(node_of_.size(), nullptr);
  for (Rank rank = 0; rank < route.size(); ++rank) {
    if (rank != self_) route[rank] = node_of_[rank] == node_of_[self_] ? engine_->shm.get() : engine_->ucx.get();
  }
  runtime_->attach(std::move(route), *nics);
  if (engine_->shm) {
    std::vector<std::pair<Rank, Bytes>> peers;
    for (const Rank rank : shm_peers) peers.emplace_back(rank, Bytes());
    if (const Status status = engine_->shm->connect(peers); !status.ok()) return status;
  }

  thread_ = own_thread("cardea-engine", [io = &engine_->io] {
    ask_for_short_slices();
    io->run();
  });
  bind_engine();
  return {};
}

Status Context::start_recording(const shm::Membership& membership) {
  const std::string who = std::to_string(self_);
  if (log::tells_version()) log::write(log::Level::kInfo, who, "api", describe_versions());
  telemetry::JobFacts facts;
  facts.self = self_;
  facts.node_of = node_of_;
  facts.host = membership.host_names[self_];
  facts.lanes = runtime_->recorder()->counters().lanes();
  facts.chunk_bytes = settings_.chunk_bytes;
  facts.network_chunks = settings_.chunks_in_flight;
  facts.copy_chunks = engine::kCopyChunks;
  facts.cache_bytes = node_cache_ ? node_cache_->capacity() : 0;
  facts.began = runtime_->began().time_since_epoch().count();
  const Nanoseconds since_then = Clock::now() - runtime_->began();
  facts.wall = (std::chrono::system_clock::now().time_since_epoch() - since_then).count();
  Result<std::vector<std::unique_ptr<telemetry::Sink>>> sinks = telemetry::open_traces(settings_.traces, facts);
  if (!sinks.ok()) return sinks.status().within("CARDEA_TRACE");
  if (log::enabled(log::Level::kTrace, "events")) sinks->push_back(telemetry::log_sink(facts));
  if (!sinks->empty()) {
    runtime_->time_copies();
    consumer_ = std::make_unique<telemetry::Consumer>(*runtime_->recorder(), std::move(*sinks));
  }
  log::print(log::Level::kInfo, who, "api", "rank {} of {} on node {}, {} ranks on it; chunks of {} bytes, {} in flight; {}",
             self_, node_of_.size(), node_of_[self_], std::count(node_of_.begin(), node_of_.end(), node_of_[self_]),
             settings_.chunk_bytes, settings_.chunks_in_flight,
             node_cache_ ? fmt::format("node cache of {} bytes", node_cache_->capacity()) : "no node cache");
  return {};
}

void Context::make_node_cache(const shm::Membership& membership, Clock::time_point deadline) {
  auto shared = shm::share_arena(membership, self_, settings_.cache_bytes, settings_.chunk_bytes, deadline);
  if (!shared.ok()) {
    log::print(log::Level::kWarn, std::to_string(self_), "cache", "no node cache, so this rank fetches for itself alone: {}",
               shared.status().message());
    return;
  }
  if (!shared->has_value()) return;
  engine_->arena = std::move(*shared);
  const cache::Directory& directory = engine_->arena->directory();
  cache::NodeCacheOptions options;
  options.locals = static_cast<std::uint32_t>(std::min<std::size_t>(membership.node_ranks.size(), cache::kMaxLocalRanks));
  const auto self = std::find(membership.node_ranks.begin(), membership.node_ranks.end(), self_);
  options.local = static_cast<std::uint32_t>(self - membership.node_ranks.begin());
  options.prefetch_bytes =
      settings_.prefetch_bytes != 0 ? settings_.prefetch_bytes : std::max<std::uint64_t>(1, directory.shape().capacity / 2);
  // By local number: a descriptor that is readable when the process has ended, or none.
  auto processes = std::make_shared<std::vector<shm::ProcessIdentity>>(membership.node_ranks.size());
  for (const shm::NodeLink& link : membership.links) {
    const auto place = std::find(membership.node_ranks.begin(), membership.node_ranks.end(), link.rank);
    shm::ProcessIdentity& process = (*processes)[static_cast<std::size_t>(place - membership.node_ranks.begin())];
    if (link.process.descriptor) process.descriptor.reset(fcntl(link.process.descriptor.get(), F_DUPFD_CLOEXEC, 0));
    if (link.process.lock) process.lock.reset(fcntl(link.process.lock.get(), F_DUPFD_CLOEXEC, 0));
  }
  options.process_ended = [processes](std::uint32_t local) {
    const shm::ProcessIdentity& process = (*processes)[local];
    if (!process.descriptor) return process.lock && !shm::life_lock_held(process.lock.get());
    pollfd ended{process.descriptor.get(), POLLIN, 0};
    return poll(&ended, 1, 0) == 1;
  };
  node_cache_ = std::make_unique<cache::NodeCache>(directory, engine_->arena->lock(), std::move(options));
}

Result<std::vector<std::uint32_t>> Context::connect_ucx(bootstrap::Exchange& exchange, const Status& mine,
                                                        const std::vector<std::string>& rails, Clock::time_point deadline) {
  // A rank whose transport could not be made says so, rather than letting the others wait for it.
  WireWriter out;
  out.text(mine.ok() ? std::string_view() : std::string_view(mine.message()).substr(0, 512));
  out.blob(engine_->ucx ? engine_->ucx->address() : Bytes());
  Result<std::vector<Bytes>> all = exchange.allgather(out.bytes(), deadline);
  if (!mine.ok()) return mine;
  if (!all.ok()) return all.status();
  std::vector<std::pair<Rank, Bytes>> peers;
  std::set<std::string> nics;  // of this node's ranks
  for (Rank rank = 0; rank < all->size(); ++rank) {
    WireReader in((*all)[rank]);
    const std::string failure = in.text(512);
    const ByteView address = in.blob(transport::kMaxUcxAddress);
    if (const Status status = in.finish("transport address"); !status.ok()) return status.with_peer(rank);
    if (!failure.empty()) return Status::error(CARDEA_ERR_TRANSPORT, "rank {}: {}", rank, failure).with_peer(rank);
    if (node_of_[rank] != node_of_[self_]) {
      peers.emplace_back(rank, Bytes(address.begin(), address.end()));
    } else if (engine_->ucx) {
      Result<std::vector<std::string>> theirs = transport::ucx_rail_devices(address, rank);
      if (!theirs.ok()) return theirs.status().with_peer(rank);
      nics.insert(theirs->begin(), theirs->end());
    }
  }
  if (!engine_->ucx) return std::vector<std::uint32_t>();
  if (const Status status = engine_->ucx->connect(peers); !status.ok()) return status;
  // Numbers that all ranks of the node give alike, since they know the same names. Those of very many NICs are shared.
  std::vector<std::uint32_t> numbers;
  for (const std::string& rail : rails) {
    const auto place = static_cast<std::uint32_t>(std::distance(nics.begin(), nics.find(rail)));
    numbers.push_back(place % cache::kMaxNics);
  }
  return numbers;
}

std::string_view Context::transport_of(Rank rank) const {
  if (rank == self_) return "self";
  return node_of_[rank] == node_of_[self_] ? "shm" : "ucx";
}

// ---------------------------------------------------------------- events

void Context::raise_event() {
  if (event_raised_) return;
  event_raised_ = true;
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(event_.get(), &one, sizeof one);
}

void Context::clear_event() {
  std::uint64_t count = 0;
  [[maybe_unused]] const auto got = ::read(event_.get(), &count, sizeof count);
  event_raised_ = false;
}

void Context::on_progress(core::FetchNumber fetch, bool done) {
  if (FetchObject* const object = done ? fetches.find(fetch) : nullptr; object != nullptr)
    telemetry::nvtx_end(std::exchange(object->nvtx_range, 0));
  raise_event();
  changed_.notify_all();
  tell_callback(fetch);
}

void Context::on_change() {
  raise_event();
  changed_.notify_all();
}

void Context::on_expelled(const Status& why) {
  if (aborted_.ok()) aborted_ = why;
  on_change();
}

void Context::tell_callback(core::FetchNumber number) {
  FetchObject* const fetch = fetches.find(number);
  if (fetch == nullptr || fetch->on_ready == nullptr || fetch->callback_posted || fetch->told_done) return;
  fetch->callback_posted = true;
  engine_->executor.post([this, number] { run_callback(number); });
}

void Context::run_callback(core::FetchNumber number) {
  cardea_ready_fn call = nullptr;
  void* user = nullptr;
  bool done = false;
  {
    const auto held = lock();
    FetchObject* const fetch = fetches.find(number);
    if (fetch == nullptr || fetch->told_done) return;
    fetch->callback_posted = false;
    const core::FetchCounts counts = runtime_->core().counts(number);
    done = counts.parked + counts.starved + counts.moving == 0;
    fetch->told_done = done;
    call = fetch->on_ready;
    user = fetch->user;
  }
  call(user, {make_handle(number_, Kind::kFetch, number)}, done ? 1 : 0);
}

std::set<core::FetchNumber> Context::waited_for() const {
  std::set<core::FetchNumber> numbers;
  for (const auto& [number, fetch] : fetches.objects) {
    if (fetch.waiters != 0) numbers.insert(number);
  }
  return numbers;
}

std::optional<Clock::time_point> Context::deadline_after(std::uint64_t timeout) {
  constexpr std::uint64_t kCentury = 3'155'760'000'000'000'000;
  if (timeout >= kCentury) return std::nullopt;
  return Clock::now() + Nanoseconds(timeout);
}

// ---------------------------------------------------------------- the end

void Context::abort(const Status& why) {
  if (!aborted_.ok()) return;
  aborted_ = why;
  runtime_->cancel_all(why);
  on_change();
}

void Context::shut_down() {
  if (!thread_.joinable()) return;
  // The transports send what is queued for them, complete every chunk, and let go of all memory.
  auto closed = std::make_shared<std::promise<void>>();
  auto left = std::make_shared<int>(0);
  const auto close = [engine = engine_.get(), closed, left] {
    const auto one_less = [closed, left] {
      if (--*left == 0) closed->set_value();
    };
    *left = 1 + (engine->shm != nullptr) + (engine->ucx != nullptr);
    if (engine->shm) engine->shm->close(one_less);
    if (engine->ucx) engine->ucx->close(one_less);
    one_less();
  };
  {
    const auto held = lock();
    abort(Status(CARDEA_ERR_CANCELED, "the context was destroyed"));
  }
  // The GPU reads memory that the transports map, so it is done first.
  constexpr std::chrono::seconds kPatience{2};
  runtime_->close_device(kPatience);
  {
    const auto held = lock();
    runtime_->say_goodbye(close);
  }
  closed->get_future().wait();
  engine_->work.reset();
  engine_->io.stop();
  thread_.join();
  if (consumer_) {
    {
      const auto held = lock();
      runtime_->recorder()->leave(runtime_->now());
    }
    consumer_->stop();
  }
  if (node_cache_) {
    const auto held = lock();
    node_cache_->leave();
  }
}

}  // namespace cardea::api
