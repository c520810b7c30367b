// gaal_fast._native_cpu: the operations of csrc/cpu/ops.h on raw addresses. Nothing here knows of
// torch; whoever calls has checked shapes, strides and the ranges of labels and indices, and keeps
// the memory alive. An address of 0 means "none"; the GIL is not held.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "common/bindings.h"
#include "common/projection.h"
#include "cpu/ops.h"

namespace py = pybind11;
using namespace gaal;
using namespace gaal::cpu;

namespace {

const char* const kIsaNames[] = {"portable", "avx2", "avx512"};

Run make_run(int threads, int isa) {
  static const Kernels* const best = kernels_for(best_isa());
  const Kernels* kernels = isa < 0 ? best : kernels_for(static_cast<Isa>(isa));
  if (!kernels)
    throw std::invalid_argument(std::string("no ") + kIsaNames[isa] + " kernels on this machine");
  return {threads, kernels};
}

Logits make_logits(int dtype, Address data, int64_t stride, Address bias, int64_t n_rows,
                   int64_t n_classes) {
  return {static_cast<DType>(dtype),
          pointer<void>(data),
          stride,
          pointer<void>(bias),
          n_rows,
          n_classes};
}

Labels make_labels(Address target, Address class_weights) {
  return {pointer<int64_t>(target), pointer<float>(class_weights)};
}

Matrix make_matrix(int dtype, Address data, int64_t stride) {
  return {static_cast<DType>(dtype), pointer<void>(data), stride};
}

std::vector<Pair> make_pairs(const std::vector<int>& dtypes, const std::vector<Address>& grads,
                             const std::vector<Address>& guides,
                             const std::vector<int64_t>& sizes) {
  std::vector<Pair> pairs;
  pairs.reserve(grads.size());
  for (size_t i = 0; i < grads.size(); ++i)
    pairs.push_back({static_cast<DType>(dtypes.at(i)), pointer<void>(grads[i]),
                     pointer<void>(guides.at(i)), sizes.at(i)});
  return pairs;
}

}  // namespace

PYBIND11_MODULE(_native_cpu, m) {
  m.doc() = "CPU kernels of gaal_fast on raw addresses; internal.";
  const py::call_guard<py::gil_scoped_release> no_gil;

  m.attr("DTYPES") = dtype_codes();
  m.def("isas", [] {
    std::vector<std::string> names;
    for (int i = 0; i < 3; ++i)
      if (kernels_for(static_cast<Isa>(i))) names.push_back(kIsaNames[i]);
    return names;
  });

  m.def("extent", [](Address numbers, int64_t n) {
    const Extent found = extent(pointer<int64_t>(numbers), n);
    return std::make_tuple(found.least, found.greatest);
  });

  m.def(
      "softmax_stats",
      [](int dtype, Address logits, int64_t stride, int64_t n_rows, int64_t n_classes,
         Address target, Address entropy, Address lse, Address nll, int threads, int isa) {
        softmax_stats(make_run(threads, isa),
                      make_logits(dtype, logits, stride, 0, n_rows, n_classes),
                      pointer<int64_t>(target), pointer<float>(entropy), pointer<float>(lse),
                      pointer<float>(nll));
      },
      no_gil);

  m.def(
      "entropy_topk",
      [](int dtype, Address logits, int64_t stride, int64_t n_rows, int64_t n_classes, int64_t k,
         Address entropy, Address index, int threads, int isa) {
        entropy_topk(make_run(threads, isa),
                     make_logits(dtype, logits, stride, 0, n_rows, n_classes), k,
                     pointer<float>(entropy), pointer<int64_t>(index));
      },
      no_gil);

  m.def(
      "residual",
      [](int dtype, Address logits, int64_t stride, int64_t n_rows, int64_t n_classes,
         Address target, Address class_weights, Address index, int64_t n, Address features,
         int64_t feature_stride, int64_t feature_bytes, Address chosen, int out_dtype, Address out,
         int64_t out_stride, Address column_sums, int threads, int isa) {
        return residual(
            make_run(threads, isa), make_logits(dtype, logits, stride, 0, n_rows, n_classes),
            make_labels(target, class_weights), pointer<int64_t>(index), n,
            {pointer<void>(features), feature_stride, feature_bytes, pointer<void>(chosen)},
            make_matrix(out_dtype, out, out_stride), pointer<void>(column_sums));
      },
      no_gil);

  // Contiguous matrices; logits become their residual in place.
  m.def(
      "guided_residuals",
      [](int dtype, int64_t n_classes, Address bias, Address class_weights, Address logits,
         int64_t n_rows, Address target, Address column_sums, Address guide_logits,
         int64_t n_guide_rows, Address guide_target, Address guide_features, int64_t feature_stride,
         int64_t feature_bytes, Address chosen, int64_t k, Address index, Address guide_out,
         Address guide_column_sums, int threads, int isa) {
        return guided_residuals(
            make_run(threads, isa), make_logits(dtype, logits, n_classes, bias, n_rows, n_classes),
            make_labels(target, class_weights), make_matrix(dtype, logits, n_classes),
            pointer<void>(column_sums),
            {make_logits(dtype, guide_logits, n_classes, bias, n_guide_rows, n_classes),
             make_labels(guide_target, class_weights),
             {pointer<void>(guide_features), feature_stride, feature_bytes, pointer<void>(chosen)},
             k,
             pointer<int64_t>(index),
             make_matrix(dtype, guide_out, n_classes),
             pointer<void>(guide_column_sums)});
      },
      no_gil);

  // Pairs come as four lists of one length: dtypes, grads, guides, sizes.
  m.def(
      "inner_products",
      [](const std::vector<int>& dtypes, const std::vector<Address>& grads,
         const std::vector<Address>& guides, const std::vector<int64_t>& sizes, int threads,
         int isa) {
        const InnerProducts p =
            inner_products(make_run(threads, isa), make_pairs(dtypes, grads, guides, sizes));
        return std::make_tuple(p.dot, p.guide_norm2, p.grad_norm2);
      },
      no_gil);

  m.def("correction", [](double dot, double guide_norm2, double grad_norm2, const RuleTuple& rule) {
    return correction({dot, guide_norm2, grad_norm2}, rule_of(rule));
  });

  m.def(
      "project",
      [](const std::vector<int>& dtypes, const std::vector<Address>& grads,
         const std::vector<Address>& guides, const std::vector<int64_t>& sizes,
         const RuleTuple& rule, int threads, int isa) {
        const Run run = make_run(threads, isa);
        const std::vector<Pair> pairs = make_pairs(dtypes, grads, guides, sizes);
        const InnerProducts p = inner_products(run, pairs);
        const double v = correction(p, rule_of(rule));
        add_scaled(run, pairs, v);
        return std::make_tuple(v, p.dot, p.guide_norm2, p.grad_norm2);
      },
      no_gil);

  // values[i] as a float32 at to[i].
  m.def("write_floats", [](const std::vector<Address>& to, const std::vector<double>& values) {
    for (size_t i = 0; i < to.size(); ++i)
      *pointer<float>(to[i]) = static_cast<float>(values.at(i));
  });

  m.attr("small_inner") = kSmallInner;
  m.def(
      "small_matmul",
      [](Address a, int64_t a_stride, Address w, int64_t w_stride, int64_t n_rows, int64_t n_inner,
         int64_t n, Address out, int64_t out_stride, int threads, int isa) {
        small_matmul(make_run(threads, isa), pointer<float>(a), a_stride, pointer<float>(w),
                     w_stride, n_rows, n_inner, n, pointer<float>(out), out_stride);
      },
      no_gil);
}
