// What belongs to the batch items of a tile, where the loop over its elements knows nothing of items.
//
// A tile has one piece of an item or several whole items. Of several, the elements to be summed are put aside and added
// up item by item, and the weights of the items are spread over their elements: a loop for each item would be mostly
// the start and the end of loops, because the latents of many models have few dimensions.
#pragma once

#include <limits>

#include "cpu/kernels/tile.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

// Items may be short: what goes over the elements of one takes vectors that just fill the lanes of a sum.
template <class T>
constexpr int kPartsOfItem = SumOf<T>::kLanes / VectorOf<T>::kPartCount;

// A value for every element of a tile, with room for the vector that ends beyond it.
template <class T>
struct alignas(64) ElementBuffer {
  T values[kTile + VectorOf<T, kMostParts<T>>::kCount];
};

// Whether a pair of registers, with the even elements in one and the odd ones in the other, never has two items.
VAE_FUSED_INLINE bool pairs_of_one_item(const TilePlan& plan) { return plan.item_numel % (2 * kNativeLanes) == 0; }

enum class Summed { kValues, kSquares };

// Whether terms made of these operands are added four at a time in float32 before they are widened: where all that are
// there are of half types. The terms have been rounded to float32, and that sum rounds as little again. One by one the
// conversions to float64 would take longer than all else that a loss of half types does in the caches.
template <class... Operands>
VAE_FUSED_INLINE bool in_fours(const Operands&... operands) {
  const auto half = [](const Operand& operand) {
    return operand.data == nullptr || operand.type == ElementType::kHalf || operand.type == ElementType::kBFloat16;
  };
  return (half(operands) && ...);
}

// The first half of the registers plus the second.
template <int P>
VAE_FUSED_INLINE VectorOf<float, P / 2> halves_added(const VectorOf<float, P>& value) {
  VectorOf<float, P / 2> result;
  repeat<P / 2>([&](int i) VAE_FUSED_LAMBDA { result.part[i] = value.part[i] + value.part[i + P / 2]; });
  return result;
}

// The sums of the items, or of their pieces: every one in the order of its own elements. In fours, elements l, l + 32,
// l + 16 and l + 48 of 64 are one, (first + second) + (third + fourth), on every instruction set and for every layout.
//
// One by one, a vector is added when the next one comes: its sum stands at the end of a long chain of operations and
// would wait for all of them, in the place of others that need not.
template <class T, Summed kSummed = Summed::kValues>
class ItemSums {
 public:
  // The buffer is apart, or the compiler would keep the sums beside it in memory.
  VAE_FUSED_HOST_DEVICE ItemSums(const TilePlan& plan, ElementBuffer<T>& buffer, auto types, bool in_fours)
      : elements_(plan.items_per_tile > 1 || (in_fours && !of_half_type<T>(types)) ? buffer.values : nullptr),
        by_pairs_(pairs_of_one_item(plan)),
        in_fours_(in_fours) {}

  template <class Lanes>
  VAE_FUSED_HOST_DEVICE void add(int at, const VectorIn<T, Lanes>& value, Lanes lanes) {
    // Shorter vectors of half types, which do not hold four terms of every lane, are for several items alone.
    constexpr bool kInFours = HalfPrecision<typename Lanes::Stored> && Lanes::kRegisters == kHalfParts;
    if (elements_ != nullptr) {
      by_pairs_ ? store(elements_ + at, value) : store(elements_ + at, value, whole(lanes));
    } else if constexpr (kInFours) {
      const auto pairs = halves_added(term(within(value, lanes)));
      if constexpr (Lanes::kEvenOdd) {
        sum_.add_even_odd(pairs);
      } else {
        sum_.add(halves_added(pairs));
      }
    } else if constexpr (!HalfPrecision<typename Lanes::Stored>) {
      add_to(sum_, last_);
      const auto next = within(value, lanes);
      repeat<Lanes::kRegisters>([&](int i) VAE_FUSED_LAMBDA { last_.part[i] = next.part[i]; });
    }
  }

  // After the loop over tiles of these types; partials [items, pieces].
  VAE_FUSED_HOST_DEVICE void write(const TilePlan& plan, int64_t tile, const TileRange& range, auto types,
                                   double* partials) {
    if (elements_ == nullptr) {
      partials[tile] = total(types);
      return;
    }
    for_each_segment(plan, tile, range, [&](const Segment& segment) VAE_FUSED_LAMBDA {
      partials[segment.partial] = total_of_elements(segment.start, segment.count, types);
    });
  }

 private:
  VAE_FUSED_HOST_DEVICE double total(auto types) {
    if constexpr (kHasEvenOdd<T>) {
      if (even_odd<T>(types)) return sum_.total_of_even_odd();
    }
    add_to(sum_, last_);
    return sum_.total();
  }

