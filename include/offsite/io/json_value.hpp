#pragma once
#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/utf8.hpp"

namespace offsite {

struct JsonMember;

/// One JSON value: null, true or false, a number, a text, an array or an object.
///
/// It is a value: a copy shares nothing with its source. An object keeps its members in the order they came in, so a
/// file that is read, changed and written again differs only where it was changed; finding one takes logarithmic
/// time. Whole numbers that fit std::int64_t or std::uint64_t stay exact, all others are doubles.
///
/// Why not a library's: the value most JSON libraries offer costs every file that includes it more than all
/// of our other headers together. Reading is a library's (see `parse_json`).
class Json {
 public:
  using Array = std::vector<Json>;
  using Member = JsonMember;

  Json() = default;
  Json(std::nullptr_t) {}
  Json(std::same_as<bool> auto value) : value_(value) {}
  template <std::integral T>
  requires(!std::same_as<T, bool>) Json(T value) {
    if (std::in_range<std::int64_t>(value)) {
      value_ = static_cast<std::int64_t>(value);
    } else {
      value_ = static_cast<std::uint64_t>(value);
    }
  }
  Json(std::floating_point auto value) : value_(static_cast<double>(value)) {}
  Json(std::string value) : value_(std::move(value)) {}
  Json(std::string_view value) : value_(std::string(value)) {}
  Json(const char* value) : value_(std::string(value)) {}
  /// An array of what stands in `values`, each of which a Json can be made of.
  template <class T>
  Json(const std::vector<T>& values) : value_(Array(values.begin(), values.end())) {}
  Json(Array values) : value_(std::move(values)) {}

  [[nodiscard]] static Json array(std::initializer_list<Json> values = {}) { return Array(values); }
  /// An object of these members; of two with one name the last one stays.
  [[nodiscard]] static Json object(std::initializer_list<Member> members);
  [[nodiscard]] static Json object(std::vector<Member> members = {});

  [[nodiscard]] bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  [[nodiscard]] bool is_boolean() const { return std::holds_alternative<bool>(value_); }
  [[nodiscard]] bool is_integer() const {
    return std::holds_alternative<std::int64_t>(value_) || std::holds_alternative<std::uint64_t>(value_);
  }
  [[nodiscard]] bool is_number() const { return is_integer() || std::holds_alternative<double>(value_); }
  [[nodiscard]] bool is_string() const { return std::holds_alternative<std::string>(value_); }
  [[nodiscard]] bool is_array() const { return std::holds_alternative<Array>(value_); }
  [[nodiscard]] bool is_object() const { return std::holds_alternative<Object>(value_); }

  /// "null", "boolean", "number", "string", "array" or "object".
  [[nodiscard]] std::string_view type_name() const {
    constexpr std::string_view names[] = {"null",   "boolean", "number", "number",
                                          "number", "string",  "array",  "object"};
    return names[value_.index()];
  }

  /// Elements of an array or members of an object; 0 for every other value.
  [[nodiscard]] std::size_t size() const {
    const auto* object = std::get_if<Object>(&value_);
    return object != nullptr ? object->order.size() : elements().size();
  }
  [[nodiscard]] bool empty() const { return size() == 0; }

  /// The array's elements; none if it is no array.
  [[nodiscard]] std::span<const Json> elements() const& {
    const auto* array = std::get_if<Array>(&value_);
    return array != nullptr ? std::span<const Json>(*array) : std::span<const Json>();
  }
  std::span<const Json> elements() const&& = delete;  // would dangle
  [[nodiscard]] auto begin() const& { return elements().begin(); }
  [[nodiscard]] auto end() const& { return elements().end(); }

  /// The object's members in their order; none if it is no object.
  [[nodiscard]] std::span<const Member> items() const&;
  std::span<const Member> items() const&& = delete;  // would dangle

