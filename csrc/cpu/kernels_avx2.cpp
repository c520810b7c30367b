// AVX2 with FMA and F16C; compiled with the flags of that set on x86-64 only.
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define GAAL_AVX2
#define GAAL_ISA_NAMESPACE avx2
#include "cpu/kernels_impl.h"

namespace gaal::cpu {
const Kernels* avx2_kernels() { return &avx2::kTable; }
}  // namespace gaal::cpu
#else
#include "cpu/kernels.h"

namespace gaal::cpu {
const Kernels* avx2_kernels() { return nullptr; }
}  // namespace gaal::cpu
#endif
