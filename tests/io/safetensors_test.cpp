#include "offsite/io/safetensors.hpp"

#include <array>
#include <bit>
#include <cstdint>
#include <string>
#include <vector>

#include "offsite/io/json.hpp"
#include "support/test.hpp"

namespace safetensors_test {

using namespace offsite;

namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

/// A file of this header and data, its length field right.
std::string file_of(std::string_view header, std::string_view data = {}) {
  std::string file(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  return file.append(header).append(data);
}

/// What the reader says against these bytes, without the file's own name; empty if it takes them.
std::string refusal(std::string_view bytes) {
  const support::TemporaryFolder folder;
  support::write_file(folder / "x.safetensors", bytes);
  try {
    (void)SafetensorsFile(folder / "x.safetensors");
    return {};
  } catch (const ProtocolError& error) {
    std::string text = error.what();
    const auto prefix = (folder / "x.safetensors").string() + " is not a valid safetensors file: ";
    REQUIRE_MESSAGE(text.starts_with(prefix), text);
    return text.substr(prefix.size());
  }
}

std::string tensor(std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return fmt::format(R"({{"dtype":"{}","shape":[{}],"data_offsets":[{}]}})", dtype, shape, offsets);
}

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const auto byte : bytes) text += fmt::format("{:02x}", std::to_integer<int>(byte));
  return text;
}

}  // namespace

TEST_CASE(
    "SafetensorsFile: reads what Python's package wrote, every type, and writes it again byte for byte") {
  const auto contents = read_json(support::golden("safetensors/contents.json"));
  for (const std::string name : {"all_types", "plain", "empty"}) {
    CAPTURE(name);
    const auto path = support::golden("safetensors/" + name + ".safetensors");
    const SafetensorsFile file(path);
    CHECK(file.names().size() == (name == "all_types" ? contents.size() : name == "plain" ? 5 : 0));
    CHECK(file.metadata().contains("format") == (name == "all_types"));
    CHECK(file.file_size() == std::filesystem::file_size(path));
    std::vector<NamedView> views;
    for (const auto& key : file.names()) {
      CAPTURE(key);
      const auto view = file.at(key);
      CHECK(dtype_name(view.dtype) == contents.at(key).at("dtype").get<std::string>());
      CHECK(view.shape == contents.at(key).at("shape").get<std::vector<std::int64_t>>());
      CHECK(hex(view.bytes) == contents.at(key).at("hex").get<std::string>());
      views.push_back({key, view});
    }
    const support::TemporaryFolder folder;
    save_safetensors(folder / "again", views, file.metadata());
    CHECK(support::read_file(folder / "again") == support::read_file(path));
  }
}

TEST_CASE("SafetensorsFile: views outlive the object as long as the owner is kept") {
  const support::TemporaryFolder folder;
  support::write_file(folder / "f", file_of(R"({"a":)" + tensor("U8", "2", "0,2") + "}", "hi"));
  TensorView view;
  std::shared_ptr<const void> owner;
  {
    const SafetensorsFile file(folder / "f");
    CHECK(file.contains("a"));
    CHECK_FALSE(file.contains("b"));
    view = file.at("a");
    owner = file.owner();
    CHECK(support::message_of<ProtocolError>([&] { (void)file.at("b"); }) ==
          (folder / "f").string() + " holds no tensor 'b'");
  }
  save_safetensors(folder / "f", std::vector<NamedView>{});  // replacing the file does not touch the mapping
  CHECK(hex(view.bytes) == "6869");
  CHECK(SafetensorsFile(folder / "f").names().empty());
}

TEST_CASE("SafetensorsFile: takes what the format allows") {
  CHECK(refusal(file_of("{}")) == "");
  CHECK(refusal(file_of("{ \"a\" :\n" + tensor("F32", "", "0, 4") + "\t} \r\n", "abcd")) == "");
  CHECK(refusal(file_of(
            R"({"a":)" + tensor("F32", "0,7", "0,0") + R"(,"b":)" + tensor("U8", "1", "0,1") + "}", "x")) ==
        "");
  CHECK(refusal(file_of(R"({"b":)" + tensor("U8", "1", "1,2") + R"(,"a":)" + tensor("U8", "1", "0,1") + "}",
                        "xy")) == "");
  CHECK(refusal(file_of(R"({"a":)" + tensor("F6_E2M3", "4", "0,3") + "}", "xyz")) == "");
  CHECK(refusal(file_of(R"({"a":)" + tensor("F6_E3M2", "2,2", "0,3") + "}", "xyz")) == "");
  CHECK(refusal(file_of(R"({"__metadata__":{},"a":{"data_offsets":[0,1],"shape":[1],"dtype":"I8"}})", "x")) ==
        "");
}

