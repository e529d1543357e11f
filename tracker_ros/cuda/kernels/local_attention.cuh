// SPDX-License-Identifier: Apache-2.0
// Attention over displaced windows of reference maps, and where its middle lies.
//
// Scores of a window are computed row by row and never stored: a softmax that is corrected whenever
// a higher score appears takes them in. A displacement is the same for a whole window, so scores
// between pixels are interpolated from those at pixels, and weights are spread back onto pixels.
//
// Arrays, by what is read together: query (B, H, W, C); keys (B, R, H, C, pitch) and values
// (B, R, H, V, pitch), whose lines have MARGIN zeros before and at least as many after the W
// pixels, so that no window reaches beyond a line; offsets (B, R, H, W, 2), dx and dy.
#include "kernel.cuh"
#ifndef __CUDACC__
#include <cstring>
#endif

// LANES columns of a window are done together, at least 2 radius + 2: few for small windows.
constexpr int NARROW = 16, WIDE = 32;
constexpr int MARGIN = WIDE;
// Values per pixel that one call sums up at most.
constexpr int MOST_VALUES = 8;

#ifdef __CUDACC__
#define EVERY_LANE(j) _Pragma("unroll") for (int j = 0; j < LANES; ++j)
#else
#define EVERY_LANE(j) for (int j = 0; j < LANES; ++j)
#endif

DEVICE float float_of_bits(int bits) {
#ifdef __CUDACC__
  return __int_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

// e^x for x <= 0, within two units in the last place; written out so that compilers vectorise it.
DEVICE float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float power = floor(x * 1.44269504f + 0.5f);
  const float rest = (x - power * 0.693359375f) + power * 2.12194440e-4f;
  float series = 1.9875691500e-4f;
  series = series * rest + 1.3981999507e-3f;
  series = series * rest + 8.3334519073e-3f;
  series = series * rest + 4.1665795894e-2f;
  series = series * rest + 1.6666665459e-1f;
  series = series * rest + 5.0000001201e-1f;
  series = series * rest * rest + rest + 1.0f;
  return series * float_of_bits((int(power) + 127) << 23);
}
DEVICE double exponential(double x) { return exp(x); }

// A whole number between two limits, also for infinities and nan, which a cast would not survive.
template <typename T>
DEVICE int64 whole(T value, int64 least, int64 most) {
  return !(value > T(least)) ? least : value < T(most) ? int64(value) : most;
}

// Scores of the windows of one pixel, one row after the other.
template <typename T, int LANES>
struct WindowRows {
  const T* query;
  const T* map;  // the window begins here in the map's first line
  int64 left;    // of the window, from the beginning of a line
  int64 channels, height, pitch, first_row, side;
  T share_x, share_y;
  T above[LANES];

  DEVICE WindowRows(const T* query, const T* key, int64 channels, int64 height, int64 width,
                    int64 pitch, int64 x, int64 y, T dx, T dy, int64 radius)
      : query(query), channels(channels), height(height), pitch(pitch), side(2 * radius + 1) {
    left = MARGIN + whole(T(x - radius) + floor(dx), -MARGIN, width);
    first_row = whole(T(y - radius) + floor(dy), -2 * MARGIN, height);
    map = key + left;
    share_x = dx - floor(dx);
    share_y = dy - floor(dy);
    products(0, above);
  }

  DEVICE bool inside(int64 row) const { return first_row + row >= 0 && first_row + row < height; }

  // Scores at whole rows, between columns.
  DEVICE void products(int64 row, T* scores) const {
    T sum[LANES];
    EVERY_LANE(j) sum[j] = 0;
    if (inside(row)) {
      const T* line = map + (first_row + row) * channels * pitch;
      // Four at a time: a sum that waits for each product would take four times as long.
      for (int64 c = 0; c < channels; c += 4, line += 4 * pitch) {
        const T q0 = query[c], q1 = query[c + 1], q2 = query[c + 2], q3 = query[c + 3];
        EVERY_LANE(j)
          sum[j] += (q0 * line[j] + q1 * line[pitch + j]) +
                    (q2 * line[2 * pitch + j] + q3 * line[3 * pitch + j]);
      }
    }
    EVERY_LANE(j) {
      const T next = j + 1 < LANES ? sum[j + 1 < LANES ? j + 1 : j] : sum[j];
      scores[j] = sum[j] + share_x * (next - sum[j]);
    }
  }

  // Scores of a row of the window; rows are asked for one after the other.
  DEVICE void scores(int64 row, T* scores) {
    T below[LANES];
    if (share_y > 0 || row + 1 < side) {
      products(row + 1, below);
      EVERY_LANE(j) scores[j] = above[j] + share_y * (below[j] - above[j]);
      EVERY_LANE(j) above[j] = below[j];
    } else {
      EVERY_LANE(j) scores[j] = above[j];
    }
  }
};

// A softmax over scores that arrive row by row; lane by lane, to be added up at the end.
template <typename T, int LANES>
struct RunningSoftmax {
  T highest, total[LANES];

  DEVICE RunningSoftmax() : highest(T(-1e30)) { EVERY_LANE(j) total[j] = 0; }

  // Replaces scores by weights; returns by how much all earlier sums shrink.
  DEVICE T take(T* scores, int64 side) {
    T row[LANES];
    EVERY_LANE(j) row[j] = j < side ? scores[j] : T(-1e30);
    for (int half = LANES / 2; half > 0; half /= 2)
      for (int j = 0; j < half; ++j) row[j] = row[j] > row[j + half] ? row[j] : row[j + half];
    const T before = highest;
    highest = row[0] > highest ? row[0] : highest;
    const T shrink = exponential(before - highest);
    T weights[LANES];
    EVERY_LANE(j) weights[j] = exponential(scores[j] - highest);
    EVERY_LANE(j) scores[j] = j < side ? weights[j] : T(0);
    EVERY_LANE(j) total[j] = total[j] * shrink + scores[j];
    return shrink;
  }
};

