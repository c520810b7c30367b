// AVX-512 F, BW, DQ and VL; compiled with the flags of that set on x86-64 only.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define GAAL_AVX512
#define GAAL_ISA_NAMESPACE avx512
#include "cpu/kernels_impl.h"

namespace gaal::cpu {
const Kernels* avx512_kernels() { return &avx512::kTable; }
}  // namespace gaal::cpu
#else
#include "cpu/kernels.h"

namespace gaal::cpu {
const Kernels* avx512_kernels() { return nullptr; }
}  // namespace gaal::cpu
#endif