TEST_CASE("SafetensorsFile: refuses what breaks the format, and says why") {
  const auto says = [](const std::string& file, std::string_view words) {
    const auto text = refusal(file);
    CHECK_MESSAGE(text.find(words) != std::string::npos, text);
  };
  says("", "it has 0 bytes, but a header's length takes 8");
  says("1234567", "it has 7 bytes");
  says(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10),
       "its header claims 18446744073709551615 bytes, but at most 100000000");
  says(file_of("{}").substr(0, 9), "its header claims 2 bytes, but 1 follow");
  says(file_of(""), "does not begin with '{'");
  says(file_of(" {}"), "does not begin with '{'");
  says(file_of("[]"), "does not begin with '{'");
  says(file_of("{"), "a string was expected");
  says(file_of("{}x"), "something follows");
  says(file_of("{\"\xff\":1}"), "not UTF-8");
  says(file_of("{\"\xed\xa0\x80\":1}"), "not UTF-8");
  says(file_of("{\"a\n\":1}"), "control character");
  says(file_of("{\"a"), "a string does not end");
  says(file_of("{\"a\\"), "a string does not end");
  says(file_of(R"({"\x":1})"), "unknown escape");
  says(file_of(R"({"\ud800":1})"), "half a surrogate pair");
  says(file_of(R"({"\udc00":1})"), "half a surrogate pair");
  says(file_of(R"({"\u12g4":1})"), "broken \\u escape");
  says(file_of(R"({"a":1})"), "an object was expected");
  says(file_of(R"({"a":{}})"), "tensor 'a' lacks its dtype");
  says(file_of(R"({"a":{"dtype":"U8","shape":[0]}})"), "tensor 'a' lacks its data_offsets");
  says(file_of(R"({"a":{"dtype":"U8","dtype":"U8"}})"), "unknown or second field 'dtype'");
  says(file_of(R"({"a":{"strides":[]}})"), "unknown or second field 'strides'");
  says(file_of("{\"a\":" + tensor("f32", "", "0,4") + "}", "abcd"), "tensor 'a' has the unknown dtype 'f32'");
  const auto a = tensor("U8", "1", "0,1");
  says(file_of("{\"a\":" + a + ",\"a\":" + a + "}", "x"), "the tensor 'a' occurs twice");
  says(file_of("{\"a\":" + a + ",\"\\u0061\":" + a + "}", "x"), "the tensor 'a' occurs twice");
  says(file_of("{\"a\":" + a + ",}", "x"), "a string was expected");
  says(file_of(R"({"__metadata__":{"k":1}})"), "a string was expected");
  says(file_of(R"({"__metadata__":{"k":"1","k":"2"}})"), "the metadata key 'k' occurs twice");
  says(file_of(R"({"__metadata__":{},"__metadata__":{}})"), "'__metadata__' occurs twice");
  says(file_of("{\"a\":" + tensor("U8", "-1", "0,1") + "}", "x"), "a natural number was expected");
  says(file_of("{\"a\":" + tensor("U8", "1.0", "0,1") + "}", "x"), "',' or ']' was expected");
  says(file_of("{\"a\":" + tensor("U8", "01", "0,1") + "}", "x"), "out of range or begins with 0");
  says(file_of("{\"a\":" + tensor("U8", "18446744073709551616", "0,1") + "}", "x"),
       "18446744073709551616 is out of range");
  says(file_of("{\"a\":" + tensor("U8", "9223372036854775808", "0,1") + "}", "x"),
       "a dimension of 9223372036854775808");
  says(file_of("{\"a\":" + tensor("U8", "4294967296,4294967296", "0,0") + "}"), "too large");
  says(file_of("{\"a\":" + tensor("U8", "4294967296,4294967296,0", "0,0") + "}"), "too large");
  says(file_of("{\"a\":" + tensor("F64", "1152921504606846976", "0,0") + "}"), "too large");
  says(file_of("{\"a\":" + tensor("F4", "3", "0,1") + "}", "x"), "does not fill whole bytes");
  says(file_of("{\"a\":" + tensor("U8", "2", "0,1") + "}", "x"), "takes another number of bytes");
  says(file_of("{\"a\":" + tensor("U8", "1", "1,0") + "}", "x"), "ends before it begins");
  says(file_of("{\"a\":" + tensor("U8", "2", "0,2") + "}", "x"), "ends beyond the end of the file");
  says(file_of("{\"a\":" + tensor("U8", "1", "0") + "}", "x"), "1 data_offsets instead of two");
  says(file_of("{\"a\":" + tensor("U8", "1", "0,1,1") + "}", "x"), "more than two data_offsets");
  says(file_of("{\"a\":" + a + ",\"b\":" + a + "}", "x"), "overlaps");
  says(file_of("{\"a\":" + a + ",\"b\":" + tensor("U8", "1", "2,3") + "}", "xyz"), "leaves a hole");
  says(file_of("{\"a\":" + tensor("U8", "1", "1,2") + "}", "xy"), "leaves a hole");
  says(file_of("{\"a\":" + a + "}", "xy"), "its tensors take 1 bytes, but 2 follow");
  says(file_of("{}", "x"), "its tensors take 0 bytes, but 1 follow");
  std::string many = "1";
  for (int i = 0; i < 64; ++i) many += ",1";
  says(file_of("{\"a\":" + tensor("U8", many, "0,1") + "}", "x"), "more than 64 dimensions");
  CHECK(refusal(file_of("{\"a\":" + tensor("U8", many.substr(2), "0,1") + "}", "x")) == "");
  CHECK_THROWS_AS((void)SafetensorsFile("/nonexistent/file"), ArgumentError);
  CHECK_THROWS_AS((void)SafetensorsFile("/tmp"), ArgumentError);
}

