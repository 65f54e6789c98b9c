#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/sin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <mutex>
#include <numbers>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/sequences.hpp"
#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/simd.hpp"

namespace offsite {

/// How rotary position embeddings reach beyond the context that a model was first trained with.
enum class RopeType : std::uint8_t {
  kDefault,  ///< not at all
  kLinear,   ///< all angles are divided by a factor
  kDynamic,  ///< the base grows with the length of the sequence, from the first context on
  kLlama3,   ///< long wavelengths are divided by a factor, with a smooth passage to short ones
  kYarn,     ///< as that, by dimension; queries and keys grow a little (Peng et al., arXiv:2309.00071)
};

/// The kind that Hugging Face's configurations call `name`.
/// \throws ArgumentError, listing the known names, if there is none.
[[nodiscard]] inline RopeType rope_type_of(std::string_view name) {
  using enum RopeType;
  constexpr std::array<std::pair<std::string_view, RopeType>, 5> known{{{"default", kDefault},
                                                                        {"linear", kLinear},
                                                                        {"dynamic", kDynamic},
                                                                        {"llama3", kLlama3},
                                                                        {"yarn", kYarn}}};
  for (const auto& [known_name, value] : known)
    if (known_name == name) return value;
  throw ArgumentError("the rotary embedding type \"" + std::string(name) +
                      "\" is not known; the known ones are default, linear, dynamic, llama3 and yarn");
}

/// Which features of a head are turned, and by which angles a position turns them.
struct RopeOptions {
  RopeType type = RopeType::kDefault;
  double theta = 10000;   ///< base of the wavelengths, > 1
  std::int64_t dims = 0;  ///< the first features of a head that turn, rounded up to an even number; 0 = none
  double factor = 1;      ///< of the extension, >= 1; all types but the default one
  std::int64_t context = 0;  ///< the first context in tokens; types dynamic, llama3 and yarn
  double low_freq_factor = 1, high_freq_factor = 4;  ///< llama3: context / wavelength below and above which
  double beta_fast = 32, beta_slow = 1;              ///< yarn: turns within the context, likewise
  double attention_factor = 0;            ///< yarn: of cosines and sines; 0 = from factor and mscale
  double mscale = 0, mscale_all_dim = 0;  ///< yarn; 0 = not given
  bool truncate = true;                   ///< yarn: whole dimensions bound the passage

  /// Features of a head that are turned.
  [[nodiscard]] std::int64_t turned() const { return dims + dims % 2; }

