// SPDX-License-Identifier: Apache-2.0
// How one function of an index becomes a loop on the CPU (g++) and a kernel on the GPU (NVRTC).
//
// A file of kernels writes each operator once, as
//
//     template <typename T> DEVICE void scale_at(int64 i, T* out, const T* in, double factor)
//
// and exports it, for float (scale_float) and double (scale_double) or for NUMBER alone, by
//
//     KERNEL(scale, (T* out, const T* in, double factor), (out, in, factor))
//
// What a call needs besides the indices (their number `count`; on the CPU a range of them, one per
// thread) is pointers to contiguous arrays, int64 and double. Two indices never write to the same
// place, so that results do not depend on the order.
#pragma once

typedef long long int64;

#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
#define EXPORT extern "C" __global__
#define INDICES int64 count
#define FOR_EVERY_INDEX(i)                                                       \
  for (int64 i = blockIdx.x * int64(blockDim.x) + threadIdx.x; i < count;        \
       i += int64(gridDim.x) * blockDim.x)
#else
#include <cmath>
using std::ceil;
using std::floor;
#define DEVICE inline
#define EXPORT extern "C"
#define INDICES int64 first_index, int64 past_indices
#define FOR_EVERY_INDEX(i) for (int64 i = first_index; i < past_indices; ++i)
#endif

#define UNPACK(...) __VA_ARGS__
#define KERNEL_OF_TYPE(name, type, parameters, arguments)         \
  EXPORT void name##_##type(INDICES, UNPACK parameters) {     \
    FOR_EVERY_INDEX(i) { name##_at<type>(i, UNPACK arguments); } \
  }
#ifdef NUMBER  // one type only, which compiles in half the time
#define KERNEL_OF(name, type, parameters, arguments) \
  KERNEL_OF_TYPE(name, type, parameters, arguments)
#define KERNEL(name, parameters, arguments) \
  namespace name##_of_number {              \
  typedef NUMBER T;                         \
  KERNEL_OF(name, NUMBER, parameters, arguments) \
  }
#else
#define KERNEL(name, parameters, arguments) \
  namespace name##_of_float {               \
  typedef float T;                          \
  KERNEL_OF_TYPE(name, float, parameters, arguments)  \
  }                                         \
  namespace name##_of_double {              \
  typedef double T;                         \
  KERNEL_OF_TYPE(name, double, parameters, arguments) \
  }
#endif
