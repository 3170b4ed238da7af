// Loops over the elements of tiles, a vector at a time.
#pragma once

#include <type_traits>

#include "cpu/kernels/half.h"
#include "cpu/kernels/lane_sum.h"
#include "cpu/tile_plan.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

// What a loop hands its body: a whole vector, or the first lanes of one.
struct Full {};
struct Partial {
  int count;
};
// The same with the type that all tiles of the loop hold, or void where they differ and each has to be asked.
template <class Type>
struct FullOf : Full {
  using Stored = Type;
};
template <class Type>
struct PartialOf : Partial {
  using Stored = Type;
};

// The types of tiles as a set of bits; a tile that is absent has none.
constexpr unsigned type_bit(ElementType type) { return 1u << static_cast<int>(type); }
constexpr unsigned kAnyTypes = 0;  // each tile is asked
template <class... Tiles>
VAE_FUSED_INLINE unsigned types_of(const Tiles&... tiles) {
  return (tiles.types() | ...);
}

template <class S>
VAE_FUSED_INLINE VectorOf<S> load(const S* source, Full) {
  return load(source);
}
template <class S>
VAE_FUSED_INLINE VectorOf<S> load(const S* source, Partial lanes) {
  return load_partial(source, lanes.count);
}
template <HalfPrecision Stored>
VAE_FUSED_INLINE Float load(const Stored* source, Full) {
  return load_widened(source);
}
template <HalfPrecision Stored>
VAE_FUSED_INLINE Float load(const Stored* source, Partial lanes) {
  return load_widened_partial(source, lanes.count);
}

template <class T, class Stored, class Body>
VAE_FUSED_INLINE void for_each_vector_of(int count, Body body) {
  constexpr int step = VectorOf<T>::kCount;
  int i = 0;
  for (; i + step <= count; i += step) body(i, FullOf<Stored>{});
  if (i < count) body(i, PartialOf<Stored>{{count - i}});
}

// body(index, lanes) over count elements of tiles of these types. Where they all have one type the loop is compiled for
// it: a test of the type at every access costs as much as the conversion itself. The narrower instruction sets do
// without: their conversions cost more than the test, and the compiler takes minutes over the additional loops. Tiles
// of doubles hold nothing else.
template <class T, class Body>
VAE_FUSED_INLINE void for_each_vector(int count, unsigned types, Body body) {
  if constexpr (std::is_same_v<T, float> && kNativeLanes == 16) {
    if (types == type_bit(ElementType::kFloat)) return for_each_vector_of<T, float>(count, body);
    if (types == type_bit(ElementType::kHalf)) return for_each_vector_of<T, Half>(count, body);
    if (types == type_bit(ElementType::kBFloat16)) return for_each_vector_of<T, BFloat16>(count, body);
  }
  for_each_vector_of<T, std::conditional_t<std::is_same_v<T, double>, double, void>>(count, body);
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
