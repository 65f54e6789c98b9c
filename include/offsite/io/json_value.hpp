#pragma once
#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/utf8.hpp"

namespace offsite {

struct JsonMember;

/// One JSON value: null, true or false, a number, a text, an array or an object.
///
/// It is a value: a copy shares nothing with its source. An object keeps its members in the order they came
/// in, so a file that is read, changed and written again differs only where it was changed; finding one takes
/// logarithmic time. Whole numbers that fit std::int64_t or std::uint64_t stay exact, all others are doubles.
///
/// Why not a library's: the values that JSON libraries offer cost every file that includes them more compile
/// time than all of our other headers. Reading is a library's (see `parse_json`).
class Json {
 public:
  Json() = default;
  Json(std::nullptr_t) {}
  Json(std::same_as<bool> auto value) : kind_(Kind::kBoolean), whole_(value ? 1 : 0) {}
  template <std::integral T>
  requires(!std::same_as<T, bool>) Json(T value)
      : kind_(std::in_range<std::int64_t>(value) ? Kind::kInteger : Kind::kNatural),
        whole_(static_cast<std::uint64_t>(value)) {}
  Json(std::floating_point auto value) : kind_(Kind::kReal), real_(static_cast<double>(value)) {}
  Json(std::string value) : kind_(Kind::kString), text_(std::move(value)) {}
  Json(std::string_view value) : Json(std::string(value)) {}
  Json(const char* value) : Json(std::string(value)) {}
  template <std::same_as<Json> T>  // a template, so that braces, which could mean an object, make no array
  Json(std::vector<T> values) : kind_(Kind::kArray), values_(std::move(values)) {}
  /// An array of what stands in `values`, each of which a Json can be made of.
  template <class T>
    requires(!std::same_as<T, Json>)
  Json(const std::vector<T>& values) : kind_(Kind::kArray) {
    for (const auto& value : values) values_.push_back(value);
  }

  [[nodiscard]] static Json array(std::initializer_list<Json> values = {}) {
    return std::vector<Json>(values);
  }
  /// An object of these members; of two with one name the last one stays.
  [[nodiscard]] static Json object(std::initializer_list<JsonMember> members);
  [[nodiscard]] static Json object() { return object(std::vector<std::string>{}, {}); }
  /// The same from names and as many values.
  [[nodiscard]] static Json object(std::vector<std::string> names, std::vector<Json> values);

  [[nodiscard]] bool is_null() const { return kind_ == Kind::kNull; }
  [[nodiscard]] bool is_boolean() const { return kind_ == Kind::kBoolean; }
  [[nodiscard]] bool is_integer() const { return kind_ == Kind::kInteger || kind_ == Kind::kNatural; }
  [[nodiscard]] bool is_number() const { return is_integer() || kind_ == Kind::kReal; }
  [[nodiscard]] bool is_string() const { return kind_ == Kind::kString; }
  [[nodiscard]] bool is_array() const { return kind_ == Kind::kArray; }
  [[nodiscard]] bool is_object() const { return kind_ == Kind::kObject; }

  /// "null", "boolean", "number", "string", "array" or "object".
  [[nodiscard]] std::string_view type_name() const {
    constexpr std::string_view kNames[] = {"null",   "boolean", "number", "number",
                                           "number", "string",  "array",  "object"};
    return kNames[static_cast<std::size_t>(kind_)];
  }

  /// Elements of an array or members of an object; 0 for every other value.
  [[nodiscard]] std::size_t size() const { return values_.size(); }
  [[nodiscard]] bool empty() const { return values_.empty(); }

  /// The elements of an array, or the members' values of an object in their order; else none.
  [[nodiscard]] const Json* begin() const& { return values_.data(); }
  [[nodiscard]] const Json* end() const& { return values_.data() + values_.size(); }
  const Json* begin() const&& = delete;  // would dangle

  /// The object's members in their order, as pairs `[name, value]`; none if it is no object.
  class Members;
  [[nodiscard]] Members items() const&;
  Members items() const&& = delete;  // would dangle

  /// The member of that name, or null if there is none or this is no object.
  [[nodiscard]] const Json* find(std::string_view name) const& {
    const auto place = place_of(name);
    return names(place, name) ? &values_[order_[place]] : nullptr;
  }
  const Json* find(std::string_view) const&& = delete;  // would dangle
  [[nodiscard]] bool contains(std::string_view name) const { return names(place_of(name), name); }

