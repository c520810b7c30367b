#include "cpu/ops.h"

namespace gaal::cpu {

const Kernels* kernels_for(Isa isa) {
#if defined(__x86_64__) || defined(__i386__)
  if (isa == Isa::avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                   kernels_for(Isa::avx2)
               ? avx512_kernels()
               : nullptr;
  // Every processor with AVX2 and FMA converts half floats too; the name "f16c" is unknown to older
  // compilers.
  if (isa == Isa::avx2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? avx2_kernels()
                                                                           : nullptr;
#else
  if (isa != Isa::portable) return nullptr;
#endif
  return portable_kernels();
}

Isa best_isa() {
  if (kernels_for(Isa::avx512)) return Isa::avx512;
  if (kernels_for(Isa::avx2)) return Isa::avx2;
  return Isa::portable;
}

}  // namespace gaal::cpu
