// SPDX-License-Identifier: Apache-2.0
// Windows of a map around displaced pixels, sampled bilinearly, zero outside.
//
// Positions are computed by the caller: columns and rows (B, places) in pixels of maps (B, C, H, W).
#include "kernel.cuh"

// A pixel's value; 0 outside.
template <typename T>
DEVICE T value_at(const T* map, T x, T y, int64 height, int64 width) {
  const bool inside = x >= 0 && x < T(width) && y >= 0 && y < T(height);
  return inside ? map[int64(y) * width + int64(x)] : T(0);
}

// Index: an element of out (B, C, places).
template <typename T>
DEVICE void deformable_gather_at(int64 index, T* out, const T* maps, const T* columns,
                                 const T* rows, int64 channels, int64 height, int64 width,
                                 int64 places) {
  const int64 place = index / (places * channels) * places + index % places;
  const T* map = maps + index / places * height * width;
  const T x = floor(columns[place]), y = floor(rows[place]);
  const T right = columns[place] - x, down = rows[place] - y;
  // A position that is no number lies outside, and must not turn the zeros there into nan.
  if (!(right >= 0 && down >= 0)) {
    out[index] = 0;
    return;
  }
  const T above = (1 - right) * value_at(map, x, y, height, width) +
                  right * value_at(map, x + 1, y, height, width);
  const T below = (1 - right) * value_at(map, x, y + 1, height, width) +
                  right * value_at(map, x + 1, y + 1, height, width);
  out[index] = (1 - down) * above + down * below;
}
KERNEL(deformable_gather,
       (T* out, const T* maps, const T* columns, const T* rows, int64 channels, int64 height,
        int64 width, int64 places),
       (out, maps, columns, rows, channels, height, width, places))
