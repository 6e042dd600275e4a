// The command line of every C++ program in bench/: `--name VALUE` options and `--name` flags.
//
// Reading is by asking: each program asks for what it knows, then calls finish(), which refuses
// whatever nobody asked for, so that a mistyped option never silently measures the default.
#pragma once

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

class command_line {
 public:
  command_line(int argc, char** argv) : program_(argv[0]), words_(argv + 1, argv + argc) {}

  // `--name VALUE` as a number of type Number within [least, most], or `otherwise` when absent.
  template <class Number>
  Number number(std::string_view name, Number otherwise, Number least, Number most) {
    const std::string text = value(name);
    if (text.empty()) {
      return otherwise;
    }
    Number result{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), result);
    if (error != std::errc{} || end != text.data() + text.size() || result < least ||
        result > most) {
      refuse(std::string(name) + " wants a number from " + std::to_string(least) + " to " +
             std::to_string(most) + ", not '" + text + "'");
    }
    return result;
  }

  // `--name VALUE` as one of the words, of which the first is what an absent option means.
  std::string choice(std::string_view name, std::initializer_list<std::string_view> allowed) {
    const std::string text = value(name);
    if (text.empty()) {
      return std::string(*allowed.begin());
    }
    std::string list;
    for (const std::string_view word : allowed) {
      if (word == text) {
        return text;
      }
      list += (list.empty() ? "" : ", ") + std::string(word);
    }
    refuse(std::string(name) + " wants one of " + list + ", not '" + text + "'");
  }

  bool flag(std::string_view name) {
    for (auto word = words_.begin(); word != words_.end(); ++word) {
      if (*word == name) {
        words_.erase(word);
        return true;
      }
    }
    return false;
  }

  // The next word that is not an option; ask only after all options were asked for.
  std::string word(std::string_view meaning) {
    if (words_.empty()) {
      refuse("wants " + std::string(meaning));
    }
    const std::string first(words_.front());
    words_.erase(words_.begin());
    return first;
  }

  void finish() const {
    if (!words_.empty()) {
      refuse("does not know '" + std::string(words_.front()) + "'");
    }
  }

  [[noreturn]] void refuse(const std::string& reason) const {
    std::fprintf(stderr, "%s: %s\n", program_.c_str(), reason.c_str());
    std::exit(2);
  }

 private:
  std::string value(std::string_view name) {
    for (auto word = words_.begin(); word != words_.end(); ++word) {
      if (*word != name) {
        continue;
      }
      if (word + 1 == words_.end()) {
        refuse(std::string(name) + " wants a value");
      }
      const std::string text(*(word + 1));
      words_.erase(word, word + 2);
      return text;
    }
    return {};
  }

  std::string program_;
  std::vector<std::string_view> words_;
};