  /// \throws ProtocolError if there is no such member.
  [[nodiscard]] const Json& at(std::string_view name) const& {
    const auto* found = find(name);
    require<ProtocolError>(found != nullptr, "a JSON {} has no member '{}'", type_name(), name);
    return *found;
  }
  [[nodiscard]] Json at(std::string_view name) && { return std::as_const(*this).at(name); }
  /// \throws ProtocolError if there is no such element.
  [[nodiscard]] const Json& at(std::size_t index) const& {
    require<ProtocolError>(index < values_.size(), "element {} of a JSON {} of {} elements was asked for",
                           index, type_name(), values_.size());
    return values_[index];
  }
  template <std::integral Index>
  [[nodiscard]] const Json& operator[](Index index) const& {
    return at(static_cast<std::size_t>(index));
  }
  template <std::integral Index>
  [[nodiscard]] Json& operator[](Index index) & {
    return const_cast<Json&>(std::as_const(*this)[index]);
  }

  /// The member of that name, made null at the end if there was none; a null value becomes an object.
  /// \throws ArgumentError if this is neither.
  Json& operator[](std::string_view name) &;

  /// Appends to an array; a null value becomes one. \throws ArgumentError if this is neither.
  void push_back(Json value) {
    if (is_null()) kind_ = Kind::kArray;
    require(is_array(), "an element was appended to a JSON {}, but only an array takes one", type_name());
    values_.push_back(std::move(value));
  }
  /// Takes the member of that name out, if there is one.
  void erase(std::string_view name);
  /// Sets every member of `other`, an object, here.
  void update(const Json& other);

  /// The text itself. \throws ProtocolError if this is none.
  [[nodiscard]] const std::string& text() const& {
    require<ProtocolError>(is_string(), "a JSON {} stands where a string was expected", type_name());
    return text_;
  }
  const std::string& text() const&& = delete;  // would dangle

  /// Whether `get<T>` gives something.
  template <class T>
  [[nodiscard]] bool holds() const;
  /// This value as T: bool, a number, std::string, or std::vector of such.
  /// \throws ProtocolError if it is of another type, or no integer that T, an integer type, can hold.
  template <class T>
  [[nodiscard]] T get() const;
  template <class T>
  void get_to(T& value) const {
    value = get<T>();
  }

  /// Objects are equal whatever their members' order; 1 equals 1.0.
  friend bool operator==(const Json& a, const Json& b);

  /// How texts are written: kStrict refuses what is no UTF-8, kReplace puts U+FFFD for such bytes, kAscii
  /// does so too and escapes all that is not ASCII.
  enum class Text { kStrict, kReplace, kAscii };
  /// The value as text: in one line if `indent` is negative, else indented by so many blanks a level. Doubles
  /// get the fewest digits that give them back; NaN and infinity, which JSON does not know, become null.
  /// \throws ArgumentError if a text is not UTF-8 and `mode` is kStrict.
  [[nodiscard]] std::string dump(int indent = -1, Text mode = Text::kStrict) const {
    std::string out;
    dump_to(out, indent, 0, mode);
    return out;
  }

 private:
  enum class Kind : std::uint8_t { kNull, kBoolean, kInteger, kNatural, kReal, kString, kArray, kObject };

  /// The first place in `order_` whose name is not before `name`.
  [[nodiscard]] std::size_t place_of(std::string_view name) const;
  [[nodiscard]] bool names(std::size_t place, std::string_view name) const {
    return place < order_.size() && names_[order_[place]] == name;
  }
  void dump_to(std::string& out, int indent, int level, Text mode) const;
  static void quote(std::string& out, std::string_view text, Text mode);

  Kind kind_ = Kind::kNull;
  std::uint64_t whole_ = 0;  // kInteger in two's complement: an integer that fits both types is always that
  double real_ = 0;
  std::string text_;
  std::vector<Json> values_;          // of an array or an object
  std::vector<std::string> names_;    // of the object's values
  std::vector<std::uint32_t> order_;  // indices into names_, sorted by name
};

/// A named value, to make an object of.
struct JsonMember {
  std::string name;
  Json value;
};

/// The members of an object, for a loop `for (const auto& [name, value] : json.items())`.
class Json::Members {
 public:
  struct Member {
    const std::string& name;
    const Json& value;
  };
  class Iterator {
   public:
    Iterator(const Json& json, std::size_t i) : json_(&json), i_(i) {}
    Member operator*() const { return {json_->names_[i_], json_->values_[i_]}; }
    Iterator& operator++() {
      ++i_;
      return *this;
    }
    bool operator!=(const Iterator& other) const { return i_ != other.i_; }

