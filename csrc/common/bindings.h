// What both modules' bindings share. Nothing here knows of torch: memory comes as addresses, and 0
// means "none".
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <tuple>

#include "common/types.h"

namespace gaal {

using Address = std::uintptr_t;

template <typename T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

// (official, epsilon, relative, margin, ridge, max_correction or a negative number for none)
using RuleTuple = std::tuple<bool, double, bool, double, double, double>;

inline Rule rule_of(const RuleTuple& options) {
  return std::apply([](auto... option) { return Rule{option...}; }, options);
}

// Code by name of the dtype, as torch spells it.
inline pybind11::dict dtype_codes() {
  pybind11::dict codes;
  codes["float32"] = static_cast<int>(DType::kFloat32);
  codes["float16"] = static_cast<int>(DType::kFloat16);
  codes["bfloat16"] = static_cast<int>(DType::kBFloat16);
  return codes;
}

}  // namespace gaal
