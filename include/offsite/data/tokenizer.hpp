#pragma once
#include <concepts>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace offsite {

namespace detail {

template <class T>
concept EncodesText = requires(const T& tokenizer, std::string_view text) {
  { tokenizer.encode(text) } -> std::same_as<std::vector<std::int32_t>>;  // const: many threads may share one
};

template <class T>
concept DecodesIds = requires(const T& tokenizer, std::span<const std::int32_t> ids) {
  { tokenizer.decode(ids) } -> std::same_as<std::string>;
};

template <class T>
concept CountsVocabulary = requires(const T& tokenizer) {
  { tokenizer.vocabulary_size() } -> std::same_as<std::int64_t>;
};

template <class T>
concept NamesSpecialIds = requires(const T& tokenizer) {
  { tokenizer.bos_id() } -> std::same_as<std::optional<std::int32_t>>;
  { tokenizer.eos_id() } -> std::same_as<std::optional<std::int32_t>>;
  { tokenizer.adds_bos() } -> std::same_as<bool>;
};

}  // namespace detail

/// Turns text into token ids and back.
///
/// Below, `t` is a `const T&` with V = `t.vocabulary_size()`; every id lies in [0, V).
///
///   `t.encode(text)`         ids of `text`; adds no begin or end token
///   `t.decode(ids)`          the bytes the ids stand for; \throws ArgumentError for an id outside [0, V)
///   `t.vocabulary_size()`    V, as `std::int64_t`
///   `t.bos_id()`             id of the begin token, if the files name one
///   `t.eos_id()`             id of the end-of-text token, if the files name one
///   `t.adds_bos()`           whether the files say that a begin token is put before a text
///
/// Semantic requirements: `encode` may be called from several threads at once; a tokenizer whose vocabulary
/// holds every byte gives `decode(encode(text)) == text` for any bytes, also for those that are no UTF-8.
template <class T>
concept Tokenizer = detail::EncodesText<T> && detail::DecodesIds<T> && detail::CountsVocabulary<T> &&
    detail::NamesSpecialIds<T>;

}  // namespace offsite
