#include "offsite/io/json.hpp"

#include <string>

#include "offsite/io/sha256.hpp"
#include "support/test.hpp"

namespace json_test {

using namespace offsite;

TEST_CASE("read_json and write_json: there and back") {
  const support::TemporaryFolder folder;
  const auto value = Json::object(
      {{"a", Json::array({1, 2.5, nullptr, true})}, {"text", "gr\xc3\xbc\xc3\x9f \"quoted\" \\"}});
  write_json(folder / "f.json", value);
  CHECK(read_json(folder / "f.json") == value);
  CHECK(support::read_file(folder / "f.json").ends_with("}\n"));
  write_json(folder / "ordered.json", Json::object({{"z", 1}, {"a", 2}}));
  CHECK(support::read_file(folder / "ordered.json") == "{\n  \"z\": 1,\n  \"a\": 2\n}\n");
}

TEST_CASE("read_json: a missing file is the caller's mistake, a broken one the file's") {
  const support::TemporaryFolder folder;
  const auto path = folder / "f.json";
  CHECK(support::message_of<ArgumentError>([&] { (void)read_json(path); }) ==
        "cannot read " + path.string() + ": No such file or directory");
  for (const std::string text :
       {"", "{", "{\"a\":1,}", "[1] 2", "nul", "\"\xff\"", "1e999", "'a'", "{\"a\" 1}"}) {
    CAPTURE(text);
    support::write_file(path, text);
    const auto message = support::message_of<ProtocolError>([&] { (void)read_json(path); });
    CHECK(message.starts_with(path.string() + " is not valid JSON: "));
    CHECK(message.find("json.exception") == std::string::npos);
  }
}

TEST_CASE("parse_json: depth is limited before anything is built, brackets in strings do not count") {
  const std::string open(128, '['), close(128, ']');
  CHECK(parse_json(open + close, "it").is_array());
  CHECK(support::message_of<ProtocolError>([&] { (void)parse_json("[" + open + close + "]", "it"); }) ==
        "it is refused: it nests deeper than 128 levels");
  CHECK_THROWS_AS((void)parse_json(std::string(10'000'000, '['), "it"), ProtocolError);
  CHECK_THROWS_AS((void)parse_json("{\"a\":" + std::string(200, '{'), "it"), ProtocolError);
  CHECK(
      parse_json("[\"" + std::string(1000, '[') + "\\\"" + std::string(1000, '{') + "\"]", "it").is_array());
  CHECK(parse_json("[" + std::string(500, ' ') + "[],[],{}]", "it").size() == 3);
}

TEST_CASE("parse_json: half a surrogate pair is no text, a whole one and Korean are") {
  for (const auto* text : {R"(["\udc00"])", R"(["a\uddddb"])", R"({"\udfff":1})", R"(["\ud800"])"})
    CHECK_THROWS_AS((void)parse_json(text, "x"), ProtocolError);
  CHECK(support::message_of<ProtocolError>([] { (void)parse_json(R"(["\udddd"])", "a.json"); }) ==
        "a.json is not valid JSON: a text in it holds half a surrogate pair");
  CHECK(parse_json(R"(["\ud83d\ude00", "\ud55c"])", "x")[1] == "\xed\x95\x9c");
}

TEST_CASE("parse_json: messages stay short") {
  const auto message =
      support::message_of<ProtocolError>([] { (void)parse_json("\"" + std::string(100'000, 'x'), "it"); });
  CHECK(message.size() < 400);
}

TEST_CASE("write_json: a text that is not UTF-8 leaves the old file") {
  const support::TemporaryFolder folder;
  support::write_file(folder / "f.json", "old");
  CHECK_THROWS_AS(write_json(folder / "f.json", Json("\xff")), ArgumentError);
  CHECK(support::read_file(folder / "f.json") == "old");
}

TEST_CASE("sha256_hex: the standard's examples") {  // FIPS 180-2, appendix B
  const auto digest = [](std::string_view text) { return sha256_hex(std::as_bytes(std::span(text))); };
  CHECK(digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(digest(std::string(1'000'000, 'a')) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  Sha256 pieces;
  pieces.update(std::as_bytes(std::span("ab", 2))).update({}).update(std::as_bytes(std::span("c", 1)));
  CHECK(pieces.hex() == digest("abc"));
}

}  // namespace json_test
