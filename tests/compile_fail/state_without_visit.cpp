// A policy's state that no journal can keep: it does not show its vectors.
// expect: PersistentState
// expect: template <class F> void visit\(F&& f\) \{ f\("momentum", momentum\); \}
#include "offsite/aggregation/policy_state.hpp"

struct Momentum {
  Eigen::VectorXf momentum;
#ifndef MISTAKE
  template <class F>
  void visit(F&& f) {
    f("momentum", momentum);
  }
#endif
};

static_assert(offsite::PersistentState<Momentum>);
