#pragma once
#include <Eigen/Core>

#include <string_view>
#include <type_traits>

namespace offsite {

namespace detail {

struct VisitsVectors {
  void operator()(std::string_view, Eigen::VectorXf&) const {}
};

}  // namespace detail

/// A policy's state that can be written down and read again, so that a run survives its process: it holds nothing, or
///
///   `s.visit(f)`   calls `f(name, vector)` with each of its vectors, as `Eigen::VectorXf&`, always the same ones in the
///                  same order; one of length 0 has not been used yet
template <class S>
concept PersistentState = std::is_empty_v<S> || requires(S& state, detail::VisitsVectors f) {
  state.visit(f);  // template <class F> void visit(F&& f) { f("momentum", momentum); }
};

}  // namespace offsite