  /// The member of that name, or null if there is none or this is no object.
  [[nodiscard]] const Json* find(std::string_view name) const&;
  const Json* find(std::string_view) const&& = delete;  // would dangle
  [[nodiscard]] bool contains(std::string_view name) const& { return find(name) != nullptr; }

  /// \throws ProtocolError if there is no such member.
  [[nodiscard]] const Json& at(std::string_view name) const& {
    const auto* found = find(name);
    require<ProtocolError>(found != nullptr, "a JSON {} has no member '{}'", type_name(), name);
    return *found;
  }
  /// \throws ProtocolError if there is no such element.
  [[nodiscard]] const Json& at(std::size_t index) const& {
    require<ProtocolError>(index < elements().size(), "element {} of a JSON {} of {} elements was asked for",
                           index, type_name(), elements().size());
    return elements()[index];
  }
  [[nodiscard]] Json at(std::string_view name) && { return std::as_const(*this).at(name); }

  /// The member of that name, made null at the end if there was none; a null value becomes an object.
  /// \throws ArgumentError if this is neither.
  Json& operator[](std::string_view name);
  /// The element at `index`. \throws ProtocolError if there is none.
  Json& operator[](std::size_t index) { return const_cast<Json&>(std::as_const(*this).at(index)); }
  [[nodiscard]] const Json& operator[](std::size_t index) const { return at(index); }

  /// Appends to an array; a null value becomes one. \throws ArgumentError if this is neither.
  void push_back(Json value) {
    if (is_null()) value_ = Array();
    require(is_array(), "an element was appended to a JSON {}, but only an array takes one", type_name());
    std::get<Array>(value_).push_back(std::move(value));
  }
  /// Takes the member of that name out, if there is one.
  void erase(std::string_view name);
  /// Sets every member of `other`, an object, here.
  void update(const Json& other);

  /// The text itself. \throws ProtocolError if this is none.
  [[nodiscard]] const std::string& text() const& {
    const auto* text = std::get_if<std::string>(&value_);
    require<ProtocolError>(text != nullptr, "a JSON {} stands where a string was expected", type_name());
    return *text;
  }
  const std::string& text() const&& = delete;  // would dangle

  /// Whether `get<T>` gives something.
  template <class T>
  [[nodiscard]] bool holds() const;
  /// This value as T: bool, a number, std::string, or std::vector of such.
  /// \throws ProtocolError if it is of another type, or a number that T cannot hold exactly (for integers).
  template <class T>
  [[nodiscard]] T get() const;
  template <class T>
  void get_to(T& value) const {
    value = get<T>();
  }

  /// Objects are equal whatever their members' order; 1 equals 1.0.
  friend bool operator==(const Json& a, const Json& b);

  /// How texts are written: kStrict refuses what is no UTF-8, kReplace puts U+FFFD for such bytes, kAscii does so too
  /// and escapes all that is not ASCII.
  enum class Text { kStrict, kReplace, kAscii };
  /// The value as text: in one line if `indent` is negative, else indented by so many blanks a level. Doubles get the
  /// fewest digits that give them back; NaN and infinity, which JSON does not know, become null.
  /// \throws ArgumentError if a text is not UTF-8 and `mode` is kStrict.
  [[nodiscard]] std::string dump(int indent = -1, Text mode = Text::kStrict) const {
    std::string out;
    dump_to(out, indent, 0, mode);
    return out;
  }

 private:
  struct Object {
    std::vector<Member> members;       // in the order they came in
    std::vector<std::uint32_t> order;  // indices into members, sorted by name

    /// The first place in `order` whose name is not before `name`.
    [[nodiscard]] std::size_t place(std::string_view name) const;
    [[nodiscard]] bool names(std::size_t place, std::string_view name) const;
  };
  std::variant<std::monostate, bool, std::int64_t, std::uint64_t, double, std::string, Array, Object> value_;