  VAE_FUSED_HOST_DEVICE double total_of_elements(int start, int count, auto types) const {
    const T* elements = elements_ + start;
    SumOf<T> sum;
    if constexpr (std::is_same_v<T, float>) {
      if (in_fours_) {
        if constexpr (kHasEvenOdd<T>) {
          if (by_pairs_ && even_odd<T>(types)) return total_of_even_odd(elements, count);
        }
        int i = 0;
        for (; i + 4 * sum.kLanes <= count; i += 4 * sum.kLanes) {
          sum.add(halves_added(halves_added(term(load<T, 4 * kPartsOfItem<T>>(elements + i)))));
        }
        if (i < count) sum.add(last_fours(elements + i, count - i));
        return sum.total();
      }
    }
    for (int i = 0; i < count; i += sum.kLanes) add_to(sum, lanes_of(elements + i, count - i));
    return sum.total();
  }

#if defined(__AVX512F__)
  VAE_FUSED_HOST_DEVICE static double total_of_even_odd(const float* elements, int count) {
    constexpr int kPair = 2 * kNativeLanes;
    LaneSum sum;
    for (int i = 0; i < count; i += 2 * kPair) {
      auto pair = term(load<float, 2>(elements + i));
      if (i + kPair < count) pair = pair + term(load<float, 2>(elements + i + kPair));
      sum.add_even_odd(pair);
    }
    return sum.total_of_even_odd();
  }
#endif

  // Of fewer than 64 elements, as small items have them: adding the zeros beyond would take as long as adding them.
  VAE_FUSED_HOST_DEVICE static VectorOf<T, kPartsOfItem<T>> last_fours(const T* elements, int left) {
    const auto lane_terms = [&](int k) VAE_FUSED_LAMBDA {
      return term(lanes_of(elements + k * SumOf<T>::kLanes, left - k * SumOf<T>::kLanes));
    };
    if (left <= SumOf<T>::kLanes) return lane_terms(0);
    if (left <= 2 * SumOf<T>::kLanes) return lane_terms(0) + lane_terms(1);
    return (lane_terms(0) + lane_terms(2)) + (lane_terms(1) + lane_terms(3));
  }

  // As many elements as a sum has lanes, 0 where none are left.
  VAE_FUSED_HOST_DEVICE static VectorOf<T, kPartsOfItem<T>> lanes_of(const T* elements, int left) {
    if (left >= SumOf<T>::kLanes) return load<T, kPartsOfItem<T>>(elements);
    return left > 0 ? load_partial<T, kPartsOfItem<T>>(elements, left) : VectorOf<T, kPartsOfItem<T>>(T(0));
  }

  // Beyond the lanes of a partial vector operands are 0, and what a formula makes of them need not be.
  template <class Lanes>
  VAE_FUSED_HOST_DEVICE static VectorIn<T, Lanes> within(const VectorIn<T, Lanes>& value, Lanes lanes) {
    if constexpr (!Lanes::kPartial) {
      return value;
    } else {
      T values[VectorIn<T, Lanes>::kCount];
      store(static_cast<T*>(values), value, whole(lanes));
      return load<T>(static_cast<const T*>(values), lanes);
    }
  }

  template <int P>
  VAE_FUSED_HOST_DEVICE static VectorOf<T, P> term(const VectorOf<T, P>& value) {
    return kSummed == Summed::kSquares ? value * value : value;
  }

  template <int P>
  VAE_FUSED_HOST_DEVICE static void add_to(SumOf<T>& sum, const VectorOf<T, P>& value) {
    if constexpr (kSummed == Summed::kSquares) {
      sum.add_square(value);
    } else {
      sum.add(value);
    }
  }

  T* const elements_;    // put aside, or null
  const bool by_pairs_;  // even and odd elements stay apart in them
  const bool in_fours_;
  SumOf<T> sum_;
  VectorOf<T> last_{T(0)};  // 0 in loops of half types
};

// NaN is the one that arithmetic makes: the bits of one that comes from outside could be rounded away, in
// store_even_odd.
VAE_FUSED_INLINE double weight_of(const Weight& weight, int64_t item) {
  double value = 1.0;
  if (weight.values != nullptr) {
    with_type(weight.type, weight.values, [&](auto* values) { value = widen(values[item * weight.stride]); });
  }
  value *= weight.scale;
  return value != value ? std::numeric_limits<double>::quiet_NaN() : value;
}

// The weight of the item of every element.
template <class T>
class ItemWeights {
 public:
  VAE_FUSED_HOST_DEVICE ItemWeights(const Weight& weight, const TilePlan& plan, int64_t tile, const TileRange& range,
                                    ElementBuffer<T>& buffer)
      : of_all_(static_cast<T>(weight_of(weight, range.item))),
        elements_(plan.items_per_tile > 1 && weight.values != nullptr && weight.stride != 0 ? buffer.values : nullptr),
        by_pairs_(pairs_of_one_item(plan)) {
    if (elements_ == nullptr) return;
    for_each_segment(plan, tile, range, [&](const Segment& segment) VAE_FUSED_LAMBDA {
      const VectorOf<T, kPartsOfItem<T>> of_item(static_cast<T>(weight_of(weight, segment.item)));
      // What is written beyond the item belongs to the next one, which writes its own over it.
      for (int i = 0; i < segment.count; i += of_item.kCount) store(elements_ + segment.start + i, of_item);
    });
  }

  template <class Lanes>
  VAE_FUSED_HOST_DEVICE VectorIn<T, Lanes> operator()(int at, Lanes lanes) const {
    if (elements_ == nullptr) return VectorIn<T, Lanes>(of_all_);
    const T* elements = elements_ + at;
    return by_pairs_ ? load<T, Lanes::kRegisters>(elements) : load(elements, whole(lanes));
  }

 private:
  const T of_all_;
  T* const elements_;    // where the items differ, or null
  const bool by_pairs_;  // the same weight in both registers
};

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
