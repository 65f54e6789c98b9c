#include "offsite/models/opt.hpp"

#include "step_profile/families.hpp"
#include "step_profile/profile.hpp"

namespace bench {

const Family opt{[](const std::string& type) { return offsite::reads_model_type<offsite::Opt>(type); },
                 &profile_model<offsite::Opt>};

}  // namespace bench
