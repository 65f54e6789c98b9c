#pragma once
#include <filesystem>
#include <initializer_list>
#include <string>

#include "offsite/transport/certificates.hpp"

#include "support/test.hpp"

/// A folder with an authority, an owner's certificate and those of some clients.
class TlsWorld {
 public:
  TlsWorld(std::initializer_list<std::string> clients) {
    offsite::make_authority(folder_.path());
    offsite::issue_certificate(folder_.path(), {"owner"});
    for (const auto& name : clients) offsite::issue_certificate(folder_.path(), {name});
  }
  [[nodiscard]] offsite::TlsFiles files(const std::string& name) const {
    return offsite::tls_files(folder_.path() / name);
  }
  [[nodiscard]] std::filesystem::path folder() const { return folder_.path(); }

 private:
  support::TemporaryFolder folder_;
};
