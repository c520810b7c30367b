// Any architecture the compiler knows: 16-byte vectors (SSE2, NEON, or whatever it makes of them).
#define GAAL_ISA_NAMESPACE portable
#include "kernels_impl.h"

namespace gaal {
const Kernels* portable_kernels() { return &portable::kTable; }
}  // namespace gaal
