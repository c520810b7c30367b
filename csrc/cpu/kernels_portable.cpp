// Any architecture the compiler knows: 16-byte vectors (SSE2, NEON, or whatever it makes of them).
#define GAAL_ISA_NAMESPACE portable
#include "cpu/kernels_impl.h"

namespace gaal::cpu {
const Kernels* portable_kernels() { return &portable::kTable; }
}  // namespace gaal::cpu
