// The engine's own threads.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace prunella {

/// A fixed number of threads, the caller's among them, that share out numbered tasks.
///
/// Each thread begins with its own part of the numbers and then helps the others: if tasks are numbered by the data that
/// they touch, those stay in one core's cache from one call to the next.
/// Idle threads spin for some microseconds, then sleep: OpenMP's unbounded spinning was measured up to 150 times
/// slower on an oversubscribed machine. One call at a time; callers hold a lock. After a fork the child
/// starts threads of its own at its first call.
class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;

  int threads() const { return threads_; }

  /// Calls work(task, thread) for every task in [0, tasks), and returns when all are done. `thread` is in
  /// [0, threads). Work must not throw.
  template <class Work>
  void run(int tasks, const Work& work) {
    run_tasks(tasks, &work, [](const void* work, int task, int thread) {
      (*static_cast<const Work*>(work))(task, thread);
    });
  }

 private:
  using Call = void (*)(const void*, int, int);
  struct Team;
  void run_tasks(int tasks, const void* work, Call call);

  int threads_;
  std::int64_t process_ = 0;
  Team* team_ = nullptr;
};

}  // namespace prunella