TEST_CASE("SafetensorsFile: names go through every escape") {
  const support::TemporaryFolder folder;
  support::write_file(folder / "f", file_of(R"({"\"\\\/\b\f\n\r\t\u00e9\u6f22\ud83d\uDE00":)" +
                                            tensor("U8", "0", "0,0") + "}"));
  const SafetensorsFile file(folder / "f");
  CHECK(file.names() == std::vector<std::string>{"\"\\/\b\f\n\r\t\xc3\xa9\xe6\xbc\xa2\xf0\x9f\x98\x80"});
}

TEST_CASE("save_safetensors: wide types first, then by name, header padded to 8 bytes") {
  const support::TemporaryFolder folder;
  const std::vector<NamedView> views{{"z", {Dtype::kU8, {3}, bytes_of("abc")}},
                                     {"b", {Dtype::kF32, {1}, bytes_of("efgh")}},
                                     {"a", {Dtype::kF32, {1}, bytes_of("ijkl")}},
                                     {"e", {Dtype::kF64, {0, 5}, {}}}};
  save_safetensors(folder / "f", views);
  const auto file = support::read_file(folder / "f");
  CHECK(file.ends_with("ijklefghabc"));
  CHECK((file.size() - 11) % 8 == 0);
  CHECK(file.find("\"e\"") < file.find("\"a\""));
}

TEST_CASE("save_safetensors: refuses bad names and sizes and leaves the old file alone") {
  const support::TemporaryFolder folder;
  support::write_file(folder / "f", "old");
  const auto refuses = [&](std::vector<NamedView> views, std::string_view words) {
    const auto text = support::message_of<ArgumentError>([&] { save_safetensors(folder / "f", views); });
    CHECK_MESSAGE(text.find(words) != std::string::npos, text);
    CHECK(support::read_file(folder / "f") == "old");
  };
  const TensorView byte{Dtype::kU8, {1}, bytes_of("x")};
  refuses({{"a", byte}, {"a", byte}}, "two tensors are to be saved under the name 'a'");
  refuses({{"__metadata__", byte}}, "cannot be saved under the name '__metadata__'");
  refuses({{"\xff", byte}}, "cannot be saved");
  refuses({{"a", {Dtype::kU8, {2}, bytes_of("x")}}}, "tensor 'a' of type U8 and shape [2] has 1 bytes");
  refuses({{"a", {Dtype::kU8, {-1}, bytes_of("x")}}}, "shape [-1]");
}

}  // namespace safetensors_test
