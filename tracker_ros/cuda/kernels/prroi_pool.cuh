// SPDX-License-Identifier: Apache-2.0
// Precise RoI pooling: the exact mean of the bilinear surface over every bin, and its gradient by
// the boxes.
//
// Same formulas as the matrix form in prroi_pool.py, which says where they come from. Arrays:
// cells (H, W, C), one map with its channels innermost; boxes (P, 4) x0, y0, x1, y1 in cells;
// pooled and its gradient (P, bins, bins, C). A box without area gives zeros.
#include "kernel.cuh"

// Integral of max(0, 1 - |t|) from 0 to u.
template <typename T>
DEVICE T hat_integral(T u) {
  if (u >= 1) return T(0.5);
  if (u <= -1) return T(-0.5);
  return u < 0 ? u + u * u / 2 : u - u * u / 2;
}

// max(0, 1 - |u|).
template <typename T>
DEVICE T hat(T u) {
  const T height = u < 0 ? 1 + u : 1 - u;
  return height > 0 ? height : T(0);
}

// The nearest of 0 .. limit, also for infinities and nan, which a cast would not survive.
template <typename T>
DEVICE int64 clamped(T value, int64 limit) {
  return !(value > 0) ? 0 : value < T(limit) ? int64(value) : limit;
}

// Pixels first .. past - 1.
struct Range {
  int64 first, past;
};

// Mean of a pixel's hat over a bin, and its derivatives by the ends of the RoI.
template <typename T>
struct Weight {
  T mean, by_start, by_end;
};

// One side of a RoI, divided into bins. Positions count from `origin`, the whole pixel before the
// RoI: far from 0, float would lose the width of tiny bins.
template <typename T>
struct Axis {
  T origin, start, width;
  int64 bins, size;
  bool valid;

  DEVICE Axis(T from, T to, int64 bins, int64 size) : bins(bins), size(size) {
    origin = floor(from);
    start = from - origin;
    width = (to - origin - start) / T(bins);
    // Asked only now: just below a whole pixel, rounding may have left no width.
    valid = width > 0;
  }
  DEVICE T edge(int64 bin) const { return start + width * T(bin); }

  // Pixels that a bin touches.
  DEVICE Range pixels(int64 bin) const {
    const T first = origin + ceil(edge(bin) - 1), last = origin + floor(edge(bin + 1) + 1);
    return {clamped(first, size), clamped(last + 1, size)};
  }
  DEVICE T weight(int64 bin, int64 pixel) const {
    const T position = T(pixel) - origin;
    return (hat_integral(edge(bin + 1) - position) - hat_integral(edge(bin) - position)) / width;
  }
  DEVICE Weight<T> weight_and_derivatives(int64 bin, int64 pixel) const {
    const T position = T(pixel) - origin, n = T(bins);
    const T mean = weight(bin, pixel);
    const T left = hat(edge(bin) - position), right = hat(edge(bin + 1) - position);
    return {mean,
            (right * (n - T(bin + 1)) - left * (n - T(bin)) + mean) / (n * width),
            (right * T(bin + 1) - left * T(bin) - mean) / (n * width)};
  }
};

// One box on the map.
template <typename T>
struct Box {
  Axis<T> x, y;

  DEVICE Box(const T* edges, int64 bins, int64 height, int64 width)
      : x(edges[0], edges[2], bins, width), y(edges[1], edges[3], bins, height) {}
  DEVICE bool valid() const { return x.valid && y.valid; }
};

// Index: an element of pooled. Neighbours differ in the channel only, so they read neighbouring
// values and share their weights.
template <typename T>
DEVICE void prroi_pool_at(int64 index, T* pooled, const T* cells, const T* boxes, int64 height,
                          int64 width, int64 channels, int64 bins) {
  const int64 channel = index % channels, bin = index / channels;
  const int64 j = bin % bins, i = bin / bins % bins;
  const Box<T> box(boxes + 4 * (bin / (bins * bins)), bins, height, width);
  T sum = 0;
  if (box.valid()) {
    const Range rows = box.y.pixels(i), columns = box.x.pixels(j);
    for (int64 y = rows.first; y < rows.past; ++y) {
      T row = 0;
      for (int64 x = columns.first; x < columns.past; ++x)
        row += box.x.weight(j, x) * cells[(y * width + x) * channels + channel];
      sum += box.y.weight(i, y) * row;
    }
  }
  pooled[index] = sum;
}
KERNEL(prroi_pool,
       (T* pooled, const T* cells, const T* boxes, int64 height, int64 width, int64 channels,
        int64 bins),
       (pooled, cells, boxes, height, width, channels, bins))

// Index: a box and a channel, of grad_boxes (P, 4, C) by x0, y0, x1, y1; the caller adds up C.
template <typename T>
DEVICE void prroi_pool_grad_boxes_at(int64 index, T* grad_boxes, const T* grad, const T* cells,
                                     const T* boxes, int64 height, int64 width, int64 channels,
                                     int64 bins) {
  const int64 channel = index % channels, p = index / channels;
  const Box<T> box(boxes + 4 * p, bins, height, width);
  T by_x0 = 0, by_y0 = 0, by_x1 = 0, by_y1 = 0;
  for (int64 bin = 0; box.valid() && bin < bins * bins; ++bin) {
    const int64 i = bin / bins, j = bin % bins;
    const Range rows = box.y.pixels(i), columns = box.x.pixels(j);
    T sum_by_x0 = 0, sum_by_y0 = 0, sum_by_x1 = 0, sum_by_y1 = 0;
    for (int64 y = rows.first; y < rows.past; ++y) {
      Weight<T> row = {0, 0, 0};
      for (int64 x = columns.first; x < columns.past; ++x) {
        const Weight<T> wx = box.x.weight_and_derivatives(j, x);
        const T value = cells[(y * width + x) * channels + channel];
        row.mean += wx.mean * value;
        row.by_start += wx.by_start * value;
        row.by_end += wx.by_end * value;
      }
      const Weight<T> wy = box.y.weight_and_derivatives(i, y);
      sum_by_x0 += wy.mean * row.by_start;
      sum_by_x1 += wy.mean * row.by_end;
      sum_by_y0 += wy.by_start * row.mean;
      sum_by_y1 += wy.by_end * row.mean;
    }
    const T upstream = grad[(p * bins * bins + bin) * channels + channel];
    by_x0 += upstream * sum_by_x0;
    by_y0 += upstream * sum_by_y0;
    by_x1 += upstream * sum_by_x1;
    by_y1 += upstream * sum_by_y1;
  }
  T* out = grad_boxes + 4 * p * channels + channel;
  out[0] = by_x0;
  out[channels] = by_y0;
  out[2 * channels] = by_x1;
  out[3 * channels] = by_y1;
}
KERNEL(prroi_pool_grad_boxes,
       (T* grad_boxes, const T* grad, const T* cells, const T* boxes, int64 height, int64 width,
        int64 channels, int64 bins),
       (grad_boxes, grad, cells, boxes, height, width, channels, bins))
