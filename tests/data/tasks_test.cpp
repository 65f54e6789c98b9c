#include "offsite/data/any_task.hpp"
#include "offsite/io/json.hpp"

#include "support/test.hpp"

namespace tasks_test {

using namespace offsite;

namespace {

Json golden_prompts() {
  return parse_json(support::read_file(support::golden("prompts.json")), "prompts.json");
}

/// The examples a task reads from `text`.
template <class T>
std::vector<Example> read(const T& task, std::string_view text, const RowRange& range = {}) {
  const support::TemporaryFolder folder;
  support::write_file(folder / "rows.json", text);
  return task.read(folder / "rows.json", range);
}

/// The complaint of a task about `text`, without the folder's name.
template <class T>
std::string complaint(const T& task, std::string_view text, const RowRange& range = {}) {
  const auto message = support::message_of<ProtocolError>([&] { (void)read(task, text, range); });
  return message.substr(message.find("rows.json"));
}

template <class T>
void check_golden(const T& task, const Json& cases, bool as_array) {
  std::string text = as_array ? "[" : "";
  for (const auto& one : cases)
    text += (as_array && text.size() > 1 ? "," : "") + one.at("row").dump() + "\n";
  const auto examples = read(task, as_array ? text + "]" : text);
  REQUIRE(examples.size() == cases.size());
  for (std::size_t i = 0; i < cases.size(); ++i) {
    CAPTURE(i);
    CHECK(examples[i].prompt == cases[i].at("prompt"));
    CHECK(examples[i].number == static_cast<std::int64_t>(i));
    if (cases[i].contains("choices")) {
      CHECK(examples[i].choices == cases[i].at("choices").template get<std::vector<std::string>>());
      CHECK(examples[i].answer == cases[i].at("answer"));
    } else {
      CHECK(examples[i].choices.empty());
      CHECK(examples[i].continuation() == cases[i].at("completion"));
    }
  }
}

std::string fnv1a(const std::vector<Example>& examples) {
  std::uint64_t state = 0xcbf29ce484222325u;
  const auto add = [&](const std::string& text) {
    for (const char c : text) state = (state ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    state *= 0x100000001b3u;  // the zero byte that ends each text
  };
  for (const auto& example : examples) {
    add(example.prompt);
    for (const auto& choice : example.choices) add(choice);
  }
  return fmt::format("{:016x}", state);
}

constexpr std::string_view kSciqRow =
    R"({"question":"q","support":"s","distractor1":"a","distractor2":"b","distractor3":"c","correct_answer":"d"})";

}  // namespace

TEST_CASE("tasks: prompts, choices and answers are lm-evaluation-harness's") {
  const auto golden = golden_prompts();
  for (const bool as_array : {false, true}) {
    check_golden(Sciq{}, golden.at("sciq"), as_array);
    check_golden(Choices{}, golden.at("choices"), as_array);
    check_golden(Pairs{TemplateText("Question: {question}\\nAnswer:"), TemplateText("{reply}")},
                 golden.at("pairs"), as_array);
  }
}

TEST_CASE("tasks: every prompt of the real data is lm-evaluation-harness's") {
  if (!support::have_data("sciq/train.json")) return;
  const auto golden = golden_prompts();
  for (const auto& [name, digest] : golden.at("digests").items()) {
    CAPTURE(name);
    if (!support::have_data(name)) continue;
    const auto task = task_named(name.starts_with("sciq") ? "sciq" : "choices");
    const auto examples = read_examples(task, support::data(name));
    CHECK(examples.size() == digest.at("rows"));
    CHECK(fnv1a(examples) == digest.at("fnv1a"));
  }
}

TEST_CASE("Sciq: accepts all 11,679 training rows, in file order") {
  if (!support::have_data("sciq/train.json")) return;
  const auto all = Sciq{}.read(support::data("sciq/train.json"));
  REQUIRE(all.size() == 11679);
  CHECK(all[0].choices ==
        std::vector<std::string>{"protozoa", "gymnosperms", "viruses", "mesophilic organisms"});
  const auto some = Sciq{}.read(support::data("sciq/train.json"), {.skip = 11000, .limit = 100});
  REQUIRE(some.size() == 100);
  CHECK(some.front().number == 11000);
  CHECK(some.back().prompt == all[11099].prompt);
  CHECK(some.back().number == 11099);
}

TEST_CASE("tasks: a bad row is named by file, place and field") {
  const std::string good(kSciqRow);
  CHECK(complaint(Sciq{}, "[" + good + ",\n\n {\"question\":\"q\"}]") ==
        "rows.json: element 2 (line 3): field 'support' is missing; the row has 'question'");
  CHECK(complaint(Sciq{}, "[" + good + ",\n{\"support\":7}]") ==
        "rows.json: element 2 (line 2): field 'support' is a JSON number, but a string is needed");
  CHECK(complaint(Sciq{}, good + "\n\n{}") ==
        "rows.json: line 3: field 'support' is missing; the row has no fields");
  CHECK(complaint(Sciq{}, "[1]") ==
        "rows.json: element 1 (line 1): a row is a JSON object, but here stands a JSON number");

  const auto row = [](std::string_view fields) { return fmt::format("{{\"question\":\"q\",{}}}", fields); };
  CHECK(complaint(Choices{}, row(R"("choices":["a","b"],"answer":2)")) ==
        "rows.json: line 1: field 'answer' is 2, but there are 2 choices, numbered from 0");
  CHECK(complaint(Choices{}, row(R"("choices":["a","b"],"answer":-1)")).find("'answer' is -1") !=
        std::string::npos);
  CHECK(complaint(Choices{}, row(R"("choices":["a","b"],"answer":18446744073709551615)"))
            .find("is 18446744073709551615,") != std::string::npos);
  CHECK(complaint(Choices{}, row(R"("choices":["a","b"],"answer":1e30)")) ==
        "rows.json: line 1: field 'answer' is a JSON fraction, but a whole number is needed");
  CHECK(complaint(Choices{}, row(R"("choices":["a","b"],"answer":"1")")) ==
        "rows.json: line 1: field 'answer' is a JSON string, but a whole number is needed");
  CHECK(complaint(Choices{}, row(R"("choices":"a","answer":0)")) ==
        "rows.json: line 1: field 'choices' is a JSON string, but a list of strings is needed");
  CHECK(complaint(Choices{}, row(R"("choices":["a",null],"answer":0)")) ==
        "rows.json: line 1: field 'choices[1]' is a JSON null, but a string is needed");
  CHECK(complaint(Choices{}, row(R"("choices":[],"answer":0)")) ==
        "rows.json: line 1: field 'choices' is an empty list, but at least one string is needed");
  CHECK(complaint(Choices{}, row(R"("choices":["a"],"answer":0,"context":[])")).find("'context'") !=
        std::string::npos);
  CHECK(complaint(Pairs{TemplateText("{a}{b}")}, R"({"a":"x","completion":"y"})") ==
        "rows.json: line 1: field 'b' is missing; the row has 'a', 'completion'");
  CHECK(complaint(Pairs{}, R"({"prompt":true,"completion":"y"})") ==
        "rows.json: line 1: field 'prompt' is a JSON boolean, but a string is needed");
}

TEST_CASE("tasks: broken JSON and invalid UTF-8 are named by their place") {
  CHECK(complaint(Pairs{}, "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":\n")
            .starts_with("rows.json: line 2: the row is not valid JSON: "));
  CHECK(complaint(Pairs{}, "{\"prompt\":\"a\xff\"}") ==
        "rows.json: line 1: invalid UTF-8 at byte 13 of the row");
  CHECK(complaint(Pairs{}, "[{\"prompt\":\"a\"\n,\n\"b\":\"\xc3\"}]") ==
        "rows.json: element 1 (line 1): invalid UTF-8 at byte 22 of the row");
  CHECK(complaint(Text{}, "fine\nnot \xed\xa0\x80 fine\n") ==
        "rows.json: line 2: invalid UTF-8 at byte 5 of the line");
  const std::string good(kSciqRow);
  for (const auto& text :
       std::vector<std::string>{"[" + good, "[" + good + ",", "[", "[" + good + "\n,\"x", "[\"\\"})
    CHECK(complaint(Sciq{}, text).find("the file ends within the array") != std::string::npos);
  CHECK(complaint(Sciq{}, "[" + good + ",]").find("element 2 (line 1): broken JSON") != std::string::npos);
  CHECK(complaint(Sciq{}, "[," + good + "]").find("element 1 (line 1): broken JSON") != std::string::npos);
  CHECK(complaint(Sciq{}, "[" + good + "]\n[]").find("line 2: broken JSON: something follows") !=
        std::string::npos);
  CHECK(complaint(Sciq{}, "[" + good + "}]").find("broken JSON") != std::string::npos);
  CHECK(complaint(Sciq{}, std::string(100000, '[')).find("element 1") != std::string::npos);
  CHECK(complaint(Pairs{}, "{\"a\":" + std::string(100000, '[')).find("deeper than 64") != std::string::npos);
  CHECK(complaint(Pairs{}, "[" + std::string(1000, '[') + std::string(1001, ']')).find("deeper than 64") !=
        std::string::npos);
}

TEST_CASE("tasks: an empty or missing file, and a range that leaves nothing") {
  for (const char* text : {"", " \n\t\r\n", "\xef\xbb\xbf", "[]", " [ \n ] "})
    for (const auto* name : {"sciq", "choices", "pairs"}) {
      CAPTURE(text);
      const support::TemporaryFolder folder;
      support::write_file(folder / "rows.json", text);
      const auto message = support::message_of<ProtocolError>(
          [&] { (void)read_examples(task_named(name), folder / "rows.json"); });
      CHECK(message.find("rows.json is empty") != std::string::npos);
    }
  CHECK_THROWS_AS((void)read(Text{}, ""), ProtocolError);
  const support::TemporaryFolder folder;
  CHECK(support::message_of<ArgumentError>([&] {
          (void)Sciq{}.read(folder / "none.json");
        }).find("does not exist") != std::string::npos);
  CHECK(support::message_of<ArgumentError>([&] { (void)Sciq{}.read(folder.path()); }).find("is a folder") !=
        std::string::npos);
  const std::string one(kSciqRow);
  CHECK(support::message_of<ArgumentError>([&] {
          (void)read(Sciq{}, one, {.skip = 1});
        }).find("has only 1") != std::string::npos);
  CHECK_THROWS_AS((void)read(Sciq{}, one, {.skip = -1}), ArgumentError);
  CHECK_THROWS_AS((void)read(Sciq{}, one, {.limit = 0}), ArgumentError);
  CHECK_THROWS_AS((void)read(Text{}, "a\n", {.skip = 1}), ArgumentError);
}

TEST_CASE("read_rows: JSON lines with blank lines, carriage returns, a byte order mark, no last line break") {
  const auto examples = read(Pairs{},
                             "\xef\xbb\xbf\n{\"prompt\":\"a\",\"completion\":\"b\"}\r\n "
                             "\r\n{\"prompt\":\"c\",\"completion\":\"d\"}");
  REQUIRE(examples.size() == 2);
  CHECK(examples[1].prompt == "c");
  CHECK(examples[1].number == 1);
}

TEST_CASE("read_rows: rows outside the range are passed over unread") {
  const std::string text = "{broken}\n{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":\"c\"}\n";
  const auto examples = read(Pairs{}, text, {.skip = 1, .limit = 1});
  REQUIRE(examples.size() == 1);
  CHECK(examples[0].number == 1);
  CHECK(complaint(Pairs{}, text, {.skip = 2}).starts_with("rows.json: line 3"));
}

TEST_CASE("read_rows: strings in an array may hold brackets, quotes and escapes") {
  const auto examples =
      read(Pairs{}, R"([{"prompt":"]},{[\"\\","completion":"x"} , {"prompt":"\u00e9","completion":"y"}])");
  REQUIRE(examples.size() == 2);
  CHECK(examples[0].prompt == "]},{[\"\\");
  CHECK(examples[1].prompt == "é");
}

TEST_CASE("read_rows: brackets inside a string are no nesting, also after an escaped quote") {
  const std::string brackets(100, '[');
  const auto examples = read(Pairs{}, R"({"prompt":"\\\"{)" + brackets + R"(","completion":"x"})");
  CHECK(examples.at(0).prompt == "\\\"{" + brackets);
}

