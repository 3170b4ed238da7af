// Tiles of operands: consecutive logical elements as a plain array, whatever their layout and type in memory.
//
// Where the elements already lie next to each other, a tile is the memory itself, and half types are converted in
// registers. Else it is a buffer in the L1 cache that is gathered and widened on reading, narrowed and scattered on
// writing. No layout and no dtype needs a copy of the tensor, and the arithmetic is written once.
#pragma once

#include <type_traits>

#include "cpu/kernels/tile_layout.h"
#include "cpu/kernels/vector_loop.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

template <class T>
struct alignas(64) TileBuffer {
  T values[kTile];
};

// Has the processor bring elements of a tile into its second cache before they are asked for. Apart from the tile, so
// that a loop which asks keeps what it needs in registers; inlined, because compilers drop calls that do nothing else.
struct Prefetch {
  const char* first;
  int size;  // of an element, in bytes; 0 where the tile is absent

  VAE_FUSED_HOST_DEVICE void operator()(int begin, int count) const {
    constexpr int kLine = 64, kForReading = 0, kSecondCache = 2;
    for (int byte = begin * size; byte < (begin + count) * size; byte += kLine) {
      __builtin_prefetch(first + byte, kForReading, kSecondCache);
    }
  }
};

// An input tile: read in place, or out of a buffer.
template <class T>
class InputTile {
 public:
  VAE_FUSED_HOST_DEVICE InputTile(const Operand& operand, const Extent& extent, int64_t begin, int count) {
    if (operand.data == nullptr) return;
    values_ = in_place<T>(operand, extent, begin, count);
    type_ = operand.type;
    if (values_ == nullptr) read_into_buffer(operand, extent, begin, count);
  }

  VAE_FUSED_HOST_DEVICE bool present() const { return values_ != nullptr; }
  VAE_FUSED_HOST_DEVICE unsigned types() const { return present() ? type_bit(type_) : 0; }

  // The vector at an index; lanes beyond a partial one are 0.
  template <class Lanes>
  VAE_FUSED_HOST_DEVICE VectorIn<T, Lanes> operator()(int index, Lanes lanes) const {
    if constexpr (!std::is_void_v<typename Lanes::Stored>) {
      return load(static_cast<const typename Lanes::Stored*>(values_) + index, lanes);
    } else {
      if (type_ == ElementType::kHalf) return load(static_cast<const Half*>(values_) + index, lanes);
      if (type_ == ElementType::kBFloat16) return load(static_cast<const BFloat16*>(values_) + index, lanes);
      return load(static_cast<const T*>(values_) + index, lanes);
    }
  }

  VAE_FUSED_HOST_DEVICE Prefetch prefetch() const {
    return {static_cast<const char*>(values_), present() ? static_cast<int>(size_of(type_)) : 0};
  }

  // As a plain array: read into the buffer, too, where the elements lie in another type.
  VAE_FUSED_HOST_DEVICE const T* plain(const Operand& operand, const Extent& extent, int64_t begin, int count) {
    if (type_ == ElementType::kHalf || type_ == ElementType::kBFloat16) {
      read_into_buffer(operand, extent, begin, count);
    }
    return static_cast<const T*>(values_);
  }

  // The buffer, which holds the tile where it is of a type that is never taken in place.
  VAE_FUSED_HOST_DEVICE T* buffer() { return buffer_.values; }

 private:
  VAE_FUSED_HOST_DEVICE void read_into_buffer(const Operand& operand, const Extent& extent, int64_t begin, int count) {
    gather(operand, extent, begin, count, buffer_.values);
    values_ = buffer_.values;
    type_ = ElementType::kFloat;  // or float64, for whose kernels it is the only one
  }

  const void* values_ = nullptr;
  ElementType type_ = ElementType::kFloat;
  TileBuffer<T> buffer_;
};

// An output tile: written in place, past the caches where it is streamed, or into a buffer that finish() scatters.
template <class T>
class OutputTile {
 public:
  VAE_FUSED_HOST_DEVICE OutputTile(const Operand& operand, const Extent& extent, int64_t begin, int count,
                                   bool streamed)
      : wanted_(operand.data != nullptr) {
    if (!wanted_) return;
    values_ = in_place<T>(operand, extent, begin, count);
    buffered_ = values_ == nullptr;
    if (buffered_) {
      values_ = buffer_.values;
    } else {
      type_ = operand.type;
    }
    streamed_ = streamed && !buffered_ && reinterpret_cast<uintptr_t>(values_) % 64 == 0;
  }

  VAE_FUSED_HOST_DEVICE bool wanted() const { return wanted_; }
  VAE_FUSED_HOST_DEVICE unsigned types() const { return wanted_ ? type_bit(type_) : 0; }

  template <class Lanes>
  VAE_FUSED_HOST_DEVICE void put(int index, const VectorIn<T, Lanes>& value, Lanes lanes) {
    if constexpr (!std::is_void_v<typename Lanes::Stored>) {
      put_in(static_cast<typename Lanes::Stored*>(values_) + index, value, lanes);
    } else {
      if (type_ == ElementType::kHalf) return put_in(static_cast<Half*>(values_) + index, value, lanes);
      if (type_ == ElementType::kBFloat16) return put_in(static_cast<BFloat16*>(values_) + index, value, lanes);
      put_in(static_cast<T*>(values_) + index, value, lanes);
    }
  }

  VAE_FUSED_HOST_DEVICE void finish(const Operand& operand, const Extent& extent, int64_t begin, int count) const {
    if (wanted_ && buffered_) scatter(operand, extent, begin, count, buffer_.values);
  }

 private:
  template <class Stored, class Lanes>
  VAE_FUSED_HOST_DEVICE void put_in(Stored* destination, const VectorIn<T, Lanes>& value, Lanes lanes) {
    if (!Lanes::kPartial && streamed_) {
      stream(destination, value, lanes);
    } else {
      store(destination, value, lanes);
    }
  }

  bool wanted_, buffered_ = false, streamed_ = false;
  ElementType type_ = ElementType::kFloat;
  void* values_ = nullptr;
  TileBuffer<T> buffer_;
};

// Streamed stores are not ordered with the ones that tell another thread that the work is done.
VAE_FUSED_INLINE void order_streamed_stores() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
