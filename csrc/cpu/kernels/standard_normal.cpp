// The noise itself.
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/noise.h"
#include "cpu/kernels/tile_layout.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

template <class T>
static void standard_normal_tiles(const StandardNormalParams& p, const TilePlan& plan, int64_t first_tile,
                                  int64_t last_tile) {
  Extent extent{1, {p.numel}};
  Operand out{p.out, p.type, {1}};
  Noise<T> noise(p.key);
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    const TileRange range(plan, tile);
    for_each_segment(plan, tile, range, [&](const Segment& segment) VAE_FUSED_LAMBDA {
      const T* normals = noise(segment.item, segment.within, segment.count);
      scatter(out, extent, range.begin + segment.start, segment.count, normals);
    });
  }
}

void standard_normal(const StandardNormalParams& p, const TilePlan& plan, int64_t first, int64_t last) {
  if constexpr (kExtendsAvx512) {
    avx512::kTable.standard_normal(p, plan, first, last);
  } else if (p.type == ElementType::kDouble) {
    standard_normal_tiles<double>(p, plan, first, last);
  } else {
    standard_normal_tiles<float>(p, plan, first, last);
  }
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