TEST_CASE("Pairs: one space joins prompt and completion, unless white space is there") {
  const auto joined = [](std::string_view prompt, std::string_view completion) {
    const auto row = Json::object({{"prompt", prompt}, {"completion", completion}});
    return read(Pairs{}, row.dump()).at(0).continuation();
  };
  CHECK(joined("Q:", "a") == " a");
  CHECK(joined("Q:\n", "a") == "a");
  CHECK(joined("Q: ", "a") == "a");
  CHECK(joined("Q:", " a") == " a");
  CHECK(joined("Q:", "\na") == "\na");
  CHECK(joined("", "a") == "a");
  CHECK(joined("Q:", "") == " ");
}

TEST_CASE("TemplateText: fields, braces, escapes and mistakes") {
  const auto filled = [](std::string_view text) {
    return TemplateText(text).fill([](const std::string& name) { return "<" + name + ">"; });
  };
  CHECK(filled("") == "");
  CHECK(filled("a {b} {c d}") == "a <b> <c d>");
  CHECK(filled("{{b}} {a}}}") == "{b} <a>}");
  CHECK(filled("{{{a}}}") == "{<a>}");
  CHECK(filled("x\\ny\\tz\\\\n\\q\\") == "x\ny\tz\\n\\q\\");
  for (const char* text : {"{", "a}", "{a", "{a{b}}", "{}"})
    CHECK_THROWS_AS(TemplateText{text}, ArgumentError);
}

