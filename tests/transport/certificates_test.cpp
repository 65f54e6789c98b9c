#include "offsite/transport/certificates.hpp"

#include <sys/stat.h>

#include <filesystem>
#include <string>

#include "transport/tls_world.hpp"

#include "support/test.hpp"

using namespace offsite;

namespace {

mode_t mode_of(const std::filesystem::path& path) {
  struct ::stat facts {};
  REQUIRE(::stat(path.c_str(), &facts) == 0);
  return facts.st_mode & 07777;
}

std::string problem_of(const TlsFiles& files, bool owner) {
  try {
    check_tls_files(files, owner);
  } catch (const ArgumentError& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("certificates: what one end needs, readable by nobody else") {
  const TlsWorld world{"lab-a"};
  for (const auto* name : {"owner", "lab-a"}) {
    const auto files = world.files(name);
    CHECK(check_tls_files(files, std::string(name) == "owner") == std::vector<std::string>{name, name});
    for (const auto& path : {files.authority, files.certificate, files.key}) CHECK(mode_of(path) == 0600);
    CHECK(mode_of(files.key.parent_path()) == 0700);
  }
  CHECK(mode_of(world.folder() / "authority.key") == 0600);
  CHECK_FALSE(std::filesystem::exists(world.folder() / "lab-a" / "authority.key"));
}

TEST_CASE("certificates: a role cannot be changed") {
  const TlsWorld world{"lab-a"};
  CHECK(problem_of(world.files("lab-a"), true).find("is not for an owner") != std::string::npos);
  CHECK(problem_of(world.files("owner"), false).find("is not for a client") != std::string::npos);
}

TEST_CASE("certificates: nothing is overwritten; renewing keeps the key") {
  const TlsWorld world{"lab-a"};
  const auto read = [](const std::filesystem::path& path) { return detail::read_pem(path, "file"); };
  const auto before = world.files("lab-a");
  const auto key = read(before.key), certificate = read(before.certificate);
  CHECK_THROWS_WITH_AS(make_authority(world.folder()), doctest::Contains("exists already"), ArgumentError);
  CHECK_THROWS_WITH_AS(issue_certificate(world.folder(), {"lab-a"}), doctest::Contains("renew it"),
                       ArgumentError);
  CHECK(read(before.certificate) == certificate);
  issue_certificate(world.folder(), {.name = "lab-a", .days = 30}, true);
  CHECK(read(before.key) == key);
  CHECK(read(before.certificate) != certificate);
  CHECK(problem_of(before, false).empty());
}

TEST_CASE("certificates: files that do not belong together") {
  const TlsWorld world{"lab-a", "lab-b"}, other{"lab-a"};
  auto mixed = world.files("lab-a");
  mixed.key = world.files("lab-b").key;
  CHECK(problem_of(mixed, false).find("does not belong to the certificate") != std::string::npos);
  mixed = world.files("lab-a");
  mixed.authority = other.files("lab-a").authority;
  CHECK(problem_of(mixed, false).find("is not signed by the authority") != std::string::npos);
  mixed = world.files("lab-a");
  mixed.key = mixed.certificate;
  CHECK(problem_of(mixed, false).find("holds no private key") != std::string::npos);
  mixed.certificate = world.folder() / "missing.pem";
  CHECK(problem_of(mixed, false).find("cannot read") != std::string::npos);
}

TEST_CASE("certificates: one that has expired says since when") {
  const TlsWorld world{"lab-a"};
  const auto files = world.files("lab-a");
  const auto key = detail::read_key(files.key),
             authority_key = detail::read_key(world.folder() / "authority.key");
  const auto authority = detail::read_certificate(files.authority, "authority");
  const auto certificate = detail::blank_certificate(*key, "lab-a", 1);
  auto* x = certificate.get();
  ::X509_gmtime_adj(X509_getm_notBefore(x), -7200);
  ::ASN1_TIME_set_string(X509_getm_notAfter(x), "20250102030405Z");
  ::ASN1_TIME_set_string(X509_getm_notBefore(x), "20240102030405Z");
  ::X509_set_issuer_name(x, ::X509_get_subject_name(authority.get()));
  REQUIRE(::X509_sign(x, authority_key.get(), ::EVP_sha256()) > 0);
  detail::write_secret(files.certificate, detail::pem_text(*x), true);
  CHECK(problem_of(files, false).find("expired on 2025-01-02: renew it") != std::string::npos);
}

TEST_CASE("certificates: requests that cannot be met") {
  const TlsWorld world{};
  const auto refused = [&](const CertificateRequest& request, const char* why) {
    CHECK_THROWS_WITH_AS(issue_certificate(world.folder(), request), doctest::Contains(why), ArgumentError);
  };
  refused({"../up"}, "cannot name a client");
  refused({""}, "cannot name a client");
  refused({"lab-a", {"example.org"}}, "only the owner is connected to");
  refused({"lab-a", {}, 0}, "days is 0");
  refused({"lab-a", {}, 40'000}, "days is 40000");
  std::filesystem::remove_all(world.folder() / "owner");
  refused({"owner", {"a,DNS:evil"}}, "neither a host's name nor an IP address");
  const auto files = issue_certificate(world.folder(), {"owner", {"example.org", "192.0.2.1", "::1"}});
  CHECK(check_tls_files(files, true) == std::vector<std::string>{"owner", "example.org", "owner"});
}
