#pragma once
#include <openssl/evp.h>

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "offsite/core/error.hpp"

namespace offsite {

/// SHA-256 (FIPS 180-4) of bytes that come in pieces. Move-only.
class Sha256 {
 public:
  Sha256() : context_(::EVP_MD_CTX_new()) {
    require<Error>(context_ && ::EVP_DigestInit_ex(context_.get(), ::EVP_sha256(), nullptr) == 1,
                   "OpenSSL gives no SHA-256");
  }

  Sha256& update(std::span<const std::byte> bytes) {
    require<Error>(::EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1,
                   "OpenSSL's SHA-256 failed");
    return *this;
  }

  /// The digest of all bytes so far, 64 lower-case hexadecimal digits; call it once, last.
  [[nodiscard]] std::string hex() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned int size = 0;
    require<Error>(::EVP_DigestFinal_ex(context_.get(), digest.data(), &size) == 1,
                   "OpenSSL's SHA-256 failed");
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string text;
    for (const auto byte : std::span(digest).first(size)) {
      text += kDigits[byte >> 4];
      text += kDigits[byte & 15];
    }
    return text;
  }

 private:
  struct Free {
    void operator()(::EVP_MD_CTX* context) const { ::EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<::EVP_MD_CTX, Free> context_;
};

/// SHA-256 of these bytes, 64 lower-case hexadecimal digits.
[[nodiscard]] inline std::string sha256_hex(std::span<const std::byte> bytes) {
  return Sha256().update(bytes).hex();
}

}  // namespace offsite
