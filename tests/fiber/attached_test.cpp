#include "until.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <memory>
#include <string>

using support::until;

namespace {

constexpr char first_key = 0;
constexpr char second_key = 0;

class notes final : public coir::attached {
 public:
  notes(const void* key, std::string& heard, std::string name) : attached(key), heard_(heard), name_(std::move(name)) {}
  ~notes() override { heard_ += name_ + " gone. "; }
  void fiber_over() noexcept override { heard_ += name_ + " over. "; }
  void fiber_restarted() noexcept override { heard_ += name_ + " restarted. "; }

 private:
  std::string& heard_;
  std::string name_;
};

coir::fiber_base& block_of(const coir::handle_base& of) { return const_cast<coir::fiber_base&>(of.control()); }

}  // namespace

TEST_CASE("what is attached to a fiber is found by its key, and by no other") {
  std::string heard;
  coir::run([&] {
    auto child = coir::spawn([] { coir::await(coir::sleep_for(std::chrono::hours(1))); });
    coir::fiber_base& block = block_of(child);
    CHECK(block.find_attached(&first_key) == nullptr);
    auto& first = block.attach(std::make_unique<notes>(&first_key, heard, "first"));
    CHECK(block.find_attached(&second_key) == nullptr);
    auto& second = block.attach(std::make_unique<notes>(&second_key, heard, "second"));
    CHECK(block.find_attached(&first_key) == &first);
    CHECK(block.find_attached(&second_key) == &second);
    CHECK(heard.empty());
    child.cancel();
  });
  CHECK(heard == "second over. first over. second gone. first gone. ");
}

TEST_CASE("what is attached hears of the end of the body, before that of the children, and lives with the handle") {
  std::string heard;
  coir::run([&] {
    {
      auto child = coir::spawn([] {
        coir::spawn([] { coir::with_cleanup([] {}, [] { coir::await(coir::yield()); }); });
        coir::await(coir::yield());
      });
      block_of(child).attach(std::make_unique<notes>(&first_key, heard, "it"));
      until([&] { return child.state() == coir::fiber_state::ending || support::dead(child); });
      CHECK_THAT(heard, Catch::Matchers::StartsWith("it over. "));
      until([&] { return support::dead(child); });
      CHECK_THAT(heard, !Catch::Matchers::Contains("gone"));
    }
    CHECK_THAT(heard, Catch::Matchers::EndsWith("it gone. "));
  });
}

TEST_CASE("what is attached hears of a restart when it is asked for, and of no end") {
  std::string heard;
  coir::run([&] {
    int runs = 0;
    auto child = coir::spawn([&] {
      ++runs;
      coir::await(coir::sleep_for(std::chrono::hours(1)));
    });
    coir::await(coir::yield());
    block_of(child).attach(std::make_unique<notes>(&first_key, heard, "it"));
    CHECK(child.restart());
    CHECK(heard == "it restarted. ");
    until([&] { return runs == 2; });
    CHECK(heard == "it restarted. ");
    child.cancel();
  });
}
