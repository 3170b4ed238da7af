// Any reconstruction term, weighted or not: partial sums and gradients, any of them in one pass.
#include "core/reconstruction_terms.h"
#include "cpu/kernels/double_math.h"
#include "cpu/kernels/items.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/reconstruction_math.h"
#include "cpu/kernels/scale_bytes.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

// Whether a term takes an elementary function that can be begun ahead.
template <class Term, class Vector>
constexpr bool kBegins = requires(const Term& term, Vector x) { term.begin(x, x); };

template <class T, class Formula>
static void reconstruction_term_tiles(const ReconstructionTermParams& params, const TilePlan& plan, int64_t first_tile,
                                      int64_t last_tile) {
  using Term = typename Formula::template For<VectorOf<T>>;
  const ReconstructionParams& p = params.data;
  ElementBuffer<T> elements_to_sum, weights_to_sum, item_weights;
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    const TileRange range(plan, tile);
    const auto input = [&](const Operand& operand)
                           VAE_FUSED_LAMBDA { return InputTile<T>(operand, p.extent, range.begin, range.count); };
    const auto output = [&](const Operand& operand) VAE_FUSED_LAMBDA {
      return OutputTile<T>(operand, p.extent, range.begin, range.count, p.streamed);
    };
    const InputTile<T> recon = input(p.recon), weight = input(params.weight), log_sigma = input(params.log_sigma);
    InputTile<T> target = input(p.target);
    if (p.target.type == ElementType::kByte) scale_bytes(p, range.count, target);
    OutputTile<T> grad_recon = output(p.grad_recon), grad_target = output(p.grad_target),
                  grad_log_sigma = output(params.grad_log_sigma);
    const unsigned types = types_of<false>(recon, target, weight, log_sigma, grad_recon, grad_target, grad_log_sigma);
    const ItemWeights<T> weights(p.weight, plan, tile, range, item_weights);
    const bool fours = in_fours(p.recon, p.target, params.weight, params.log_sigma);
    ItemSums<T> sums(plan, elements_to_sum, types, fours), weight_sums(plan, weights_to_sum, types, fours);
    const auto width = [&](int at, auto lanes) VAE_FUSED_LAMBDA {
      using Vector = VectorIn<T, decltype(lanes)>;
      return log_sigma.present() ? log_sigma(at, lanes) : Vector(0.0f);
    };
    const auto body = [&](int at, auto lanes, const auto&... begun) VAE_FUSED_LAMBDA {
      using Vector = VectorIn<T, decltype(lanes)>;
      const typename Formula::template For<Vector> term(params.settings);
      const auto element = term(recon(at, lanes), target(at, lanes), width(at, lanes), begun...);
      Vector value = element.value, gradient = weights(at, lanes);
      if (weight.present()) {
        const Vector own_weight = weight(at, lanes);
        value = own_weight * value;
        gradient = own_weight * gradient;
        if (params.weight_partials != nullptr) weight_sums.add(at, own_weight, lanes);
      } else if (params.weight_partials != nullptr) {
        weight_sums.add(at, Vector(1.0f), lanes);
      }
      if (p.partials != nullptr) sums.add(at, value, lanes);
      if (grad_recon.wanted()) grad_recon.put(at, gradient * element.to_recon, lanes);
      if (grad_target.wanted()) grad_target.put(at, gradient * element.to_target, lanes);
      if (grad_log_sigma.wanted()) grad_log_sigma.put(at, gradient * element.to_log_sigma, lanes);
    };
    if constexpr (kBegins<Term, VectorOf<T>>) {
      const auto begin = [&](int at, auto lanes) VAE_FUSED_LAMBDA {
        return typename Formula::template For<VectorIn<T, decltype(lanes)>>(params.settings)
            .begin(recon(at, lanes), width(at, lanes));
      };
      for_each_vector<T>(range.count, types, begin, body);
    } else {
      for_each_vector<T>(range.count, types, body);
    }
    if (p.partials != nullptr) sums.write(plan, tile, range, types, p.partials);
    if (params.weight_partials != nullptr) weight_sums.write(plan, tile, range, types, params.weight_partials);
    const auto finish = [&](const OutputTile<T>& tile_of, const Operand& operand)
                            VAE_FUSED_LAMBDA { tile_of.finish(operand, p.extent, range.begin, range.count); };
    finish(grad_recon, p.grad_recon);
    finish(grad_target, p.grad_target);
    finish(grad_log_sigma, params.grad_log_sigma);
  }
  if (p.streamed) order_streamed_stores();
}

void reconstruction_term(const ReconstructionTermParams& params, const TilePlan& plan, int64_t first, int64_t last) {
  if (params.data.wide) return reconstruction_term_tiles<double, TermOf<AnyTerm>>(params, plan, first, last);
  with_term(params.settings.formula, [&](auto term) VAE_FUSED_LAMBDA {
    reconstruction_term_tiles<float, decltype(term)>(params, plan, first, last);
  });
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
