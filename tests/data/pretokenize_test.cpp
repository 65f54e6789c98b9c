#include "offsite/data/pretokenize.hpp"

#include <string>
#include <vector>

#include "offsite/core/random.hpp"
#include "support/test.hpp"

namespace pretokenize_test {

namespace {

using Words = std::vector<std::string>;

Words words_of(std::string_view text) {
  Words words;
  offsite::for_each_gpt2_word(text, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

}  // namespace

TEST_CASE("gpt2_word_end: contractions, words, numbers and signs") {
  CHECK(words_of("").empty());
  CHECK(words_of("Hello, world 12 3a!?") == Words{"Hello", ",", " world", " 12", " 3", "a", "!?"});
  CHECK(words_of("I'm you'll we've they're he'd it's can't") == Words{"I", "'m", " you", "'ll", " we", "'ve",
                                                                      " they", "'re", " he", "'d", " it",
                                                                      "'s", " can", "'t"});
  CHECK(words_of("'S 'l 's !'s 'sx '") ==
        Words{"'", "S", " '", "l", " '", "s", " !'", "s", " '", "sx", " '"});
  CHECK(words_of("'re'v'ved") == Words{"'re", "'", "v", "'ve", "d"});
}

TEST_CASE("gpt2_word_end: white space leaves its last character to what follows") {
  CHECK(words_of(" ") == Words{" "});
  CHECK(words_of("   a") == Words{"  ", " a"});
  CHECK(words_of("a\n\nb") == Words{"a", "\n", "\n", "b"});
  CHECK(words_of("a\nb\n \n") == Words{"a", "\n", "b", "\n \n"});
  CHECK(words_of("a \tb") == Words{"a", " ", "\t", "b"});
  CHECK(words_of("\u3000\u3000x\u00a0y") == Words{"\u3000", "\u3000", "x", "\u00a0", "y"});
  CHECK(words_of(" \u2028x") == Words{" ", "\u2028", "x"});
}

TEST_CASE("gpt2_word_end: letters and numbers of all scripts") {
  CHECK(words_of("größe книги 水と空気") == Words{"größe", " книги", " 水と空気"});
  CHECK(words_of("x²½ Ⅷ٣") == Words{"x", "²½", " Ⅷ٣"});
  CHECK(words_of("e\u0301a") == Words{"e", "\u0301", "a"});  // a mark is no letter
}

TEST_CASE("gpt2_word_end: any bytes are split into words that make them up") {
  offsite::RandomStream random(7);
  for (int round = 0; round < 2000; ++round) {
    std::string text(random.below(40), '\0');
    for (char& c : text) c = "a1 '\n\xe3\x80\xf0\xc3\xff"[random.below(10)];
    std::string joined;
    offsite::for_each_gpt2_word(text, [&](std::string_view word) {
      REQUIRE(!word.empty());
      joined += word;
    });
    CHECK(joined == text);
  }
  CHECK(words_of("a\xff\xfe!b") ==
        Words{"a", "\xff\xfe!", "b"});  // broken bytes are neither letter nor space
}

}  // namespace pretokenize_test
