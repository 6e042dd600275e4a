// The guard against gcc 12, which destroys what a temporary lambda captured twice.
#include <coir/coir.hpp>

#include <string>

coir::task<> borrows(std::string text);

coir::task<> borrows(std::string text) {
  auto named = [text] { return text.size(); };
  co_await coir::on_stack(named);
  const auto constant = [text] { return text.size(); };
  co_await coir::on_stack(constant);
  // References, pointers and numbers may be captured anywhere.
  std::size_t number = 7;
  co_await coir::on_stack([&text, number]() mutable { return text.size() + ++number; });

  // WRONG 1, gcc before 13: Name the function first: auto fn = [...] {...}; co_await coir::on_stack(fn);
#if WRONG == 1
  co_await coir::on_stack([text] { return text.size(); });
#endif

  // WRONG 2, gcc before 13: Name the function first
#if WRONG == 2
  co_await coir::on_stack(std::move(named));
#endif
}
