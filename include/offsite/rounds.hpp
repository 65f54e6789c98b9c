#pragma once
/// What connects federations (federation.hpp, which knows bytes) with offsite tuning (offsite.hpp): offers as blobs, a
/// round's training, adapters and updates as files.

#include "offsite/rounds/offer_blobs.hpp"
#include "offsite/rounds/optimizer_files.hpp"
#include "offsite/rounds/round_checkpoints.hpp"
#include "offsite/rounds/round_training.hpp"
#include "offsite/rounds/train_round.hpp"
#include "offsite/rounds/trained_file.hpp"
