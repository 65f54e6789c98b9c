#include "offsite/models/llama.hpp"

#include "step_profile/families.hpp"
#include "step_profile/profile.hpp"

namespace bench {

const Family llama{[](const std::string& type) { return offsite::reads_model_type<offsite::Llama>(type); },
                   &profile_model<offsite::Llama>};

}  // namespace bench
