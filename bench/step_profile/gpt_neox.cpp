#include "offsite/models/gpt_neox.hpp"

#include "step_profile/families.hpp"
#include "step_profile/profile.hpp"

namespace bench {

const Family gpt_neox{
    [](const std::string& type) { return offsite::reads_model_type<offsite::GptNeox>(type); },
    &profile_model<offsite::GptNeox>};

}  // namespace bench
