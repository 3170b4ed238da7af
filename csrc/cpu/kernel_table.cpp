// Which instruction set runs here.
#include "cpu/kernels/kernel_table.h"

#include <c10/util/Exception.h>

#include <cstdlib>
#include <string>
#include <vector>

namespace vae_fused {
namespace {

// Best first.
std::vector<const KernelTable*> available() {
  std::vector<const KernelTable*> tables;
#if defined(VAE_FUSED_X86_KERNELS)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) tables.push_back(&avx512::kTable);
  if (avx2) tables.push_back(&avx2::kTable);
#endif
  tables.push_back(&baseline::kTable);
  return tables;
}

const KernelTable& choose() {
  const auto tables = available();
  const char* wanted = std::getenv("VAE_FUSED_CPU_CAPABILITY");
  if (wanted == nullptr || *wanted == '\0') return *tables.front();
  std::string names;
  for (const KernelTable* table : tables) {
    if (std::string(wanted) == table->capability) return *table;
    names += names.empty() ? table->capability : std::string(", ") + table->capability;
  }
  TORCH_CHECK_VALUE(false, "VAE_FUSED_CPU_CAPABILITY must be one of ", names, " on this processor, got '", wanted, "'");
}

}  // namespace

const KernelTable& kernels() {
  static const KernelTable& table = choose();
  return table;
}

}  // namespace vae_fused
