// Loops over the elements of tiles, a vector at a time.
#pragma once

#include <type_traits>

#include "cpu/kernels/half.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/lane_sum.h"
#include "cpu/tile_plan.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

// The registers of a vector in loops of half types: those of as many bytes of every stream as a vector of floats takes.
// Longer chains, to which a conversion is added at both ends, find more beside them.
constexpr int kHalfParts = kNativeLanes == 16 ? 2 * kParts : kParts;
template <class T>
constexpr int kMostParts = sizeof(T) == 4 ? kHalfParts : kParts;

// What a loop hands its body: a whole vector, or the first lanes of one, with the type that all tiles of the loop hold,
// or void where they differ and each has to be asked.
template <class Type, int P>
struct LanesOf {
  using Stored = Type;
  static constexpr int kRegisters = P;
  static constexpr bool kEvenOdd = kHasEvenOdd<float> && std::is_same_v<Type, BFloat16>;
};
template <class Type, int P>
struct FullOf : LanesOf<Type, P> {
  static constexpr bool kPartial = false;
};
template <class Type, int P>
struct PartialOf : LanesOf<Type, P> {
  static constexpr bool kPartial = true;
  int count;
};
template <class T, class Lanes>
using VectorIn = VectorOf<T, Lanes::kRegisters>;
// All lanes of the vector, partial or not: of buffers that have room for it.
template <class Lanes>
VAE_FUSED_INLINE FullOf<typename Lanes::Stored, Lanes::kRegisters> whole(Lanes) {
  return {};
}

// The types of tiles as a set of bits; a tile that is absent has none.
constexpr unsigned type_bit(ElementType type) { return 1u << static_cast<int>(type); }
struct AskedTypes {};  // each tile is asked for its own at every access
template <bool kAsked, class... Tiles>
VAE_FUSED_INLINE auto types_of(const Tiles&... tiles) {
  if constexpr (kAsked) {
    return AskedTypes{};
  } else {
    return (tiles.types() | ...);
  }
}

// Whether a loop over tiles of these types has even and odd elements apart.
template <class T>
VAE_FUSED_INLINE bool even_odd(unsigned types) {
  return kHasEvenOdd<T> && types == type_bit(ElementType::kBFloat16);
}
template <class T>
VAE_FUSED_INLINE bool even_odd(AskedTypes) {
  return false;
}

// Whether a loop over tiles of these types is compiled for a half type.
template <class T>
VAE_FUSED_INLINE bool of_half_type(unsigned types) {
  return even_odd<T>(types) || (kHasEvenOdd<T> && types == type_bit(ElementType::kHalf));
}
template <class T>
VAE_FUSED_INLINE bool of_half_type(AskedTypes) {
  return false;
}

template <class Stored, class Lanes>
VAE_FUSED_INLINE auto load(const Stored* source, Lanes lanes) {
  constexpr int P = Lanes::kRegisters;
  if constexpr (Lanes::kEvenOdd && Lanes::kPartial) {
    return load_even_odd_partial<P>(source, lanes.count);
  } else if constexpr (Lanes::kEvenOdd) {
    return load_even_odd<P>(source);
  } else if constexpr (HalfPrecision<Stored> && Lanes::kPartial) {
    return load_widened_partial<P>(source, lanes.count);
  } else if constexpr (HalfPrecision<Stored>) {
    return load_widened<P>(source);
  } else if constexpr (Lanes::kPartial) {
    return load_partial<Stored, P>(source, lanes.count);
  } else {
    return load<Stored, P>(source);
  }
}

template <class Stored, class T, int P, class Lanes>
VAE_FUSED_INLINE void store(Stored* destination, const VectorOf<T, P>& value, Lanes lanes) {
  if constexpr (Lanes::kEvenOdd && Lanes::kPartial) {
    store_even_odd_partial(destination, value, lanes.count);
  } else if constexpr (Lanes::kEvenOdd) {
    store_even_odd(destination, value);
  } else if constexpr (Lanes::kPartial) {
    store_partial(destination, value, lanes.count);
  } else {
    store(destination, value);
  }
}

template <class Stored, class T, int P, class Lanes>
VAE_FUSED_INLINE void stream(Stored* destination, const VectorOf<T, P>& value, Lanes) {
  if constexpr (Lanes::kEvenOdd) {
    stream_even_odd(destination, value);
  } else {
    stream(destination, value);
  }
}

template <class T, class Stored, int P, class Body>
VAE_FUSED_INLINE void for_each_vector_of(int count, Body body) {
  constexpr int step = VectorOf<T, P>::kCount;
  int i = 0;
  for (; i + step <= count; i += step) body(i, FullOf<Stored, P>{});
  if (i < count) body(i, PartialOf<Stored, P>{{}, count - i});
}

// The same in two stages, the second with what the first returned: finish(index, lanes, begun). The elementary
// functions of a vector are begun after the vector before it is finished, which is independent of them, and not before
// what waits for them: the processor looks ahead by fewer operations than the chain of a vector has.
template <class T, class Stored, int P, class Begin, class Finish>
VAE_FUSED_INLINE void for_each_vector_of(int count, Begin begin, Finish finish) {
  constexpr int step = VectorOf<T, P>::kCount;
  constexpr FullOf<Stored, P> full;
  int i = 0;
  if (count >= step) {
    auto begun = begin(0, full);
    for (i = step; i + step <= count; i += step) {
      finish(i - step, full, begun);
      begun = begin(i, full);
    }
    finish(i - step, full, begun);
  }
  if (i < count) {
    const PartialOf<Stored, P> part{{}, count - i};
    finish(i, part, begin(i, part));
  }
}

// body(index, lanes), or the two stages of it, over count elements of tiles of any types. Tiles of doubles hold nothing
// else.
template <class T, class... Stages>
VAE_FUSED_INLINE void for_each_vector(int count, AskedTypes, Stages... stages) {
  for_each_vector_of<T, std::conditional_t<std::is_same_v<T, double>, double, void>, kParts>(count, stages...);
}

// The same of tiles of these types. Where they all have one type the loop is compiled for it: a test of the type at
// every access costs as much as the conversion itself. The narrower instruction sets do without: their conversions cost
// more than the test, and the compiler takes minutes over the additional loops.
template <class T, class... Stages>
VAE_FUSED_INLINE void for_each_vector(int count, unsigned types, Stages... stages) {
  if constexpr (std::is_same_v<T, float> && kNativeLanes == 16) {
    if (types == type_bit(ElementType::kFloat)) return for_each_vector_of<T, float, kParts>(count, stages...);
    if (types == type_bit(ElementType::kHalf)) return for_each_vector_of<T, Half, kHalfParts>(count, stages...);
    if (even_odd<T>(types)) return for_each_vector_of<T, BFloat16, kHalfParts>(count, stages...);
  }
  for_each_vector<T>(count, AskedTypes{}, stages...);
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
