// The reconstruction term: partial sums and gradients, any of them in one pass.
#include "core/reconstruction.h"
#include "cpu/kernels/items.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/scale_bytes.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

template <class T>
static void reconstruction_tiles(const ReconstructionParams& p, const TilePlan& plan, int64_t first_tile,
                                 int64_t last_tile) {
  ElementBuffer<T> elements_to_sum, item_weights;
  // The factor 2 of the derivative is exact wherever it stands, and in the weight it is not an operation an element.
  Weight twice = p.weight;
  twice.scale *= 2.0;
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    const TileRange range(plan, tile);
    const InputTile<T> recon(p.recon, p.extent, range.begin, range.count);
    InputTile<T> target(p.target, p.extent, range.begin, range.count);
    if (p.target.type == ElementType::kByte) scale_bytes(p, range.count, target);
    OutputTile<T> grad_recon(p.grad_recon, p.extent, range.begin, range.count, p.streamed);
    OutputTile<T> grad_target(p.grad_target, p.extent, range.begin, range.count, p.streamed);
    const unsigned types = types_of<false>(recon, target, grad_recon, grad_target);
    const ItemWeights<T> weights(twice, plan, tile, range, item_weights);
    ItemSums<T, Summed::kSquares> sums(plan, elements_to_sum, types, in_fours(p.recon, p.target));
    for_each_vector<T>(range.count, types, [&](int at, auto lanes) VAE_FUSED_LAMBDA {
      const auto difference = squared_error(recon(at, lanes), target(at, lanes)).root;
      if (p.partials != nullptr) sums.add(at, difference, lanes);
      const auto gradient = weights(at, lanes) * difference;
      if (grad_recon.wanted()) grad_recon.put(at, gradient, lanes);
      if (grad_target.wanted()) grad_target.put(at, VectorIn<T, decltype(lanes)>(0.0f) - gradient, lanes);
    });
    if (p.partials != nullptr) sums.write(plan, tile, range, types, p.partials);
    grad_recon.finish(p.grad_recon, p.extent, range.begin, range.count);
    grad_target.finish(p.grad_target, p.extent, range.begin, range.count);
  }
  if (p.streamed) order_streamed_stores();
}

void reconstruction(const ReconstructionParams& p, const TilePlan& plan, int64_t first, int64_t last) {
  if (p.wide) {
    reconstruction_tiles<double>(p, plan, first, last);
  } else {
    reconstruction_tiles<float>(p, plan, first, last);
  }
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
