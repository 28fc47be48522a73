// Large tables in huge pages where the system gives them: random access then needs far fewer address look-ups.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

namespace ettin {

// `size` zeroed elements of a plain type, aligned to huge pages. Never grows.
template <class T>
class HugeArray {
 public:
  explicit HugeArray(size_t size) : bytes_(size * sizeof(T)) {
    void* memory =
        mmap(nullptr, bytes_ + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mapped_ = static_cast<char*>(memory);
    data_ = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(mapped_) + kHugePage - 1) & ~(kHugePage - 1));
#ifdef MADV_HUGEPAGE
    if (bytes_ >= kHugePage) madvise(data_, bytes_, MADV_HUGEPAGE);
#endif
  }
  ~HugeArray() { munmap(mapped_, bytes_ + kHugePage); }
  HugeArray(const HugeArray&) = delete;
  HugeArray& operator=(const HugeArray&) = delete;

  void fill_bytes(int byte) { std::memset(static_cast<void*>(data_), byte, bytes_); }
  T& operator[](size_t at) const { return data_[at]; }
  T* data() const { return data_; }

 private:
  static constexpr uintptr_t kHugePage = 2 << 20;
  size_t bytes_;
  char* mapped_;
  T* data_;
};

}  // namespace ettin
