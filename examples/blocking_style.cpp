// Teaches: code that blocks, called from a coroutine. A recursive parser asks for the next character
// from deep inside itself; as a coroutine, every function of it would have to be one. On a borrowed
// stack it stays as it is, and only its innermost function waits for the peer.
//
// Try it:  build/test/examples/blocking_style 7000
//          nc 127.0.0.1 7000                             and type  (1 + 2) * 3 =
//
// CLIENTS
//   1 > (1 + 2
//   2 > 6 * 7 =
//   2 < 42
//   1 > ) * 3 = 2 * (3 + (4 * 5)) =
//   1 < 9
//   1 < 46
//   1 > 1 + * =
//   1 < expected a number, not '*'
//   1 end
//
// OUTPUT
//   listening on 127.0.0.1:PORT
//   stopped

#include <coir/coir.hpp>

#include "server.hpp"

#include <stdexcept>
#include <string>
#include <utility>

class calculator {
 public:
  explicit calculator(coir::net::tcp_stream& peer) : input_(peer) {}

  // The value of what stands before the next '='.
  long equation() {
    const long value = sum();
    if (look() != '=') throw std::invalid_argument("expected '=', not " + quoted(look()));
    skip();
    return value;
  }
  bool ended() { return look() == end; }

 private:
  static constexpr char end = '\0';
  static constexpr int depth_max = 100;
  [[noreturn]] static void too_large() { throw std::invalid_argument("the value is too large"); }
  static std::string quoted(char c) { return c == end ? "the end" : std::string{'\'', c, '\''}; }

  long sum() {
    long value = product();
    while (look() == '+') {
      skip();
      if (__builtin_add_overflow(value, product(), &value)) too_large();
    }
    return value;
  }
  long product() {
    long value = factor();
    while (look() == '*') {
      skip();
      if (__builtin_mul_overflow(value, factor(), &value)) too_large();
    }
    return value;
  }
  long factor() {
    if (look() == '(') {
      skip();
      // Each one is a few calls deep on a small stack, and a stranger says how many there are.
      if (++depth_ > depth_max) throw std::invalid_argument("too many '('");
      const long value = sum();
      if (look() != ')') throw std::invalid_argument("expected ')', not " + quoted(look()));
      skip();
      --depth_;
      return value;
    }
    if (!is_digit(look())) throw std::invalid_argument("expected a number, not " + quoted(look()));
    long value = 0;
    for (; is_digit(look()); skip()) {
      if (__builtin_mul_overflow(value, 10, &value) ||
          __builtin_add_overflow(value, look() - '0', &value)) {
        too_large();
      }
    }
    return value;
  }

  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  // The next character that is no space: the one place that waits.
  char look() {
    for (;; skip()) {
      const auto seen = coir::await(input_.peek(1));
      if (seen.empty()) return end;
      const char c = static_cast<char>(seen.front());
      if (c != ' ' && c != '\n') return c;
    }
  }
  void skip() { input_.consume(1); }

  coir::io::buffered_reader<coir::net::tcp_stream> input_;
  int depth_ = 0;
};

coir::task<> serve(coir::net::tcp_stream peer) {
  calculator calculate(peer);
  // A function with a name: gcc 12 destroys a temporary with captures in a co_await expression twice.
  auto next_answer = [&]() -> std::string {
    if (calculate.ended()) return "";
    return std::to_string(calculate.equation()) + "\n";
  };
  std::string answer;
  try {
    while (!(answer = co_await coir::on_stack(next_answer)).empty())
      co_await coir::io::write_all(peer, answer);
  } catch (const std::invalid_argument& error) {
    answer = error.what() + std::string("\n");
  }
  co_await coir::io::write_all(peer, answer);
}

coir::task<int> listen_and_serve(coir::net::address where) {
  coir::net::tcp_listener listener(where);
  example::announce(listener);
  for (;;) {
    coir::net::tcp_stream peer = co_await listener.accept();
    coir::spawn(serve(std::move(peer)), coir::report_failure);
  }
}

int main(int argc, char** argv) {
  return example::run_server(argc, argv, [](coir::net::address where) {
    return coir::run(listen_and_serve(where));
  });
}
