#include "offsite/models/bloom.hpp"

#include "step_profile/families.hpp"
#include "step_profile/profile.hpp"

namespace bench {

const Family bloom{[](const std::string& type) { return offsite::reads_model_type<offsite::Bloom>(type); },
                   &profile_model<offsite::Bloom>};

}  // namespace bench
