#pragma once
/// Scoring and generation.

#include "offsite/eval/comparison.hpp"
#include "offsite/eval/evaluation_options.hpp"
#include "offsite/eval/generate.hpp"
#include "offsite/eval/log_probabilities.hpp"
#include "offsite/eval/multiple_choice.hpp"
#include "offsite/eval/perplexity.hpp"
#include "offsite/eval/row_packer.hpp"
#include "offsite/eval/scores.hpp"
#include "offsite/eval/token_scores.hpp"