template <typename T, int LANES>
DEVICE T sum_of(const T (&lanes)[LANES]) {
  T sum = 0;
  EVERY_LANE(j) sum += lanes[j];
  return sum;
}

// Index: a pixel. out (B, V, H, W).
template <typename T, int LANES>
DEVICE void attend(int64 index, T* out, const T* query, const T* keys, const T* values,
                   const T* offsets, int64 references, int64 channels, int64 classes, int64 height,
                   int64 width, int64 pitch, int64 radius) {
  const int64 x = index % width, y = index / width % height, image = index / (width * height);
  const int64 side = 2 * radius + 1;
  RunningSoftmax<T, LANES> softmax;
  T sums[MOST_VALUES][LANES];
  for (int64 v = 0; v < classes; ++v) EVERY_LANE(j) sums[v][j] = 0;
  for (int64 r = 0; r < references; ++r) {
    const int64 map = image * references + r;
    const T* offset = offsets + 2 * ((map * height + y) * width + x);
    WindowRows<T, LANES> rows(query + index * channels, keys + map * height * channels * pitch,
                              channels, height, width, pitch, x, y, offset[0], offset[1], radius);
    const T* labels = values + map * height * classes * pitch + rows.left;
    for (int64 i = 0; i < side; ++i) {
      T weights[LANES], spread[LANES];
      rows.scores(i, weights);
      const T shrink = softmax.take(weights, side);
      EVERY_LANE(j) {
        const T previous = j > 0 ? weights[j > 0 ? j - 1 : 0] : T(0);
        spread[j] = weights[j] + rows.share_x * (previous - weights[j]);
      }
      const bool upper = rows.inside(i), lower = rows.share_y > 0 && rows.inside(i + 1);
      const T* line = labels + (rows.first_row + i) * classes * pitch;
      for (int64 v = 0; v < classes; ++v, line += pitch) {
        EVERY_LANE(j) sums[v][j] *= shrink;
        if (upper) EVERY_LANE(j) sums[v][j] += (1 - rows.share_y) * spread[j] * line[j];
        if (lower) EVERY_LANE(j) sums[v][j] += rows.share_y * spread[j] * line[classes * pitch + j];
      }
    }
  }
  const T total = sum_of(softmax.total);
  for (int64 v = 0; v < classes; ++v)
    out[((image * classes + v) * height + y) * width + x] = sum_of(sums[v]) / total;
}
template <typename T>
DEVICE void local_attention_at(int64 index, T* out, const T* query, const T* keys, const T* values,
                               const T* offsets, int64 references, int64 channels, int64 classes,
                               int64 height, int64 width, int64 pitch, int64 radius) {
  if (2 * radius + 2 <= NARROW)
    attend<T, NARROW>(index, out, query, keys, values, offsets, references, channels, classes,
                      height, width, pitch, radius);
  else
    attend<T, WIDE>(index, out, query, keys, values, offsets, references, channels, classes,
                    height, width, pitch, radius);
}
KERNEL(local_attention,
       (T* out, const T* query, const T* keys, const T* values, const T* offsets, int64 references,
        int64 channels, int64 classes, int64 height, int64 width, int64 pitch, int64 radius),
       (out, query, keys, values, offsets, references, channels, classes, height, width, pitch,
        radius))

// Index: a pixel. out (B, H, W, 2): the mean of dx and of dy under the softmax of one window.
template <typename T, int LANES>
DEVICE void expect(int64 index, T* out, const T* query, const T* key, int64 channels, int64 height,
                   int64 width, int64 pitch, int64 radius) {
  const int64 x = index % width, y = index / width % height, image = index / (width * height);
  const int64 side = 2 * radius + 1;
  RunningSoftmax<T, LANES> softmax;
  WindowRows<T, LANES> rows(query + index * channels, key + image * height * channels * pitch,
                            channels, height, width, pitch, x, y, T(0), T(0), radius);
  T down[LANES];
  EVERY_LANE(j) down[j] = 0;
  T across[LANES];
  EVERY_LANE(j) across[j] = 0;
  for (int64 i = 0; i < side; ++i) {
    T weights[LANES];
    rows.scores(i, weights);
    const T shrink = softmax.take(weights, side);
    EVERY_LANE(j) {
      across[j] = across[j] * shrink + weights[j] * T(j - radius);
      down[j] = down[j] * shrink + weights[j] * T(i - radius);
    }
  }
  const T total = sum_of(softmax.total);
  out[2 * index] = sum_of(across) / total;
  out[2 * index + 1] = sum_of(down) / total;
}
template <typename T>
DEVICE void expected_offset_at(int64 index, T* out, const T* query, const T* key, int64 channels,
                               int64 height, int64 width, int64 pitch, int64 radius) {
  if (2 * radius + 2 <= NARROW)
    expect<T, NARROW>(index, out, query, key, channels, height, width, pitch, radius);
  else
    expect<T, WIDE>(index, out, query, key, channels, height, width, pitch, radius);
}
KERNEL(expected_offset,
       (T* out, const T* query, const T* key, int64 channels, int64 height, int64 width,
        int64 pitch, int64 radius),
       (out, query, key, channels, height, width, pitch, radius))
