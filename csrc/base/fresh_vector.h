// A vector whose `resize` leaves new elements of a plain type as they come: for buffers that are written over at once.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace ettin {

template <class T>
struct FreshAllocator : std::allocator<T> {
  template <class U>
  struct rebind {
    using other = FreshAllocator<U>;
  };
  FreshAllocator() = default;
  template <class U>
  FreshAllocator(const FreshAllocator<U>&) noexcept {}

  template <class U>
  void construct(U* at) noexcept {
    ::new (static_cast<void*>(at)) U;
  }
  template <class U, class... Given>
  void construct(U* at, Given&&... given) {
    ::new (static_cast<void*>(at)) U(std::forward<Given>(given)...);
  }
};

template <class T>
using FreshVector = std::vector<T, FreshAllocator<T>>;

// Appends numbers that the elements can hold.
template <class T>
void append_ids(FreshVector<T>& to, const uint32_t* from, size_t count) {
  const size_t before = to.size();
  to.resize(before + count);
  for (size_t at = 0; at < count; ++at) to[before + at] = static_cast<T>(from[at]);
}

// Ids on their way out of the encoder; the narrow ones are of vocabularies that fit.
using IdVector = FreshVector<uint32_t>;
using NarrowIdVector = FreshVector<uint16_t>;

}  // namespace ettin