   private:
    const Json* json_;
    std::size_t i_;
  };
  explicit Members(const Json& json) : json_(json) {}
  [[nodiscard]] Iterator begin() const { return {json_, 0}; }
  [[nodiscard]] Iterator end() const { return {json_, json_.names_.size()}; }

 private:
  const Json& json_;
};

inline Json::Members Json::items() const& { return Members(*this); }

inline std::size_t Json::place_of(std::string_view name) const {
  const auto before = [&](std::uint32_t i, std::string_view wanted) { return names_[i] < wanted; };
  return static_cast<std::size_t>(std::lower_bound(order_.begin(), order_.end(), name, before) -
                                  order_.begin());
}

inline Json Json::object(std::vector<std::string> names, std::vector<Json> values) {
  require(names.size() == values.size(), "a JSON object was to be made of {} names and {} values",
          names.size(), values.size());
  Json made;
  made.kind_ = Kind::kObject;
  made.names_ = std::move(names);
  made.values_ = std::move(values);
  const auto count = static_cast<std::uint32_t>(made.names_.size());
  for (std::uint32_t i = 0; i < count; ++i) made.order_.push_back(i);
  const auto& all = made.names_;
  std::sort(made.order_.begin(), made.order_.end(), [&](std::uint32_t i, std::uint32_t j) {
    const int compared = all[i].compare(all[j]);
    return compared != 0 ? compared < 0 : i < j;
  });
  std::vector<bool> stays(count, true);
  bool unique = true;
  for (std::uint32_t i = 0; i + 1 < count; ++i) {
    const bool same = all[made.order_[i]] == all[made.order_[i + 1]];
    stays[made.order_[i]] = !same;
    unique = unique && !same;
  }
  if (unique) return made;
  std::vector<std::string> left_names;
  std::vector<Json> left_values;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (!stays[i]) continue;
    left_names.push_back(std::move(made.names_[i]));
    left_values.push_back(std::move(made.values_[i]));
  }
  return object(std::move(left_names), std::move(left_values));
}

inline Json Json::object(std::initializer_list<JsonMember> members) {
  std::vector<std::string> names;
  std::vector<Json> values;
  for (const auto& member : members) {
    names.push_back(member.name);
    values.push_back(member.value);
  }
  return object(std::move(names), std::move(values));
}

inline Json& Json::operator[](std::string_view name) & {
  if (is_null()) kind_ = Kind::kObject;
  require(is_object(), "the member '{}' of a JSON {} was asked for, but only an object has members", name,
          type_name());
  const auto place = place_of(name);
  if (!names(place, name)) {
    order_.insert(order_.begin() + static_cast<std::ptrdiff_t>(place),
                  static_cast<std::uint32_t>(values_.size()));
    names_.emplace_back(name);
    values_.emplace_back();
  }
  return values_[order_[place]];
}

inline void Json::erase(std::string_view name) {
  const auto place = place_of(name);
  if (!names(place, name)) return;
  const auto index = static_cast<std::ptrdiff_t>(order_[place]);
  names_.erase(names_.begin() + index);
  values_.erase(values_.begin() + index);
  *this = object(std::move(names_), std::move(values_));
}

inline void Json::update(const Json& other) {
  for (const auto& [name, value] : other.items()) (*this)[name] = value;
}

template <class T>
bool Json::holds() const {
  if constexpr (std::same_as<T, bool>) {
    return is_boolean();
  } else if constexpr (std::integral<T>) {
    return kind_ == Kind::kInteger ? std::in_range<T>(static_cast<std::int64_t>(whole_))
                                   : kind_ == Kind::kNatural && std::in_range<T>(whole_);
  } else if constexpr (std::floating_point<T>) {
    return is_number();
  } else if constexpr (std::same_as<T, std::string>) {
    return is_string();
  } else {
    if (!is_array()) return false;
    for (const Json& element : values_)
      if (!element.holds<typename T::value_type>()) return false;
    return true;
  }
}