TEST_CASE("Text: joins the lines of its range and keeps every byte") {
  const std::string text = "one\r\n\ntwo é\nthree";
  CHECK(read(Text{}, text).at(0).completion == text);
  CHECK(read(Text{}, text, {.skip = 1}).at(0).completion == "\ntwo é\nthree");
  CHECK(read(Text{}, text, {.skip = 1, .limit = 2}).at(0).completion == "\ntwo é\n");
  CHECK(read(Text{}, text, {.skip = 3, .limit = 9}).at(0).completion == "three");
  CHECK(read(Text{}, text, {.limit = 1}).at(0).completion == "one\r\n");
}

TEST_CASE("AnyTask: found by name, complains with the names there are") {
  for (const auto* name : {"sciq", "choices", "pairs", "text"}) CHECK(name_of(task_named(name)) == name);
  CHECK(scoring_of(task_named("pairs")) == Scoring::kCompletion);
  CHECK(support::message_of<ArgumentError>([] { (void)task_named("sicq"); }) ==
        "there is no task 'sicq'; the tasks are sciq, choices, pairs, text");
  CHECK_THROWS_AS((void)task_named("sciq", {.prompt_template = "{a}", .completion_template = {}}),
                  ArgumentError);
  const auto task = task_named("pairs", {.prompt_template = "<{n}>", .completion_template = "{{{x}}}"});
  const auto example = read(std::get<Pairs>(task), R"({"n":1.5,"x":-2})").at(0);
  CHECK(example.prompt == "<1.5>");
  CHECK(example.completion == " {-2}");
}

}  // namespace tasks_test
