#include "offsite/models/gpt2.hpp"

#include "step_profile/families.hpp"
#include "step_profile/profile.hpp"

namespace bench {

const Family gpt2{[](const std::string& type) { return offsite::reads_model_type<offsite::Gpt2>(type); },
                  &profile_model<offsite::Gpt2>};

}  // namespace bench
