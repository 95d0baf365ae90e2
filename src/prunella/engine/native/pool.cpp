#include "pool.h"

#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <system_error>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace prunella {
namespace {

constexpr auto kSpinTime = std::chrono::microseconds(60);

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

/// Waits until `ready`; true if that came about while spinning.
template <class Ready>
bool spin(const Ready& ready) {
  const auto end = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

}  // namespace

struct Pool::Team {
  // Of the round under way: what to do, and each thread's share of it.
  Call call = nullptr;
  const void* work = nullptr;
  struct alignas(64) Share {
    std::atomic<int> next{0};
    int end = 0;
  };
  std::vector<Share> shares;
  alignas(64) std::atomic<std::uint64_t> round{0};
  alignas(64) std::atomic<int> busy{0};
  alignas(64) std::mutex mutex;
  std::condition_variable wake, finished;
  int sleeping = 0;
  bool waiting = false;
  bool stop = false;
  std::vector<std::thread> workers;

  explicit Team(int threads) : shares(threads) {
    workers.reserve(threads - 1);
    try {
      for (int thread = 1; thread < threads; ++thread) workers.emplace_back([this, thread] { loop(thread); });
    } catch (const std::system_error&) {
      // The system has no more threads to give: those that there are take the others' shares.
    }
  }

  ~Team() {
    {
      std::lock_guard lock(mutex);
      stop = true;
      round.fetch_add(1, std::memory_order_release);
    }
    wake.notify_all();
    for (auto& worker : workers) worker.join();
  }

  /// First the thread's own share, then what others have left.
  void take_tasks(int thread) {
    const int count = static_cast<int>(shares.size());
    for (int i = 0; i < count; ++i) {
      Share& share = shares[(thread + i) % count];
      for (int task; (task = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) call(work, task, thread);
    }
  }

  void loop(int thread) {
    std::uint64_t seen = 0;
    while (true) {
      const auto changed = [&] { return round.load(std::memory_order_acquire) != seen; };
      if (!spin(changed)) {
        std::unique_lock lock(mutex);
        ++sleeping;
        wake.wait(lock, changed);
        --sleeping;
      }
      seen = round.load(std::memory_order_acquire);
      if (stop) return;
      take_tasks(thread);
      if (busy.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard lock(mutex);
        if (waiting) finished.notify_one();
      }
    }
  }

  void run(int count, const void* what, Call how) {
    call = how;
    work = what;
    const int threads = static_cast<int>(shares.size());
    for (int thread = 0; thread < threads; ++thread) {
      shares[thread].next.store(static_cast<int>(std::int64_t{count} * thread / threads), std::memory_order_relaxed);
      shares[thread].end = static_cast<int>(std::int64_t{count} * (thread + 1) / threads);
    }
    busy.store(static_cast<int>(workers.size()), std::memory_order_relaxed);
    bool asleep;
    {
      std::lock_guard lock(mutex);
      round.fetch_add(1, std::memory_order_release);
      asleep = sleeping > 0;
    }
    if (asleep) wake.notify_all();
    take_tasks(0);
    const auto done = [&] { return busy.load(std::memory_order_acquire) == 0; };
    if (!spin(done)) {
      std::unique_lock lock(mutex);
      waiting = true;
      finished.wait(lock, done);
      waiting = false;
    }
  }
};

Pool::Pool(int threads) : threads_(threads) {}

Pool::~Pool() {
  // In a forked child the threads do not exist, so there is nothing to join and no way to: leave it.
  if (process_ == getpid()) delete team_;
}

void Pool::run_tasks(int tasks, const void* work, Call call) {
  if (tasks <= 1 || threads_ <= 1) {
    for (int task = 0; task < tasks; ++task) call(work, task, 0);
    return;
  }
  if (process_ != getpid()) {  // first call, or a forked child, to which only the calling thread came along
    team_ = new Team(threads_);
    process_ = getpid();
  }
  team_->run(tasks, work, call);
}

}  // namespace prunella
