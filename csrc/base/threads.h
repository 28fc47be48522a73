// Loops over several threads. The caller is one of them; work must not throw.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

namespace ettin {

// How many threads `count` pieces of work keep busy: at least one, at most `threads`.
inline size_t threads_for(size_t count, int threads) {
  return std::max<size_t>(1, std::min<size_t>(static_cast<size_t>(std::max(threads, 1)), count));
}

// Calls work(thread) for every thread below `threads`, each on its own.
template <typename Work>
void on_threads(size_t threads, const Work& work) {
  std::vector<std::thread> helpers;
  for (size_t thread = 1; thread < threads; ++thread) helpers.emplace_back([&work, thread] { work(thread); });
  work(0);
  for (std::thread& helper : helpers) helper.join();
}

// Calls work(part, first, last) for threads_for(count, threads) equal parts [first, last) of [0, count).
template <typename Work>
void in_parts(size_t count, int threads, const Work& work) {
  const size_t parts = threads_for(count, threads);
  on_threads(parts, [&](size_t part) { work(part, part * count / parts, (part + 1) * count / parts); });
}

// Calls work(index, own) for every index below count; whichever thread is free takes the next. `own` is what
// start() gave that thread.
template <typename Start, typename Work>
void one_by_one(size_t count, int threads, const Start& start, const Work& work) {
  if (count == 0) return;
  std::atomic<size_t> next{0};
  on_threads(threads_for(count, threads), [&](size_t) {
    const auto own = start();
    for (size_t index = next++; index < count; index = next++) work(index, own);
  });
}

// Calls work(index) for every index below count; whichever thread is free takes the next.
template <typename Work>
void one_by_one(size_t count, int threads, const Work& work) {
  one_by_one(count, threads, [] { return 0; }, [&](size_t index, int) { work(index); });
}

}  // namespace ettin
