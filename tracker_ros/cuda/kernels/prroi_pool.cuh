// SPDX-License-Identifier: Apache-2.0
// Precise RoI pooling: the exact mean of the bilinear surface over every bin, and its gradients.
//
// Same formulas as the matrix form in prroi_pool.py, which says where they come from. Arrays:
// features (N, C, H, W); rois (R, 5) image index, x0, y0, x1, y1 in input pixels; pooled and its
// gradient (R, C, ph, pw). A box without area, or of an image that is not there, gives zeros.
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
  // Bins that touch a pixel.
  DEVICE Range touched_by(int64 pixel) const {
    const T position = T(pixel) - origin - start;
    return {clamped(floor((position - 1) / width), bins),
            clamped(floor((position + 1) / width) + 1, bins)};
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

// A RoI on the map; `image` is -1 if there is nothing to pool.
template <typename T>
struct Box {
  Axis<T> x, y;
  int64 image;

  DEVICE Box(const T* roi, int64 images, int64 ph, int64 pw, int64 height, int64 width, T scale)
      : x(roi[1] * scale, roi[3] * scale, pw, width),
        y(roi[2] * scale, roi[4] * scale, ph, height),
        image(-1) {
    // With one image the index is not read, as in the matrix form.
    if (x.valid && y.valid) {
      if (images == 1) image = 0;
      else if (roi[0] > -1 && roi[0] < T(images)) image = int64(roi[0]);
    }
  }
};

// Index: an element of pooled.
template <typename T>
DEVICE void prroi_pool_at(int64 index, T* pooled, const T* features, const T* rois, int64 images,
                          int64 channels, int64 height, int64 width, int64 ph, int64 pw,
                          double scale) {
  const int64 j = index % pw, i = index / pw % ph, channel = index / (pw * ph) % channels;
  const int64 roi = index / (pw * ph * channels);
  const Box<T> box(rois + 5 * roi, images, ph, pw, height, width, T(scale));
  T sum = 0;
  if (box.image >= 0) {
    const T* map = features + (box.image * channels + channel) * height * width;
    const Range rows = box.y.pixels(i), columns = box.x.pixels(j);
    for (int64 y = rows.first; y < rows.past; ++y) {
      T row = 0;
      for (int64 x = columns.first; x < columns.past; ++x)
        row += box.x.weight(j, x) * map[y * width + x];
      sum += box.y.weight(i, y) * row;
    }
  }
  pooled[index] = sum;
}
KERNEL(prroi_pool,
       (T* pooled, const T* features, const T* rois, int64 images, int64 channels, int64 height,
        int64 width, int64 ph, int64 pw, double scale),
       (pooled, features, rois, images, channels, height, width, ph, pw, scale))

// Index: an element of grad_features. It gathers from all RoIs, where scattering from each bin
// would need atomic additions, whose order differs from run to run.
template <typename T>
DEVICE void prroi_pool_grad_features_at(int64 index, T* grad_features, const T* grad,
                                        const T* rois, int64 count_rois, int64 images,
                                        int64 channels, int64 height, int64 width, int64 ph,
                                        int64 pw, double scale) {
  const int64 x = index % width, y = index / width % height;
  const int64 channel = index / (width * height) % channels;
  const int64 image = index / (width * height * channels);
  T sum = 0;
  for (int64 roi = 0; roi < count_rois; ++roi) {
    const Box<T> box(rois + 5 * roi, images, ph, pw, height, width, T(scale));
    if (box.image != image) continue;
    const Range rows = box.y.touched_by(y), columns = box.x.touched_by(x);
    const T* bins = grad + (roi * channels + channel) * ph * pw;
    for (int64 i = rows.first; i < rows.past; ++i) {
      T row = 0;
      for (int64 j = columns.first; j < columns.past; ++j)
        row += box.x.weight(j, x) * bins[i * pw + j];
      sum += box.y.weight(i, y) * row;
    }
  }
  grad_features[index] = sum;
}
KERNEL(prroi_pool_grad_features,
       (T* grad_features, const T* grad, const T* rois, int64 count_rois, int64 images,
        int64 channels, int64 height, int64 width, int64 ph, int64 pw, double scale),
       (grad_features, grad, rois, count_rois, images, channels, height, width, ph, pw, scale))

// Index: a RoI and a channel, of grad_boxes (R, C, 4) by x0, y0, x1, y1; the caller adds up C.
template <typename T>
DEVICE void prroi_pool_grad_boxes_at(int64 index, T* grad_boxes, const T* grad, const T* features,
                                     const T* rois, int64 images, int64 channels, int64 height,
                                     int64 width, int64 ph, int64 pw, double scale) {
  const int64 channel = index % channels, roi = index / channels;
  const Box<T> box(rois + 5 * roi, images, ph, pw, height, width, T(scale));
  T by_x0 = 0, by_y0 = 0, by_x1 = 0, by_y1 = 0;
  if (box.image >= 0) {
    const T* map = features + (box.image * channels + channel) * height * width;
    for (int64 bin = 0; bin < ph * pw; ++bin) {
      const int64 i = bin / pw, j = bin % pw;
      const Range rows = box.y.pixels(i), columns = box.x.pixels(j);
      Weight<T> sum = {0, 0, 0};  // over a row: mean and derivatives by x0, x1
      T sum_by_y0 = 0, sum_by_y1 = 0;
      for (int64 y = rows.first; y < rows.past; ++y) {
        Weight<T> row = {0, 0, 0};
        for (int64 x = columns.first; x < columns.past; ++x) {
          const Weight<T> wx = box.x.weight_and_derivatives(j, x);
          const T value = map[y * width + x];
          row.mean += wx.mean * value;
          row.by_start += wx.by_start * value;
          row.by_end += wx.by_end * value;
        }
        const Weight<T> wy = box.y.weight_and_derivatives(i, y);
        sum.by_start += wy.mean * row.by_start;
        sum.by_end += wy.mean * row.by_end;
        sum_by_y0 += wy.by_start * row.mean;
        sum_by_y1 += wy.by_end * row.mean;
      }
      const T upstream = grad[index * ph * pw + bin];
      by_x0 += upstream * sum.by_start;
      by_y0 += upstream * sum_by_y0;
      by_x1 += upstream * sum.by_end;
      by_y1 += upstream * sum_by_y1;
    }
  }
  T* out = grad_boxes + 4 * index;
  out[0] = by_x0 * T(scale);
  out[1] = by_y0 * T(scale);
  out[2] = by_x1 * T(scale);
  out[3] = by_y1 * T(scale);
}
KERNEL(prroi_pool_grad_boxes,
       (T* grad_boxes, const T* grad, const T* features, const T* rois, int64 images,
        int64 channels, int64 height, int64 width, int64 ph, int64 pw, double scale),
       (grad_boxes, grad, features, rois, images, channels, height, width, ph, pw, scale))
