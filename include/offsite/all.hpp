#pragma once
/// Everything of offsite that needs no optional dependency, but for federations (federation.hpp).

#include "offsite/aggregation.hpp"
#include "offsite/core/tensor_arena.hpp"
#include "offsite/data.hpp"
#include "offsite/eval.hpp"
#include "offsite/io.hpp"
#include "offsite/models.hpp"
#include "offsite/offsite.hpp"
#include "offsite/report.hpp"
