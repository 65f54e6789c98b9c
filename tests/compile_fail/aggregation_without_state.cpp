// An aggregation that does not say what it remembers between rounds.
// expect: KeepsState
// expect: no type named .State. in
#include "offsite/aggregation/aggregation_policy.hpp"

struct First {
#ifdef MISTAKE
  struct Memory {};
  Eigen::VectorXf aggregate(const Eigen::VectorXf& global, std::span<const offsite::ClientUpdate>, Memory&) const {
    return global;
  }
#else
  struct State {};
  Eigen::VectorXf aggregate(const Eigen::VectorXf& global, std::span<const offsite::ClientUpdate>, State&) const {
    return global;
  }
#endif
};

static_assert(offsite::AggregationPolicy<First>);
