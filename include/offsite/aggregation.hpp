#pragma once
/// Every way to put clients' updates together.

#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/aggregation/any_aggregation.hpp"
#include "offsite/aggregation/coordinate_wise.hpp"
#include "offsite/aggregation/fed_avg.hpp"
#include "offsite/aggregation/fed_prox.hpp"
#include "offsite/aggregation/geometric_median.hpp"
#include "offsite/aggregation/gram.hpp"
#include "offsite/aggregation/krum.hpp"
#include "offsite/aggregation/norm_bounded.hpp"
#include "offsite/aggregation/pieces.hpp"
#include "offsite/aggregation/policy_state.hpp"
#include "offsite/aggregation/server_optimizers.hpp"
#include "offsite/aggregation/sorted_tiles.hpp"
#include "offsite/aggregation/streaming.hpp"
#include "offsite/aggregation/weighted_mean.hpp"