  void dump_to(std::string& out, int indent, int level, Text mode) const;
  static void quote(std::string& out, std::string_view text, Text mode);
};

/// A named value in a JSON object.
struct JsonMember {
  std::string name;
  Json value;
};

inline std::size_t Json::Object::place(std::string_view name) const {
  const auto before = [&](std::uint32_t i, std::string_view wanted) { return members[i].name < wanted; };
  return static_cast<std::size_t>(std::lower_bound(order.begin(), order.end(), name, before) - order.begin());
}

inline bool Json::Object::names(std::size_t place, std::string_view name) const {
  return place < order.size() && members[order[place]].name == name;
}

inline Json Json::object(std::initializer_list<Member> members) {
  return object(std::vector<Member>(members));
}

inline std::span<const Json::Member> Json::items() const& {
  const auto* object = std::get_if<Object>(&value_);
  return object != nullptr ? std::span<const Member>(object->members) : std::span<const Member>();
}

inline const Json* Json::find(std::string_view name) const& {
  const auto* object = std::get_if<Object>(&value_);
  if (object == nullptr) return nullptr;
  const auto place = object->place(name);
  return object->names(place, name) ? &object->members[object->order[place]].value : nullptr;
}

inline void Json::update(const Json& other) {
  for (const auto& [name, value] : other.items()) (*this)[name] = value;
}

inline Json Json::object(std::vector<Member> members) {
  Object object{std::move(members), {}};
  auto& order = object.order;
  order.resize(object.members.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto name = [&](std::uint32_t i) -> const std::string& { return object.members[i].name; };
  std::sort(order.begin(), order.end(), [&](auto i, auto j) {
    const int order_of_names = name(i).compare(name(j));
    return order_of_names != 0 ? order_of_names < 0 : i > j;
  });
  const auto same = [&](auto i, auto j) { return name(i) == name(j); };
  if (std::adjacent_find(order.begin(), order.end(), same) != order.end()) {
    order.erase(std::unique(order.begin(), order.end(), same), order.end());
    std::sort(order.begin(), order.end());
    std::vector<Member> kept;
    for (const auto i : order) kept.push_back(std::move(object.members[i]));
    return Json::object(std::move(kept));
  }
  Json result;
  result.value_ = std::move(object);
  return result;
}

inline Json& Json::operator[](std::string_view name) {
  if (is_null()) value_ = Object();
  require(is_object(), "the member '{}' of a JSON {} was asked for, but only an object has members", name,
          type_name());
  auto& object = std::get<Object>(value_);
  const auto place = object.place(name);
  if (!object.names(place, name)) {
    object.order.insert(object.order.begin() + static_cast<std::ptrdiff_t>(place),
                        static_cast<std::uint32_t>(object.members.size()));
    object.members.push_back({std::string(name), Json()});
  }
  return object.members[object.order[place]].value;
}

inline void Json::erase(std::string_view name) {
  auto* object = std::get_if<Object>(&value_);
  if (object == nullptr) return;
  auto members = std::move(object->members);
  std::erase_if(members, [&](const Member& member) { return member.name == name; });
  *this = Json::object(std::move(members));
}

template <class T>
bool Json::holds() const {
  if constexpr (std::same_as<T, bool>) {
    return is_boolean();
  } else if constexpr (std::integral<T>) {
    if (const auto* n = std::get_if<std::int64_t>(&value_)) return std::in_range<T>(*n);
    const auto* n = std::get_if<std::uint64_t>(&value_);
    return n != nullptr && std::in_range<T>(*n);
  } else if constexpr (std::floating_point<T>) {
    return is_number();
  } else if constexpr (std::same_as<T, std::string>) {
    return is_string();
  } else {
    const auto all = elements();
    return is_array() && std::all_of(all.begin(), all.end(), [](const Json& element) {
             return element.holds<typename T::value_type>();
           });
  }
}

template <class T>
T Json::get() const {
  require<ProtocolError>(holds<T>(), "a JSON {} stands where another type was expected: {}", type_name(),
                         dump(-1, Text::kAscii).substr(0, 60));
  if constexpr (std::same_as<T, bool>) {
    return std::get<bool>(value_);
  } else if constexpr (std::is_arithmetic_v<T>) {
    if (const auto* n = std::get_if<std::int64_t>(&value_)) return static_cast<T>(*n);
    if (const auto* n = std::get_if<std::uint64_t>(&value_)) return static_cast<T>(*n);
    return static_cast<T>(std::get<double>(value_));
  } else if constexpr (std::same_as<T, std::string>) {
    return std::get<std::string>(value_);
  } else {
    T values;
    for (const Json& element : elements()) values.push_back(element.get<typename T::value_type>());
    return values;
  }
}

inline bool operator==(const Json& a, const Json& b) {
  const auto same = [&]<class T>(std::type_identity<T>) {
    const T* of_a = std::get_if<T>(&a.value_);
    const T* of_b = std::get_if<T>(&b.value_);
    return of_a != nullptr && of_b != nullptr && *of_a == *of_b;
  };
  if (a.is_number() && b.is_number()) {
    if (a.is_integer() != b.is_integer()) return a.get<double>() == b.get<double>();
    // An integer has one form only: std::int64_t if it fits, else std::uint64_t.
    return same(std::type_identity<std::int64_t>{}) || same(std::type_identity<std::uint64_t>{}) ||
           same(std::type_identity<double>{});
  }
  if (a.value_.index() != b.value_.index() || a.size() != b.size()) return false;
  if (a.is_object()) {
    const auto members = a.items();
    return std::all_of(members.begin(), members.end(), [&](const Json::Member& member) {
      const auto* other = b.find(member.name);
      return other != nullptr && *other == member.value;
    });
  }
  if (a.is_array()) return std::equal(a.begin(), a.end(), b.begin());
  return a.is_null() || same(std::type_identity<bool>{}) || same(std::type_identity<std::string>{});
}

inline void Json::quote(std::string& out, std::string_view text, Text mode) {
  constexpr std::string_view kLetters = "\"\\\b\f\n\r\t", kEscapes = "\"\\bfnrt";
  const auto escape = [&](std::uint32_t unit) { out += fmt::format("\\u{:04x}", unit); };
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
  const auto line = [&](int depth) {
    if (indent < 0) return;
    out += '\n';
    out.append(static_cast<std::size_t>(indent * depth), ' ');
  };
  const auto list = [&](char open, char close, const auto& parts, auto&& write) {
    out += open;
    bool first = true;
    for (const auto& part : parts) {
      if (!std::exchange(first, false)) out += ',';
      line(level + 1);
      write(part);
    }
    if (!first) line(level);
    out += close;
  };
  if (is_null()) {
    out += "null";
  } else if (is_boolean()) {
    out += get<bool>() ? "true" : "false";
  } else if (const auto* whole = std::get_if<std::int64_t>(&value_)) {
    out += fmt::format("{}", *whole);
  } else if (const auto* natural = std::get_if<std::uint64_t>(&value_)) {
    out += fmt::format("{}", *natural);
  } else if (const auto* real = std::get_if<double>(&value_)) {
    const auto text = std::isfinite(*real) ? fmt::format("{}", *real) : "null";
    const bool looks_whole = text.find_first_not_of("-0123456789") == text.npos;
    out += looks_whole ? text + ".0" : text;
  } else if (const auto* text = std::get_if<std::string>(&value_)) {
    quote(out, *text, mode);
  } else if (is_array()) {
    list('[', ']', elements(), [&](const Json& element) { element.dump_to(out, indent, level + 1, mode); });
  } else {
    list('{', '}', items(), [&](const Member& member) {
      quote(out, member.name, mode);
      out += indent < 0 ? ":" : ": ";
      member.value.dump_to(out, indent, level + 1, mode);
    });
  }
}

}  // namespace offsite
