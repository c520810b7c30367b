// What both modules share: the codes of the element types and the options of a projection.
// No functions here: the kernels of every instruction set include this file (see cpu/vec.h).
#pragma once

namespace gaal {

// Both modules export these codes to Python (`DTYPES`). An array by element type has this order.
enum class DType : int { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };
constexpr int kDTypes = 3;

// How v is chosen. The bindings take the six options in this order.
struct Rule {
  bool official;  // the released code's rule in place of the paper's
  double epsilon;
  bool relative;  // epsilon is a cosine
  double margin;
  double ridge;
  double max_correction;  // bound on |v g_p| / |g|; negative: none
};

// Of the gradient g and the guide g_p, each seen as one flat vector.
struct InnerProducts {
  double dot;          // <g, g_p>
  double guide_norm2;  // |g_p|^2
  double grad_norm2;   // |g|^2
};

}  // namespace gaal