template <class T>
T Json::get() const {
  require<ProtocolError>(holds<T>(), "a JSON {} stands where another type was expected: {}", type_name(),
                         dump(-1, Text::kAscii).substr(0, 60));
  if constexpr (std::same_as<T, bool>) {
    return whole_ != 0;
  } else if constexpr (std::is_arithmetic_v<T>) {
    return kind_ == Kind::kReal      ? static_cast<T>(real_)
           : kind_ == Kind::kInteger ? static_cast<T>(static_cast<std::int64_t>(whole_))
                                     : static_cast<T>(whole_);
  } else if constexpr (std::same_as<T, std::string>) {
    return text_;
  } else {
    T values;
    for (const Json& element : values_) values.push_back(element.get<typename T::value_type>());
    return values;
  }
}

inline bool operator==(const Json& a, const Json& b) {
  if (a.is_number() && b.is_number() && a.kind_ != b.kind_ && !(a.is_integer() && b.is_integer()))
    return a.get<double>() == b.get<double>();
  if (a.kind_ != b.kind_ || a.whole_ != b.whole_ || a.real_ != b.real_ || a.text_ != b.text_ ||
      a.size() != b.size())
    return false;
  if (!a.is_object()) return std::equal(a.begin(), a.end(), b.begin());
  for (const auto& [name, value] : a.items()) {
    const auto* other = b.find(name);
    if (other == nullptr || !(*other == value)) return false;
  }
  return true;
}

inline void Json::quote(std::string& out, std::string_view text, Text mode) {
  constexpr std::string_view kLetters = "\"\\\b\f\n\r\t", kEscapes = "\"\\bfnrt";
  const auto escape = [&](std::uint32_t unit) {
    out += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) out += "0123456789abcdef"[unit >> shift & 15];
  };
  out += '"';
  while (!text.empty()) {
    auto point = first_code_point(text);
    if (point.bytes == 0) {
      require(mode != Text::kStrict,
              "a text that is not UTF-8 cannot be written as JSON: byte {:#04x} stands in it",
              static_cast<unsigned>(static_cast<unsigned char>(text.front())));
      point = {0xfffd, 1};
      if (mode == Text::kReplace) out += "\xef\xbf\xbd";
      if (mode == Text::kAscii) escape(point.value);
    } else if (const auto i = point.bytes == 1 ? kLetters.find(text.front()) : kLetters.npos;
               i != kLetters.npos) {
      out += '\\';
      out += kEscapes[i];
    } else if (point.value < 0x20 || (mode == Text::kAscii && point.value > 0x7e)) {
      if (point.value > 0xffff) escape(0xd7c0 + (point.value >> 10));  // a surrogate pair
      escape(point.value > 0xffff ? 0xdc00 | (point.value & 0x3ff) : point.value);
    } else {
      out += text.substr(0, point.bytes);
    }
    text.remove_prefix(point.bytes);
  }
  out += '"';
}

inline void Json::dump_to(std::string& out, int indent, int level, Text mode) const {
  if (is_string()) return quote(out, text_, mode);
  if (!is_array() && !is_object()) {
    std::string text = "null";
    if (is_boolean()) text = whole_ != 0 ? "true" : "false";
    if (kind_ == Kind::kInteger) text = std::to_string(static_cast<std::int64_t>(whole_));
    if (kind_ == Kind::kNatural) text = std::to_string(whole_);
    if (kind_ == Kind::kReal && std::isfinite(real_)) {
      text = formatted("{}", real_);
      if (text.find_first_not_of("-0123456789") == text.npos) text += ".0";  // it stays a real number
    }
    out += text;
    return;
  }
  const auto line = [&](int depth) {
    if (indent < 0) return;
    out += '\n';
    out.append(static_cast<std::size_t>(indent * depth), ' ');
  };
  out += is_array() ? '[' : '{';
  for (std::size_t i = 0; i < values_.size(); ++i) {
    if (i > 0) out += ',';
    line(level + 1);
    if (is_object()) {
      quote(out, names_[i], mode);
      out += indent < 0 ? ":" : ": ";
    }
    values_[i].dump_to(out, indent, level + 1, mode);
  }
  if (!values_.empty()) line(level);
  out += is_array() ? ']' : '}';
}

}  // namespace offsite
