// How fast this machine does what a step is made of, at best: what no client on it can be below.
#pragma once
#include <ATen/core/Tensor.h>

namespace bench {

/// Of one processor's time, while all of them do the same; the best of several tries.
struct Floors {
  double product = 0;  ///< operations a second of a product of the feed-forward layer's size
  double memory =
      0;  ///< bytes a second, read or written, of an update in place of far more than the caches hold
  double cache = 0;    ///< the same of as much as a block's activations, over and over
  double softmax = 0;  ///< seconds for one query and key of a head, without products, in the first cache
  double softmax_backward = 0;  ///< the same of its gradient
  double activation = 0;        ///< seconds for one of GELU in the first cache
  double slope = 0;             ///< seconds for one of its derivative there

  [[nodiscard]] static Floors measure(at::ScalarType type);
};

}  // namespace bench
