#pragma once
#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/asn1.h>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/federation/blob.hpp"
#include "offsite/io/atomic_file.hpp"
#include "offsite/io/mapped_file.hpp"

namespace offsite {

/// What one end of a mutual-TLS connection needs, as PEM files.
struct TlsFiles {
  std::filesystem::path authority;    ///< certificate of the authority that signs both ends' certificates
  std::filesystem::path certificate;  ///< this end's
  std::filesystem::path key;          ///< this end's private key
};

/// The three files as `issue_certificate` puts them into a folder.
[[nodiscard]] inline TlsFiles tls_files(const std::filesystem::path& folder) {
  return {folder / "authority.pem", folder / "certificate.pem", folder / "key.pem"};
}

/// A certificate that is wanted.
struct CertificateRequest {
  std::string name;  ///< whom it names: the client's name, or "owner"; it decides the role, too
  std::vector<std::string> hosts{};  ///< besides: DNS names and IP addresses under which the owner is reached
  std::int64_t days = 365;           ///< it is valid for, 1 .. 36500
};

namespace detail {

/// One deleter for all of OpenSSL's objects that appear here.
struct FreeOpenSsl {
  void operator()(::X509* p) const { ::X509_free(p); }
  void operator()(::EVP_PKEY* p) const { ::EVP_PKEY_free(p); }
  void operator()(::EVP_PKEY_CTX* p) const { ::EVP_PKEY_CTX_free(p); }
  void operator()(::BIO* p) const { ::BIO_free_all(p); }
  void operator()(::BIGNUM* p) const { ::BN_free(p); }
  void operator()(::X509_EXTENSION* p) const { ::X509_EXTENSION_free(p); }
  void operator()(::X509_STORE* p) const { ::X509_STORE_free(p); }
  void operator()(::X509_STORE_CTX* p) const { ::X509_STORE_CTX_free(p); }
  void operator()(::GENERAL_NAMES* p) const { ::GENERAL_NAMES_free(p); }
};
template <class T>
using OpenSslPointer = std::unique_ptr<T, FreeOpenSsl>;

/// \throws Error with OpenSSL's words unless `good`.
inline void check_openssl(bool good, std::string_view what) {
  if (good) return;
  std::array<char, 256> text{};
  ::ERR_error_string_n(::ERR_get_error(), text.data(), text.size());
  ::ERR_clear_error();
  throw Error(formatted("OpenSSL cannot {}: {}", what, std::string_view(text.data())));
}

[[nodiscard]] inline OpenSslPointer<::EVP_PKEY> make_key() {
  const OpenSslPointer<::EVP_PKEY_CTX> context(::EVP_PKEY_CTX_new_id(EVP_PKEY_EC, nullptr));
  ::EVP_PKEY* key = nullptr;
  check_openssl(context && ::EVP_PKEY_keygen_init(context.get()) == 1 &&
                    ::EVP_PKEY_CTX_set_ec_paramgen_curve_nid(context.get(), NID_X9_62_prime256v1) == 1 &&
                    ::EVP_PKEY_keygen(context.get(), &key) == 1,
                "make a key");
  return OpenSslPointer<::EVP_PKEY>(key);
}

inline void add_extension(::X509& certificate, ::X509& issuer, int kind, const std::string& value) {
  ::X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  ::X509V3_set_ctx(&context, &issuer, &certificate, nullptr, nullptr, 0);
  const OpenSslPointer<::X509_EXTENSION> extension(
      ::X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str()));
  check_openssl(extension && ::X509_add_ext(&certificate, extension.get(), -1) == 1,
                "write the extension " + value);
}

/// A certificate for `key` of this common name, valid from an hour ago, as clocks differ; not signed yet.
[[nodiscard]] inline OpenSslPointer<::X509> blank_certificate(::EVP_PKEY& key, const std::string& name,
                                                              std::int64_t days) {
  require(0 < days && days <= 36'500, "days is {}, but it must be 1 to 36500", days);
  OpenSslPointer<::X509> certificate(::X509_new());
  const OpenSslPointer<::BIGNUM> serial(::BN_new());
  auto* x = certificate.get();
  check_openssl(
      x != nullptr && serial && ::X509_set_version(x, 2) == 1 &&
          ::BN_rand(serial.get(), 127, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) == 1 &&
          ::BN_to_ASN1_INTEGER(serial.get(), ::X509_get_serialNumber(x)) != nullptr &&
          ::X509_gmtime_adj(X509_getm_notBefore(x), -3600) != nullptr &&
          ::X509_time_adj_ex(X509_getm_notAfter(x), static_cast<int>(days), 0, nullptr) != nullptr &&
          ::X509_set_pubkey(x, &key) == 1 &&
          ::X509_NAME_add_entry_by_txt(::X509_get_subject_name(x), "CN", MBSTRING_UTF8,
                                       reinterpret_cast<const unsigned char*>(name.data()),
                                       static_cast<int>(name.size()), -1, 0) == 1,
      "make a certificate");
  return certificate;
}

[[nodiscard]] inline std::string pem_text(::BIO& memory) {
  char* data = nullptr;
  const auto size = ::BIO_get_mem_data(&memory, &data);
  return std::string(data, static_cast<std::size_t>(size));
}
[[nodiscard]] inline std::string pem_text(::X509& certificate) {
  const OpenSslPointer<::BIO> out(::BIO_new(::BIO_s_mem()));
  check_openssl(out && ::PEM_write_bio_X509(out.get(), &certificate) == 1, "write a certificate");
  return pem_text(*out);
}
[[nodiscard]] inline std::string pem_text(::EVP_PKEY& key) {
  const OpenSslPointer<::BIO> out(::BIO_new(::BIO_s_mem()));
  check_openssl(
      out && ::PEM_write_bio_PKCS8PrivateKey(out.get(), &key, nullptr, nullptr, 0, nullptr, nullptr) == 1,
      "write a key");
  return pem_text(*out);
}

/// Most bytes a PEM file may have: longer ones are something else.
inline constexpr std::uint64_t kMostPem = 1 << 20;

/// \throws ArgumentError if the file cannot be read.
[[nodiscard]] inline std::string read_pem(const std::filesystem::path& path, std::string_view what) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  require(!error, "cannot read {}, {}: {}", path.string(), what, error.message());
  require(0 < size && size <= kMostPem, "{} is no {}: it has {} bytes", path.string(), what, size);
  const MappedFile file(path);
  const auto bytes = file.bytes();
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}
[[nodiscard]] inline OpenSslPointer<::X509> read_certificate(const std::filesystem::path& path,
                                                             std::string_view what) {
  const auto text = read_pem(path, what);
  const OpenSslPointer<::BIO> in(::BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  OpenSslPointer<::X509> certificate(in ? ::PEM_read_bio_X509(in.get(), nullptr, nullptr, nullptr) : nullptr);
  ::ERR_clear_error();
  require(certificate != nullptr, "{} is no {}: it holds no certificate in PEM", path.string(), what);
  return certificate;
}
[[nodiscard]] inline OpenSslPointer<::EVP_PKEY> read_key(const std::filesystem::path& path) {
  const auto text = read_pem(path, "the private key");
  const OpenSslPointer<::BIO> in(::BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  // A key under a pass phrase would ask for it on the terminal.
  const auto no_phrase = [](char*, int, int, void*) { return -1; };
  OpenSslPointer<::EVP_PKEY> key(in ? ::PEM_read_bio_PrivateKey(in.get(), nullptr, no_phrase, nullptr)
                                    : nullptr);
  ::ERR_clear_error();
  require(key != nullptr, "{} holds no private key in PEM without a pass phrase", path.string());
  return key;
}

/// Writes a file that only its owner can read, all or nothing. \param replace  what is there, if anything is
inline void write_secret(const std::filesystem::path& path, const std::string& text, bool replace) {
  const auto temporary = temporary_sibling(path);
  {
    const int file = ::open(temporary.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    require(file >= 0, "cannot write {}: {}", path.string(), std::strerror(errno));
    const auto written = ::write(file, text.data(), text.size());
    const bool good = written == std::ssize(text) && ::fsync(file) == 0;
    const int reason = written < 0 || written == std::ssize(text) ? errno : ENOSPC;
    ::close(file);
    if (!good) ::unlink(temporary.c_str());
    require(good, "cannot write {}: {}", path.string(), std::strerror(reason));
  }
  // A link fails where a file is, so that two processes at once cannot overwrite each other's.
  const int status =
      replace ? ::rename(temporary.c_str(), path.c_str()) : ::link(temporary.c_str(), path.c_str());
  const int reason = errno;
  if (status != 0 || !replace) ::unlink(temporary.c_str());
  require(status == 0, "cannot write {}: {}", path.string(), std::strerror(reason));
  sync_folder(path.parent_path());
}

inline void make_private_folder(const std::filesystem::path& folder) {
  std::error_code error;
  if (!folder.parent_path().empty()) std::filesystem::create_directories(folder.parent_path(), error);
  require(::mkdir(folder.c_str(), 0700) == 0 || errno == EEXIST, "cannot make the folder {}: {}",
          folder.string(), std::strerror(errno));
}

[[nodiscard]] inline bool is_ip_address(const std::string& host) {
  std::array<unsigned char, 16> bytes{};
  return ::inet_pton(AF_INET, host.c_str(), bytes.data()) == 1 ||
         ::inet_pton(AF_INET6, host.c_str(), bytes.data()) == 1;
}

/// The names a certificate vouches for: DNS names of its subject's alternative names, then its common name.
[[nodiscard]] inline std::vector<std::string> names_in(::X509& certificate) {
  std::vector<std::string> names;
  const auto add = [&](const ::ASN1_STRING* text) {
    unsigned char* utf8 = nullptr;
    const int size = ::ASN1_STRING_to_UTF8(&utf8, text);
    if (size < 0) return;
    names.emplace_back(reinterpret_cast<const char*>(utf8), static_cast<std::size_t>(size));
    ::OPENSSL_free(utf8);
  };
  const OpenSslPointer<::GENERAL_NAMES> alternatives(static_cast<::GENERAL_NAMES*>(
      ::X509_get_ext_d2i(&certificate, NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; alternatives && i < sk_GENERAL_NAME_num(alternatives.get()); ++i) {
    const auto* name = sk_GENERAL_NAME_value(alternatives.get(), i);
    if (name->type == GEN_DNS) add(name->d.dNSName);
  }
  const auto* subject = ::X509_get_subject_name(&certificate);
  const int at = ::X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  if (at >= 0) add(::X509_NAME_ENTRY_get_data(::X509_NAME_get_entry(subject, at)));
  return names;
}

/// "2027-11-22", of a certificate's end.
[[nodiscard]] inline std::string end_of(const ::X509& certificate) {
  std::tm time{};
  if (::ASN1_TIME_to_tm(X509_get0_notAfter(&certificate), &time) != 1) return "an unreadable date";
  return formatted("{:04}-{:02}-{:02}", time.tm_year + 1900, time.tm_mon + 1, time.tm_mday);
}

}  // namespace detail

/// Makes an authority, which signs the certificates of one federation: `authority.key`, which stays with whoever runs the
/// federation, and `authority.pem`. EC P-256; only their owner can read the files.
/// \throws ArgumentError if one of them is there already, or cannot be written, or `days` is not 1 to 36500.
inline void make_authority(const std::filesystem::path& folder, std::int64_t days = 3650) {
  for (const auto* name : {"authority.key", "authority.pem"})
    require(!std::filesystem::exists(folder / name),
            "{} exists already: certificates that it signed would be worth "
            "nothing with another",
            (folder / name).string());
  const auto key = detail::make_key();
  std::array<unsigned char, 4> random{};
  detail::check_openssl(::RAND_bytes(random.data(), static_cast<int>(random.size())) == 1,
                        "give random bytes");
  std::string name = "offsite authority ";  // two of the same name would be hard to tell apart in errors
  for (const auto byte : random) name += formatted("{:02x}", static_cast<unsigned>(byte));
  const auto certificate = detail::blank_certificate(*key, name, days);
  auto* x = certificate.get();
  detail::check_openssl(::X509_set_issuer_name(x, ::X509_get_subject_name(x)) == 1, "name an authority");
  detail::add_extension(*x, *x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0");
  detail::add_extension(*x, *x, NID_key_usage, "critical,keyCertSign,cRLSign");
  detail::add_extension(*x, *x, NID_subject_key_identifier, "hash");
  detail::check_openssl(::X509_sign(x, key.get(), ::EVP_sha256()) > 0, "sign a certificate");
  detail::make_private_folder(folder);
  detail::write_secret(folder / "authority.key", detail::pem_text(*key), false);
  detail::write_secret(folder / "authority.pem", detail::pem_text(*x), false);
}

/// Makes a key and a certificate that the authority in `folder` signs, in `folder/NAME/` beside the authority's own
/// certificate: all that one end needs. The name "owner" gives an owner's certificate, any other a client's; neither can
/// be used in the other's place. \param renew  a new certificate for the key that is there, which keeps its hosts only if
/// they are given again
/// \throws ArgumentError if there is no authority, the certificate exists and is not to be renewed, or a name, a host or
/// the days are out of range.
inline TlsFiles issue_certificate(const std::filesystem::path& folder, const CertificateRequest& request,
                                  bool renew = false) {
  const bool owner = request.name == federation::kOwner;
  require(federation::is_client_name(request.name),
          "'{}' cannot name a client: 1 to 64 letters, digits, '.', '_', '-'", request.name);
  require(owner || request.hosts.empty(), "hosts were given for {}, but only the owner is connected to",
          request.name);
  std::string names = "DNS:" + request.name;
  for (const auto& host : request.hosts) {
    const bool address = detail::is_ip_address(host);
    const bool dns =
        !host.empty() && host.size() <= 253 &&
        host.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") ==
            std::string::npos;
    require(address || dns, "'{}' is neither a host's name nor an IP address", host);
    names += (address ? ",IP:" : ",DNS:") + host;
  }
  const auto authority =
      detail::read_certificate(folder / "authority.pem", "the certificate of the authority");
  const auto authority_key = detail::read_key(folder / "authority.key");
  require(::X509_check_private_key(authority.get(), authority_key.get()) == 1,
          "the key and the certificate of the authority in {} do not belong together", folder.string());
  const auto files = tls_files(folder / request.name);
  const bool exists = std::filesystem::exists(files.certificate) || std::filesystem::exists(files.key);
  require(!exists || renew, "{} holds a certificate already: renew it, or remove the folder",
          (folder / request.name).string());
  const bool keep_key = renew && std::filesystem::exists(files.key);
  const auto key = keep_key ? detail::read_key(files.key) : detail::make_key();

  const auto certificate = detail::blank_certificate(*key, request.name, request.days);
  auto* x = certificate.get();
  detail::check_openssl(::X509_set_issuer_name(x, ::X509_get_subject_name(authority.get())) == 1,
                        "name an issuer");
  detail::add_extension(*x, *authority, NID_basic_constraints, "critical,CA:FALSE");
  detail::add_extension(*x, *authority, NID_key_usage, "critical,digitalSignature");
  detail::add_extension(*x, *authority, NID_ext_key_usage, owner ? "serverAuth" : "clientAuth");
  detail::add_extension(*x, *authority, NID_subject_alt_name, names);
  detail::add_extension(*x, *authority, NID_subject_key_identifier, "hash");
  detail::add_extension(*x, *authority, NID_authority_key_identifier, "keyid");
  detail::check_openssl(::X509_sign(x, authority_key.get(), ::EVP_sha256()) > 0, "sign a certificate");

  detail::make_private_folder(folder / request.name);
  if (!keep_key) detail::write_secret(files.key, detail::pem_text(*key), false);
  detail::write_secret(files.authority, detail::pem_text(*authority), true);
  detail::write_secret(files.certificate, detail::pem_text(*x), renew);
  return files;
}

/// Checks one end's files before they are used: that key and certificate belong together, that the certificate is valid
/// today, and that the authority signed it for this role. Returns the names in it.
/// \throws ArgumentError with one sentence, naming the file.
inline std::vector<std::string> check_tls_files(const TlsFiles& files, bool owner) {
  const auto authority = detail::read_certificate(files.authority, "the certificate of the authority");
  const auto certificate = detail::read_certificate(files.certificate, "this end's certificate");
  const auto key = detail::read_key(files.key);
  require(::X509_check_private_key(certificate.get(), key.get()) == 1,
          "the key {} does not belong to the certificate {}", files.key.string(), files.certificate.string());
  const detail::OpenSslPointer<::X509_STORE> store(::X509_STORE_new());
  const detail::OpenSslPointer<::X509_STORE_CTX> context(::X509_STORE_CTX_new());
  detail::check_openssl(
      store && context && ::X509_STORE_add_cert(store.get(), authority.get()) == 1 &&
          ::X509_STORE_CTX_init(context.get(), store.get(), certificate.get(), nullptr) == 1 &&
          ::X509_STORE_CTX_set_purpose(context.get(),
                                       owner ? X509_PURPOSE_SSL_SERVER : X509_PURPOSE_SSL_CLIENT) == 1,
      "check a certificate");
  const bool good = ::X509_verify_cert(context.get()) == 1;
  const int error = ::X509_STORE_CTX_get_error(context.get());
  ::ERR_clear_error();
  if (good) return detail::names_in(*certificate);
  require(error != X509_V_ERR_CERT_HAS_EXPIRED,
          "the certificate {} expired on {}: renew it (offsite certificates --renew)",
          files.certificate.string(), detail::end_of(*certificate));
  require(error != X509_V_ERR_INVALID_PURPOSE, "the certificate {} is not for {}", files.certificate.string(),
          owner ? "an owner" : "a client");
  throw ArgumentError(formatted("the certificate {} is not signed by the authority in {}: {}",
                                files.certificate.string(), files.authority.string(),
                                ::X509_verify_cert_error_string(error)));
}

}  // namespace offsite
