// SPDX-License-Identifier: Apache-2.0
// Products of every pixel of one map with a dilated window of another, and their gradients.
//
// An index is a block of BLOCK pixels of a line, so that compilers vectorise over it. The caller
// puts zeros around maps: `pitch` is the length of a line of `first` and of the products' gradient,
// both padded to whole blocks, and `wide` by `high` the size of what has a border of
// window / 2 * dilation pixels all round besides.
#include "kernel.cuh"

constexpr int BLOCK = 16;

// Index: image, dy, dx, line, block of out (B, window, window, H, W).
template <typename T>
DEVICE void spatial_correlation_at(int64 index, T* out, const T* first, const T* second,
                                   int64 channels, int64 height, int64 width, int64 pitch,
                                   int64 high, int64 wide, int64 window, int64 dilation) {
  const int64 blocks = pitch / BLOCK, x = index % blocks * BLOCK, y = index / blocks % height;
  const int64 place = index / (blocks * height), j = place % window, i = place / window % window;
  const int64 image = place / (window * window);
  const T* a = first + (image * channels * height + y) * pitch + x;
  const T* b = second + (image * channels * high + y + i * dilation) * wide + x + j * dilation;
  T sum[BLOCK];
  for (int k = 0; k < BLOCK; ++k) sum[k] = 0;
  for (int64 c = 0; c < channels; ++c, a += height * pitch, b += high * wide)
    for (int k = 0; k < BLOCK; ++k) sum[k] += a[k] * b[k];
  T* line = out + (place * height + y) * width + x;
  for (int k = 0; k < BLOCK; ++k)
    if (x + k < width) line[k] = sum[k];
}
KERNEL(spatial_correlation,
       (T* out, const T* first, const T* second, int64 channels, int64 height, int64 width,
        int64 pitch, int64 high, int64 wide, int64 window, int64 dilation),
       (out, first, second, channels, height, width, pitch, high, wide, window, dilation))

// Index: image, channel, line, block of the gradient (B, C, H, W) by `first`; grad (B, window,
// window, H, pitch).
template <typename T>
DEVICE void spatial_correlation_grad_first_at(int64 index, T* out, const T* grad, const T* second,
                                              int64 channels, int64 height, int64 width,
                                              int64 pitch, int64 high, int64 wide, int64 window,
                                              int64 dilation) {
  const int64 blocks = pitch / BLOCK, x = index % blocks * BLOCK, y = index / blocks % height;
  const int64 map = index / (blocks * height), image = map / channels;
  const T* g = grad + (image * window * window * height + y) * pitch + x;
  const T* b = second + (map * high + y) * wide + x;
  T sum[BLOCK];
  for (int k = 0; k < BLOCK; ++k) sum[k] = 0;
  for (int64 i = 0; i < window; ++i)
    for (int64 j = 0; j < window; ++j, g += height * pitch) {
      const T* at = b + i * dilation * wide + j * dilation;
      for (int k = 0; k < BLOCK; ++k) sum[k] += g[k] * at[k];
    }
  T* line = out + (map * height + y) * width + x;
  for (int k = 0; k < BLOCK; ++k)
    if (x + k < width) line[k] = sum[k];
}
KERNEL(spatial_correlation_grad_first,
       (T* out, const T* grad, const T* second, int64 channels, int64 height, int64 width,
        int64 pitch, int64 high, int64 wide, int64 window, int64 dilation),
       (out, grad, second, channels, height, width, pitch, high, wide, window, dilation))

// Index: as before, of the gradient by `second`; grad (B, window, window, high, wide) and first
// (B, C, high, wide) both have the border.
template <typename T>
DEVICE void spatial_correlation_grad_second_at(int64 index, T* out, const T* grad, const T* first,
                                               int64 channels, int64 height, int64 width,
                                               int64 pitch, int64 high, int64 wide, int64 window,
                                               int64 dilation) {
  const int64 blocks = pitch / BLOCK, x = index % blocks * BLOCK, y = index / blocks % height;
  const int64 map = index / (blocks * height), image = map / channels;
  const T* g = grad + (image * window * window * high + y) * wide + x;
  const T* a = first + (map * high + y) * wide + x;
  T sum[BLOCK];
  for (int k = 0; k < BLOCK; ++k) sum[k] = 0;
  for (int64 i = 0; i < window; ++i)
    for (int64 j = 0; j < window; ++j, g += high * wide) {
      // The pixel that looked dy down and dx right to find this one.
      const int64 back = (window - 1 - i) * dilation * wide + (window - 1 - j) * dilation;
      for (int k = 0; k < BLOCK; ++k) sum[k] += g[back + k] * a[back + k];
    }
  T* line = out + (map * height + y) * width + x;
  for (int k = 0; k < BLOCK; ++k)
    if (x + k < width) line[k] = sum[k];
}
KERNEL(spatial_correlation_grad_second,
       (T* out, const T* grad, const T* first, int64 channels, int64 height, int64 width,
        int64 pitch, int64 high, int64 wide, int64 window, int64 dilation),
       (out, grad, first, channels, height, width, pitch, high, wide, window, dilation))
