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

// The sums of the items, or of their pieces: every one in the order of its own elements.
//
// A vector is added when the next one comes: its sum stands at the end of a long chain of operations and would wait for
// all of them, in the place of others that need not.
template <class T, Summed kSummed = Summed::kValues>
class ItemSums {
 public:
  // The buffer is apart, or the compiler would keep the sums beside it in memory.
  VAE_FUSED_HOST_DEVICE ItemSums(const TilePlan& plan, ElementBuffer<T>& buffer)
      : elements_(plan.items_per_tile > 1 ? buffer.values : nullptr), by_pairs_(pairs_of_one_item(plan)) {}

  template <class Lanes>
  VAE_FUSED_HOST_DEVICE void add(int at, const VectorIn<T, Lanes>& value, Lanes lanes) {
    using Vector = VectorIn<T, Lanes>;
    if (elements_ != nullptr) {
      by_pairs_ ? store(elements_ + at, value) : store(elements_ + at, value, whole(lanes));
      return;
    }
    Vector last;
    repeat<Lanes::kRegisters>([&](int i) VAE_FUSED_LAMBDA { last.part[i] = last_.part[i]; });
    add_to<Lanes::kEvenOdd>(sum_, last);
    Vector next = value;
    if constexpr (Lanes::kPartial) {
      // Beyond the lanes of a partial vector operands are 0, and what a formula makes of them need not be.
      T values[Vector::kCount];
      store(static_cast<T*>(values), value, whole(lanes));
      next = load<T>(static_cast<const T*>(values), lanes);
    }
    repeat<Lanes::kRegisters>([&](int i) VAE_FUSED_LAMBDA { last_.part[i] = next.part[i]; });
  }

  // After the loop over tiles of these types; partials [items, pieces].
  VAE_FUSED_HOST_DEVICE void write(const TilePlan& plan, int64_t tile, const TileRange& range, auto types,
                                   double* partials) {
    if constexpr (kHasEvenOdd<T>) {
      if (even_odd<T>(types)) return write_even_odd(plan, tile, range, partials);
    }
    if (elements_ == nullptr) {
      add_to<false>(sum_, last_);
      partials[tile] = sum_.total();
      return;
    }
    write_items(plan, tile, range, partials);
  }

 private:
  VAE_FUSED_HOST_DEVICE void write_items(const TilePlan& plan, int64_t tile, const TileRange& range, double* partials) {
    for_each_segment(plan, tile, range, [&](const Segment& segment) VAE_FUSED_LAMBDA {
      SumOf<T> sum;
      const T* elements = elements_ + segment.start;
      int i = 0;
      for (; i + SumOf<T>::kLanes <= segment.count; i += SumOf<T>::kLanes) {
        add_to<false>(sum, load<T, kPartsOfItem<T>>(elements + i));
      }
      if (i < segment.count) add_to<false>(sum, load_partial<T, kPartsOfItem<T>>(elements + i, segment.count - i));
      partials[segment.partial] = sum.total();
    });
  }

  VAE_FUSED_HOST_DEVICE void write_even_odd(const TilePlan& plan, int64_t tile, const TileRange& range,
                                            double* partials) {
    if (elements_ == nullptr) {
      add_to<true>(sum_, last_);
      partials[tile] = sum_.total_of_even_odd();
      return;
    }
    if (!by_pairs_) return write_items(plan, tile, range, partials);
    for_each_segment(plan, tile, range, [&](const Segment& segment) VAE_FUSED_LAMBDA {
      SumOf<T> sum;
      for (int i = 0; i < segment.count; i += 2 * kNativeLanes) {
        add_to<true>(sum, load<T, 2>(elements_ + segment.start + i));
      }
      partials[segment.partial] = sum.total_of_even_odd();
    });
  }

  template <bool kEvenOdd, int P>
  VAE_FUSED_HOST_DEVICE static void add_to(SumOf<T>& sum, const VectorOf<T, P>& value) {
    if constexpr (kSummed == Summed::kSquares) {
      sum.template add_square<kEvenOdd>(value);
    } else {
      sum.template add<kEvenOdd>(value);
    }
  }

  T* const elements_;    // of several items, or null
  const bool by_pairs_;  // even and odd elements stay apart in them
  SumOf<T> sum_;
  VectorOf<T, kMostParts<T>> last_{T(0)};  // registers that a loop does without stay 0
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
