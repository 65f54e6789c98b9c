#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "offsite/core/error.hpp"

namespace offsite {

/// A text with fields to fill in: `Question: {question}\nAnswer:`. `{{` and `}}` stand for braces; since
/// templates come from command lines, `\n`, `\t` and `\\` may be written for a line break, a tab and a
/// backslash.
class TemplateText {
 public:
  /// \throws ArgumentError for a brace without its partner or a field without a name.
  explicit TemplateText(std::string_view source) {
    parts_.emplace_back();
    for (std::size_t i = 0; i < source.size(); ++i) {
      const char c = source[i];
      const char following = i + 1 < source.size() ? source[i + 1] : '\0';
      if ((c == '{' || c == '}') && following == c) {
        parts_.back().text += source[i++];
      } else if (c == '{') {
        const auto end = source.find_first_of("{}", i + 1);
        require(end != std::string_view::npos && source[end] == '}',
                "the template '{}' opens a brace at character {} that is not closed; write {{{{ for the "
                "brace itself",
                source, i + 1);
        require(end > i + 1, "the template '{}' has a field without a name at character {}", source, i + 1);
        parts_.back().field = std::string(source.substr(i + 1, end - i - 1));
        parts_.emplace_back();
        i = end;
      } else if (c == '}') {
        throw ArgumentError(
            formatted("the template '{}' closes a brace at character {} that was not opened; write }}}} "
                      "for the brace itself",
                      source, i + 1));
      } else if (c == '\\' && (following == 'n' || following == 't' || following == '\\')) {
        parts_.back().text += following == 'n' ? '\n' : following == 't' ? '\t' : '\\';
        ++i;
      } else {
        parts_.back().text += c;
      }
    }
  }

  /// The text with each field replaced by `value_of(name)`.
  template <class ValueOf>
  [[nodiscard]] std::string fill(const ValueOf& value_of) const {
    std::string result;
    for (const auto& part : parts_) {
      result += part.text;
      if (!part.field.empty()) result += value_of(part.field);
    }
    return result;
  }

 private:
  struct Part {
    std::string text;
    std::string field;  ///< follows the text; empty at the end
  };
  std::vector<Part> parts_;
};

}  // namespace offsite
