// The noise itself.
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/sample_noise.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

template <class T>
static void standard_normal_tiles(const StandardNormalParams& p, const TilePlan& plan, int64_t first_tile,
                                  int64_t last_tile) {
  const Extent extent{1, {p.numel}};
  const Operand normals{p.out, p.type, {1}};
  Noise<T> noise(p.key);
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    const TileRange range(plan, tile);
    OutputTile<T> out(normals, extent, range.begin, range.count, /*streamed=*/false);
    for_each_segment(plan, tile, range, [&](const Segment& segment) VAE_FUSED_LAMBDA {
      const auto nothing = [](int, int) VAE_FUSED_LAMBDA {};
      const T* drawn = noise(segment.item, segment.within, segment.count, even_odd<T>(out.types()), nothing);
      for_each_vector<T>(segment.count, out.types(), [&](int at, auto lanes) VAE_FUSED_LAMBDA {
        out.put(segment.start + at, load_noise(drawn + at, lanes), lanes);
      });
    });
  }
}

void standard_normal(const StandardNormalParams& p, const TilePlan& plan, int64_t first, int64_t last) {
  if (p.type == ElementType::kDouble) {
    standard_normal_tiles<double>(p, plan, first, last);
  } else {
    standard_normal_tiles<float>(p, plan, first, last);
  }
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