  /// \throws ArgumentError for a value that cannot be, naming it.
  void check() const {
    require(dims >= 0, "{} features of a head turn, but it must be 0 or more", dims);
    require(std::isfinite(theta) && theta > 1, "rope_theta is {}, but it must be above 1", theta);
    if (type == RopeType::kDefault) return;
    require(std::isfinite(factor) && factor >= 1,
            "the factor of the rotary embedding is {}, but it must be 1 or more", factor);
    if (type == RopeType::kLinear) return;
    require(context > 0, "the rotary embedding's original context is {} tokens, but it must be positive",
            context);
    require(type != RopeType::kDynamic || dims > 2,
            "a dynamic rotary embedding turns {} features, but needs 3 or more", dims);
    require(type != RopeType::kLlama3 || (0 < low_freq_factor && low_freq_factor < high_freq_factor),
            "low_freq_factor is {} and high_freq_factor {}, but they must be positive and ascend",
            low_freq_factor, high_freq_factor);
    require(type != RopeType::kYarn || (0 < beta_slow && beta_slow <= beta_fast),
            "beta_slow is {} and beta_fast {}, but they must be positive and not descend", beta_slow,
            beta_fast);
    require(std::isfinite(attention_factor) && attention_factor >= 0,
            "attention_factor is {}, but it must not be negative", attention_factor);
  }
};

/// Where to find the angles of some rows: row i of queries or keys is turned by row index[i] of the table.
struct RopeRows {
  at::Tensor table;  ///< (positions, turned) float32: cosines, then sines; undefined = nothing turns
  at::Tensor index;  ///< (M) int64
};

namespace detail {

/// Angles a position, as Hugging Face computes them: float32, operation by operation.
/// \param length  of the sequence in tokens, for the dynamic type
[[nodiscard]] inline std::vector<float> rope_frequencies(const RopeOptions& o, std::int64_t length) {
  const auto dims = static_cast<double>(o.dims);
  auto base = static_cast<float>(o.theta);
  if (o.type == RopeType::kDynamic && length > o.context) {
    const auto stretch =
        static_cast<float>(o.factor) * static_cast<float>(length) / static_cast<float>(o.context) -
        static_cast<float>(o.factor - 1);
    base *= std::pow(stretch, static_cast<float>(dims / (dims - 2)));
  }
  const at::Tensor wide = at::pow(base, at::arange(0, o.dims, 2, at::kFloat).div_(dims));
  const auto* power = wide.const_data_ptr<float>();
  const auto count = wide.numel();
  std::vector<float> result(static_cast<std::size_t>(count));
  const auto factor = static_cast<float>(o.factor);

  // yarn: between these dimensions angles pass from those of the first context to divided ones.
  const auto dimension = [&](double turns) {
    return dims * std::log(static_cast<double>(o.context) / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(o.theta));
  };
  double low = dimension(o.beta_fast), high = dimension(o.beta_slow);
  if (o.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dims - 1);
  if (low == high) high += 0.001;

  for (std::int64_t i = 0; i < count; ++i) {
    float f = 1.0f / power[i];
    if (o.type == RopeType::kLinear) f /= factor;
    if (o.type == RopeType::kLlama3) {
      const auto context = static_cast<float>(o.context), wavelength = 2 * std::numbers::pi_v<float> / f;
      const auto longest = static_cast<float>(static_cast<double>(o.context) / o.low_freq_factor),
                 shortest = static_cast<float>(static_cast<double>(o.context) / o.high_freq_factor);
      if (wavelength > longest) {
        f /= factor;
      } else if (wavelength >= shortest) {
        const float smooth = (context / wavelength - static_cast<float>(o.low_freq_factor)) /
                             static_cast<float>(o.high_freq_factor - o.low_freq_factor);
        f = (1 - smooth) * f / factor + smooth * f;
      }
    }
    if (o.type == RopeType::kYarn) {
      const auto ramp = (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
      const float kept = 1 - std::clamp(ramp, 0.0f, 1.0f);
      f = 1.0f / (factor * power[i]) * (1 - kept) + f * kept;
    }
    result[static_cast<std::size_t>(i)] = f;
  }
  return result;
}

/// What cosines and sines are multiplied by.
[[nodiscard]] inline double rope_scale(const RopeOptions& o) {
  if (o.type != RopeType::kYarn) return 1;
  if (o.attention_factor > 0) return o.attention_factor;
  const auto grown = [&](double mscale) {
    return o.factor <= 1 ? 1.0 : 0.1 * mscale * std::log(o.factor) + 1.0;
  };
  const bool both = o.mscale != 0 && o.mscale_all_dim != 0;
  return both ? grown(o.mscale) / grown(o.mscale_all_dim) : grown(1);
}

/// Angles of positions 0 .. positions - 1.
[[nodiscard]] inline at::Tensor rope_table(const RopeOptions& o, std::int64_t positions,
                                           std::int64_t length) {
  const auto frequencies = rope_frequencies(o, length);
  const auto half = static_cast<std::int64_t>(frequencies.size());
  at::Tensor angles = at::empty({positions, half}, at::kFloat);
  auto* to = angles.mutable_data_ptr<float>();
  for (std::int64_t p = 0; p < positions; ++p)
    for (const auto f : frequencies) *to++ = static_cast<float>(p) * f;
  return at::cat({at::cos(angles), at::sin(angles)}, 1).mul_(rope_scale(o));
}

struct RopeKernel {  // turns the heads of one row: features i and i + half
  template <simd::Isa, class T>
  [[gnu::always_inline]] static void run(T* x, std::int64_t heads, std::int64_t head_stride,
                                         const float* cosines, std::int64_t half, float sign) {
    for (std::int64_t h = 0; h < heads; ++h) {
      T *a = x + h * head_stride, *b = a + half;
      std::int64_t i = 0;
      for (; i + simd::kLanes <= half; i += simd::kLanes) {
        const simd::Floats c = simd::load(cosines + i), s = simd::load(cosines + half + i) * sign;
        const simd::Floats u = simd::load(a + i), v = simd::load(b + i);
        simd::store(a + i, u * c - v * s);
        simd::store(b + i, v * c + u * s);
      }
      if (const auto n = half - i; n > 0) {
        const simd::Floats c = simd::load_some(cosines + i, n),
                           s = simd::load_some(cosines + half + i, n) * sign;
        const simd::Floats u = simd::load_some(a + i, n), v = simd::load_some(b + i, n);
        simd::store_some(a + i, u * c - v * s, n);
        simd::store_some(b + i, v * c + u * s, n);
      }
    }
  }
};

}  // namespace detail

/// Rotary position embedding (Su et al., arXiv:2104.09864) in the layout of Hugging Face's models: features i and
/// i + turned/2 of a head are a pair that turns by an angle proportional to the position.
///
/// Copies share one table of angles, which grows with the positions asked for; any thread may ask.
class Rope {
 public:
  Rope() = default;  ///< turns nothing
  /// \throws ArgumentError for options that cannot be.
  explicit Rope(const RopeOptions& options) : options_(options), table_(std::make_shared<Table>()) {
    options.check();
  }

  [[nodiscard]] const RopeOptions& options() const { return options_; }
  [[nodiscard]] bool turns() const { return options_.dims > 0; }

