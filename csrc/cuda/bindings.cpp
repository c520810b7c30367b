// gaal_fast._native_cuda: the kernels by raw device pointers. All checking of tensors is done by
// the caller, in Python.
//
// A matrix is passed as (pointer, rows, columns, row stride), a missing tensor as pointer 0, a
// stream as the integer of its handle. The interpreter lock is released while work is enqueued: a
// launch waits when the device's queue is full.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <tuple>
#include <vector>

#include "common/bindings.h"
#include "cuda/api.h"

namespace py = pybind11;
namespace cuda = gaal::cuda;

namespace {

using cuda::Call;
using cuda::Matrix;
using gaal::Address;
using gaal::DType;
using gaal::pointer;

using MatrixTuple = std::tuple<Address, int64_t, int64_t, int64_t>;
// The options of a rule as gaal::RuleTuple has them, then the addresses of doubles on the device
// that take the place of epsilon and of margin, or 0.
using OptionsTuple = std::tuple<bool, double, bool, double, double, double, Address, Address>;

Call call_of(int device, Address stream, int dtype) {
  return {device, pointer<void>(stream), static_cast<DType>(dtype)};
}

Matrix matrix_of(const MatrixTuple& m) {
  return {pointer<const void>(std::get<0>(m)), std::get<1>(m), std::get<2>(m), std::get<3>(m)};
}

cuda::DeviceRule rule_of(const OptionsTuple& options) {
  const auto [official, epsilon, relative, margin, ridge, bound, epsilon_at, margin_at] = options;
  return {{official, epsilon, relative, margin, ridge, bound},
          pointer<const double>(epsilon_at),
          pointer<const double>(margin_at)};
}

}  // namespace

