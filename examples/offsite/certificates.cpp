#include "offsite/transport/certificates.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "offsite/command_line.hpp"
#include "offsite/federation/blob.hpp"
#include "offsite/report/table.hpp"
#include "offsite/session.hpp"

namespace program {
namespace {

struct CertificatesCommand {
  Path out;
  std::vector<std::string> clients, hosts, renew;
  std::int64_t days = 365, authority_days = 3650;
  CommonArguments common;
};

/// Makes what lacks: the authority, the owner's certificate, those of the clients; and anew what is to be renewed.
void make_certificates(const CertificatesCommand& command, Session& session) {
  const std::string owner(offsite::federation::kOwner);
  for (const auto& client : command.clients) {
    offsite::require(client != owner,
                     "--client {} is the owner's own name: its certificate is made by itself", client);
    offsite::require(offsite::federation::is_client_name(client),
                     "--client '{}' cannot name a client: 1 to 64 letters, digits, '.', '_', '-'", client);
    offsite::require(!std::filesystem::exists(command.out / client),
                     "--client {}: {} is there already; --renew {} makes its certificate anew", client,
                     (command.out / client).string(), client);
  }
  const bool has_owner = std::filesystem::exists(command.out / owner);
  const auto renewed = [&](const std::string& name) {
    return std::find(command.renew.begin(), command.renew.end(), name) != command.renew.end();
  };
  offsite::require(
      command.hosts.empty() || !has_owner || renewed(owner),
      "--host is for the owner's certificate, but {} is there already: --renew owner makes it anew",
      (command.out / owner).string());
  for (const auto& name : command.renew)
    offsite::require(std::filesystem::exists(command.out / name / "certificate.pem"),
                     "--renew {}: there is no certificate in {}", name, (command.out / name).string());

  offsite::Table table({"certificate", "folder", "days"});
  auto made = offsite::Json::array({});
  const auto note = [&](const std::string& name, const Path& place, std::int64_t days) {
    table.add({offsite::Cell(name), offsite::Cell(place.string()), days});
    made.push_back(offsite::Json::object({{"name", name}, {"folder", place.string()}, {"days", days}}));
  };
  const auto issue = [&](const std::string& name, bool renew) {
    offsite::issue_certificate(
        command.out, {name, name == owner ? command.hosts : std::vector<std::string>(), command.days}, renew);
    note(name, command.out / name, command.days);
  };
  if (!std::filesystem::exists(command.out / "authority.pem")) {
    offsite::make_authority(command.out, command.authority_days);
    note("authority", command.out, command.authority_days);
  }
  for (const auto& name : command.renew) issue(name, true);
  if (!has_owner) issue(owner, false);
  for (const auto& name : command.clients) issue(name, false);
  session.results["made"] = made;
  std::fputs(table.text().c_str(), stdout);
  session.say("Each folder is what one end needs, and secret; authority.key stays here.");
}

}  // namespace

void add_certificates_command(CLI::App& program) {
  auto* app = program.add_subcommand(
      "certificates",
      "An authority and certificates, by which the owner and the clients of a federation know each other");
  auto command = std::make_shared<CertificatesCommand>();
  app->add_option("--out", command->out,
                  "folder of the authority; one for the owner and each client is made in it")
      ->type_name("DIR")
      ->required();
  app->add_option("--client", command->clients, "a client's name: 1 to 64 letters, digits, '.', '_', '-'")
      ->type_name("NAME");
  app->add_option(
         "--host", command->hosts,
         "DNS name or IP address of the owner; not needed, as clients know it by its certificate's name")
      ->type_name("HOST");
  app->add_option("--renew", command->renew,
                  "make the certificate of this name anew, for the key that is there; an owner's hosts are "
                  "given again")
      ->type_name("NAME");
  app->add_option("--days", command->days, "that certificates are valid")
      ->type_name("N")
      ->capture_default_str();
  app->add_option("--authority-days", command->authority_days, "that a new authority is valid")
      ->type_name("N")
      ->capture_default_str();
  add_reporting(*app, command->common);
  app->callback([command] {
    Session session("certificates", command->common);
    make_certificates(*command, session);
    session.finish();
  });
}

}  // namespace program