  /// The angles of all rows of `s`, or of the chosen `rows` (M).
  /// \throws ArgumentError if a dynamic embedding meets a sequence beyond its context that shares a prefix.
  [[nodiscard]] RopeRows rows(const Sequences& s, const at::Tensor& rows = {}) const {
    if (!turns()) return {};
    std::int64_t longest = 0;
    for (std::int64_t i = 0; i < s.count(); ++i) longest = std::max(longest, reach(s, i));
    RopeRows result{table(std::min(longest, dynamic() ? options_.context : longest)), s.positions};
    if (dynamic() && longest > options_.context) result = by_length(s);
    if (rows.defined()) result.index = result.index.index_select(0, rows);
    return result;
  }
  /// The angles of the last `count` of `total` tokens of one sequence.
  [[nodiscard]] RopeRows tail(std::int64_t count, std::int64_t total) const {
    if (!turns()) return {};
    const bool beyond = dynamic() && total > options_.context;
    return {beyond ? detail::rope_table(options_, total, total) : table(total),
            at::arange(total - count, total, at::kLong)};
  }

 private:
  struct Table {
    std::mutex mutex;
    at::Tensor angles;
  };

  /// Positions up to the last one of sequence `i`: its length with its prefix.
  [[nodiscard]] static std::int64_t reach(const Sequences& s, std::int64_t i) {
    return s.positions.const_data_ptr<std::int64_t>()[s.begin(i + 1) - 1] + 1;
  }
  [[nodiscard]] bool dynamic() const { return options_.type == RopeType::kDynamic; }

  [[nodiscard]] at::Tensor table(std::int64_t positions) const {
    const std::lock_guard lock(table_->mutex);
    if (!table_->angles.defined() || table_->angles.size(0) < positions) {
      std::int64_t room = 64;
      while (room < positions) room *= 2;
      table_->angles = detail::rope_table(options_, room, 0);
    }
    return table_->angles;
  }
  /// Each sequence beyond the context has angles of its own.
  [[nodiscard]] RopeRows by_length(const Sequences& s) const {
    std::vector<at::Tensor> parts{table(options_.context)};
    auto next = parts[0].size(0);
    const at::Tensor index = s.positions.clone();
    for (std::int64_t i = 0; i < s.count(); ++i) {
      const auto length = reach(s, i);
      if (length <= options_.context) continue;
      require(
          s.parent(i) < 0,
          "a sequence of {} tokens shares a prefix, but a dynamic rotary embedding turns keys by the whole "
          "sequence's length beyond {} tokens",
          length, options_.context);
      index.narrow(0, s.begin(i), s.length(i)).add_(next);
      parts.push_back(detail::rope_table(options_, length, length));
      next += length;
    }
    return {at::cat(parts), index};
  }

  RopeOptions options_;
  std::shared_ptr<Table> table_;
};

namespace ops {

/// Turns the heads of `x`, (M, heads * depth) or (M, heads, depth), in place; `backward` turns gradients back.
inline void rope_(const at::Tensor& x, std::int64_t heads, const RopeRows& rows, bool backward = false) {
  if (!rows.table.defined()) return;
  const auto turned = rows.table.size(1), depth = x.dim() == 3 ? x.size(2) : x.size(1) / heads;
  require(x.size(0) == rows.index.numel() && turned <= depth,
          "{} rows of heads of width {} cannot turn by angles of {} rows and {} features", x.size(0), depth,
          rows.index.numel(), turned);
  require(detail::is_fast(x) && x.stride(-1) == 1,
          "rotary embeddings want float32 or bfloat16 on the CPU, not {}", x.dtype().name());
  const auto head_stride = x.dim() == 3 ? x.stride(1) : depth;
  const auto* table = rows.table.const_data_ptr<float>();
  const auto* index = rows.index.const_data_ptr<std::int64_t>();
  with_type(x, [&]<class T>(T*) {
    auto* p = x.mutable_data_ptr<T>();
    at::parallel_for(0, x.size(0), 1 + 16384 / (heads * turned), [&](std::int64_t begin, std::int64_t end) {
      for (auto i = begin; i < end; ++i)
        simd::run<offsite::detail::RopeKernel>(p + i * x.stride(0), heads, head_stride,
                                               table + index[i] * turned, turned / 2,
                                               backward ? -1.0f : 1.0f);
    });
  });
}

/// The same out of place, differentiable by autograd: the reference.
[[nodiscard]] inline at::Tensor rope_reference(const at::Tensor& x, std::int64_t heads,
                                               const RopeRows& rows) {
  if (!rows.table.defined()) return x;
  const at::Tensor by_head = x.dim() == 3 ? x : x.unflatten(1, {heads, -1});
  const auto turned = rows.table.size(1), half = turned / 2;
  const at::Tensor angles = rows.table.index_select(0, rows.index).unsqueeze(1).to(x.scalar_type());
  const at::Tensor c = angles.narrow(2, 0, half), s = angles.narrow(2, half, half);
  const at::Tensor a = by_head.narrow(2, 0, half), b = by_head.narrow(2, half, half);
  const at::Tensor rest = by_head.narrow(2, turned, by_head.size(2) - turned);
  const at::Tensor y = at::cat({a.mul(c).sub(b.mul(s)), b.mul(c).add(a.mul(s)), rest}, 2);
  return x.dim() == 3 ? y : y.flatten(1);
}

}  // namespace ops
}  // namespace offsite