PYBIND11_MODULE(_native_cuda, m) {
  using Unlocked = py::call_guard<py::gil_scoped_release>;
  m.doc() =
      "CUDA kernels of gaal_fast, called with raw device pointers, sizes, strides and a stream.";
  m.attr("DTYPES") = gaal::dtype_codes();
  m.attr("max_selection") = cuda::kMaxSelection;
  m.attr("max_guide_rows") = cuda::kMaxGuideRows;

  m.def("obstacle", &cuda::obstacle, py::arg("device"));
  m.def("cooperative_launch_supported", &cuda::cooperative_launch_supported, py::arg("device"));

  m.def("softmax_stats_workspace", &cuda::softmax_stats_workspace, py::arg("device"),
        py::arg("rows"), py::arg("columns"));
  m.def(
      "softmax_stats",
      [](int device, Address stream, int dtype, const MatrixTuple& logits, Address target,
         Address entropy, Address lse, Address nll, Address workspace) {
        cuda::softmax_stats(call_of(device, stream, dtype), matrix_of(logits),
                            pointer<const int64_t>(target), pointer<float>(entropy),
                            pointer<float>(lse), pointer<float>(nll), pointer<void>(workspace));
      },
      Unlocked());

  m.def("entropy_topk_workspace", &cuda::entropy_topk_workspace, py::arg("device"), py::arg("rows"),
        py::arg("columns"));
  m.def(
      "entropy_topk",
      [](int device, Address stream, int dtype, const MatrixTuple& logits, int k, Address entropy,
         Address index, Address workspace) {
        cuda::entropy_topk(call_of(device, stream, dtype), matrix_of(logits), k,
                           pointer<float>(entropy), pointer<int64_t>(index),
                           pointer<void>(workspace));
      },
      Unlocked());

  m.def("linear_ce_grad_workspace", [](int device, int dtype, int64_t count, int64_t classes,
                                       int64_t width) {
    return cuda::linear_ce_grad_workspace(device, static_cast<DType>(dtype), count, classes, width);
  });
  m.def(
      "linear_ce_grad",
      [](int device, Address stream, int dtype, const MatrixTuple& features,
         const MatrixTuple& logits, Address target, Address index, int64_t count,
         Address class_weights, Address grad_weight, Address grad_bias, Address workspace) {
        cuda::linear_ce_grad(call_of(device, stream, dtype), matrix_of(features), matrix_of(logits),
                             pointer<const int64_t>(target), pointer<const int64_t>(index), count,
                             pointer<const float>(class_weights), pointer<void>(grad_weight),
                             pointer<void>(grad_bias), pointer<void>(workspace));
      },
      Unlocked());

  m.def("ce_residual_workspace", &cuda::ce_residual_workspace, py::arg("device"), py::arg("count"),
        py::arg("classes"));
  m.def(
      "ce_residual",
      [](int device, Address stream, int dtype, const MatrixTuple& logits, Address target,
         Address index, int64_t count, Address class_weights, Address out, int64_t out_stride,
         Address sigma, Address loss, Address workspace) {
        cuda::ce_residual(call_of(device, stream, dtype), matrix_of(logits),
                          pointer<const int64_t>(target), pointer<const int64_t>(index), count,
                          pointer<const float>(class_weights), pointer<void>(out), out_stride,
                          pointer<double>(sigma), pointer<float>(loss), pointer<void>(workspace));
      },
      Unlocked());
  m.def(
      "unscale",
      [](int device, Address stream, int dtype, Address data, int64_t count, Address sigma) {
        cuda::unscale(call_of(device, stream, dtype), pointer<void>(data), count,
                      pointer<const double>(sigma));
      },
      Unlocked());

  m.def("project_workspace", [](int device, int dtype, const std::vector<int64_t>& sizes) {
    return cuda::project_workspace(device, static_cast<DType>(dtype),
                                   static_cast<int>(sizes.size()), sizes.data());
  });
  m.def(
      "project",
      [](int device, Address stream, int dtype, const std::vector<Address>& grads,
         const std::vector<Address>& guides, const std::vector<int64_t>& sizes,
         const OptionsTuple& options, Address sigmas, Address scalars, Address workspace) {
        cuda::project(call_of(device, stream, dtype), static_cast<int>(sizes.size()),
                      reinterpret_cast<void* const*>(grads.data()),
                      reinterpret_cast<const void* const*>(guides.data()), sizes.data(),
                      rule_of(options), pointer<const double>(sigmas), pointer<float>(scalars),
                      pointer<void>(workspace));
      },
      Unlocked());

  m.def("gram_project_workspace", &cuda::gram_project_workspace, py::arg("device"), py::arg("rows"),
        py::arg("k"));
  m.def(
      "gram_project",
      [](int device, Address stream, int dtype, int64_t rows, int64_t k, Address residual_gram,
         Address feature_gram, bool has_bias, Address sigmas, Address residuals, int64_t classes,
         const OptionsTuple& options, Address scalars, Address workspace) {
        cuda::gram_project(call_of(device, stream, dtype), rows, k,
                           pointer<const float>(residual_gram), pointer<const float>(feature_gram),
                           has_bias, pointer<const double>(sigmas), pointer<void>(residuals),
                           classes, rule_of(options), pointer<float>(scalars),
                           pointer<void>(workspace));
      },
      Unlocked());

  m.def("guided_linear_ce_workspace",
        [](int device, int dtype, int64_t rows, int64_t guide_rows, int64_t classes, int64_t width,
           int64_t k, bool sample_space) {
          return cuda::guided_linear_ce_workspace(
              device, static_cast<DType>(dtype),
              {rows, guide_rows, classes, width, k, sample_space, false});
        });
  m.def(
      "guided_linear_ce",
      [](int device, Address stream, int dtype, const MatrixTuple& features, Address target,
         const MatrixTuple& guide_features, Address guide_target, const MatrixTuple& weight,
         Address bias, Address class_weights, int64_t k, const OptionsTuple& options,
         bool sample_space, bool cooperative, Address grad_features, Address grad_weight,
         Address grad_bias, Address scalars, Address index, Address workspace) {
        cuda::GuidedTensors tensors{};
        tensors.features = matrix_of(features);
        tensors.guide_features = matrix_of(guide_features);
        tensors.weight = matrix_of(weight);
        tensors.bias = pointer<const void>(bias);
        tensors.target = pointer<const int64_t>(target);
        tensors.guide_target = pointer<const int64_t>(guide_target);
        tensors.class_weights = pointer<const float>(class_weights);
        tensors.grad_features = pointer<void>(grad_features);
        tensors.grad_weight = pointer<void>(grad_weight);
        tensors.grad_bias = pointer<void>(grad_bias);
        tensors.scalars = pointer<float>(scalars);
        tensors.index = pointer<int64_t>(index);
        const cuda::GuidedShape shape{tensors.features.rows,
                                      tensors.guide_features.rows,
                                      tensors.weight.rows,
                                      tensors.weight.columns,
                                      k,
                                      sample_space,
                                      cooperative};
        cuda::guided_linear_ce(call_of(device, stream, dtype), shape, tensors, rule_of(options),
                               pointer<void>(workspace));
      },
      Unlocked());
}
