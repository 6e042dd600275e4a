// Teaches: channels. Three stages run side by side and hand their work on; each waits where the next is slow, and ends
// when the one before it has closed its channel and nothing is left in it. When a stage fails, the nursery stops all.
//
// Try it:  build/test/examples/pipeline
//
// OUTPUT
//   10 words
//   nothing is counted: line 2 is empty

#include <coir/coir.hpp>

#include <cstddef>
#include <cstdio>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

using lines = std::vector<std::string>;

// README: pipeline
coir::task<> read(const lines& all, coir::channel<std::string>& out) {
  for (const std::string& line : all) co_await out.send(line);  // waits while it is full
  out.close();
}

coir::task<> count(coir::channel<std::string>& in, coir::channel<std::size_t>& out) {
  int number = 1;
  while (auto line = co_await in.receive()) {  // empty: closed, and nothing left
    std::istringstream text(*line);
    std::size_t words = 0;
    for (std::string word; text >> word;) ++words;
    if (words == 0) throw std::runtime_error("line " + std::to_string(number) + " is empty");
    co_await out.send(words);
    ++number;
  }
  out.close();
}

coir::task<std::size_t> count_words(const lines& all) {
  coir::channel<std::string> texts(8);
  coir::channel<std::size_t> counts;  // from hand to hand
  std::size_t sum = 0;
  auto stages = [&](coir::nursery& n) -> coir::task<> {
    n.spawn(read(all, texts));
    n.spawn(count(texts, counts));
    while (auto words = co_await counts.receive()) sum += *words;
  };
  co_await coir::with_nursery(stages);
  co_return sum;
}
// README end

coir::task<int> count_twice() {
  lines all;
  for (const char* line : {"once upon a time", "there was", "a channel between fibers"}) all.emplace_back(line);
  const std::size_t sum = co_await count_words(all);
  std::printf("%zu words\n", sum);

  all[1].clear();
  try {
    co_await count_words(all);
  } catch (const std::runtime_error& error) {
    std::printf("nothing is counted: %s\n", error.what());
  }
  co_return 0;
}

int main() { return coir::run(count_twice()); }
